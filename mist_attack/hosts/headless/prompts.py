"""Prompts as the UNet reads them, from each of the three places where a headless model keeps its text encoder.

Text encoders are read when a prompt is asked for and dropped again: they are as large as a third of the UNet.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import CheckpointError, quoted
from .checkpoints import read_tensors

PromptEncoder = Callable[[str], Tensor]
"""Prompt -> (1, tokens, width) float32 on the CPU. Raises CheckpointError where it cannot."""

FIXED_PROMPTS = {
    "": (),
    "a painting": (320, 3086),
    "a photo": (320, 1125),
    "a drawing": (320, 3610),
    "line art": (1148, 794),
}
"""Tokens of CLIP ViT-L/14's vocabulary. A single-file checkpoint brings no vocabulary."""

START, END, LENGTH = 49406, 49407, 77
TEXT = "cond_stage_model.transformer."


def from_table(path: Path) -> PromptEncoder:
    """The demo model's learned embeddings, one per prompt."""
    table = load_file(path)

    def encode(prompt: str) -> Tensor:
        if prompt not in table:
            raise _unknown(prompt, table, "The demo model has no text encoder.")
        return table[prompt][None].float()

    return encode


def from_file(path: Path, config: Path) -> PromptEncoder:
    """The text encoder inside a single-file checkpoint, for FIXED_PROMPTS."""

    def encode(prompt: str) -> Tensor:
        if prompt not in FIXED_PROMPTS:
            raise _unknown(
                prompt, FIXED_PROMPTS, "A single file has no vocabulary; a diffusers folder takes any prompt."
            )
        tokens = (START, *FIXED_PROMPTS[prompt])
        padded = torch.tensor([tokens + (END,) * (LENGTH - len(tokens))], device="cpu")
        return _last_hidden_state(_text_encoder(path, config), padded)

    return encode


def from_folder(folder: Path) -> PromptEncoder:
    """The tokenizer and text encoder of a diffusers folder, for any prompt."""

    def encode(prompt: str) -> Tensor:
        for part in ("tokenizer", "text_encoder"):
            if not (folder / part).is_dir():
                raise CheckpointError(f"{folder} has no {part}/, so it cannot read the prompt {quoted(prompt)}.")
        from transformers import CLIPTextModel, CLIPTokenizer

        encoder = CLIPTextModel.from_pretrained(str(folder / "text_encoder"), local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        length = encoder.config.max_position_embeddings
        tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return _last_hidden_state(encoder, tokens.input_ids)

    return encode


def _unknown(prompt: str, known: Any, why: str) -> CheckpointError:
    listed = ", ".join(repr(name) for name in sorted(known))
    return CheckpointError(f"The prompt {quoted(prompt)} cannot be encoded: {why} Known prompts: {listed}.")


def _last_hidden_state(encoder: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder.eval().float()(tokens).last_hidden_state


def _text_encoder(path: Path, config: Path) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    settings = json.loads((config / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    encoder = CLIPTextModel(CLIPTextConfig(**settings))
    prefix = "text_model." if hasattr(encoder, "text_model") else ""  # gone since transformers 5
    weights = {
        prefix + key.removeprefix(TEXT).removeprefix("text_model."): tensor
        for key, tensor in read_tensors(path).items()
        if key.startswith(TEXT)
    }
    missing = encoder.state_dict().keys() - weights.keys()
    if missing:
        raise CheckpointError(f"{path} has no complete text encoder: {len(missing)} tensors are missing.")
    encoder.load_state_dict(weights, strict=False, assign=True)  # old files also hold position_ids
    return encoder
