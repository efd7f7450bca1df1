"""What a loaded model is made of, whichever way its files were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .families import Family, StableDiffusion
from .prompts import PromptEncoder


@dataclass(frozen=True)
class Parts:
    """name: for reports. denoiser: None of an autoencoder alone. schedule: a scheduler's config in diffusers' words.
    about: a sentence that every report of it must say."""

    name: str
    vae: Any
    encode_prompt: PromptEncoder
    denoiser: Any | None = None
    family: Family = field(default_factory=StableDiffusion)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    is_demo: bool = False
    about: str = ""
