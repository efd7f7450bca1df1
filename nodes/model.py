"""From the graph's model, VAE and prompt to the engine's surrogate; what a mode lacks is said first."""

from __future__ import annotations

from typing import Any

from ..mist_attack.controls import BY_NAME
from ..mist_attack.errors import CheckpointError, quoted
from ..mist_attack.needs import NEEDS

ABSENT: Any = object()
"""Default of an input of `validate_inputs`: the host passes None for a linked input and nothing for an empty one."""


def lacking(mode: str, *, model: bool, prompt: bool) -> str | None:
    """What must still be connected for this mode, as a sentence."""
    if not NEEDS[mode].denoiser or (model and prompt):
        return None
    missing = ["model"] * (not model) + ["clip (or a conditioning)"] * (not prompt)
    return (
        f"The {mode} mode works through the whole model: connect {' and '.join(missing)} of the loaded checkpoint, "
        "or choose the textural mode, which needs the VAE alone."
    )


def check_links(mode: str | None, model: Any, clip: Any, conditioning: Any) -> str | bool:
    """For `validate_inputs`: True, or the sentence that the page shows before anything runs."""
    if mode is None:  # comes from another node: checked when it is known
        return True
    modes = BY_NAME["objective"].offered
    if mode not in modes:
        return f"Expected a mode of {', '.join(modes)}; got {quoted(mode)}."
    prompt = clip is not ABSENT or conditioning is not ABSENT
    return lacking(mode, model=model is not ABSENT, prompt=prompt) or True


def surrogate_for(mode: str, vae: Any, model: Any, clip: Any, conditioning: Any) -> Any:
    """The host's model as the engine's surrogate. Raises CheckpointError for what is missing or refused."""
    message = lacking(mode, model=model is not None, prompt=clip is not None or conditioning is not None)
    if message:
        raise CheckpointError(message)
    from ..mist_attack.hosts.comfyui.adapter import ComfySurrogate

    if not NEEDS[mode].denoiser:
        return ComfySurrogate(vae)
    return ComfySurrogate(vae, model=model, clip=clip, positive=conditioning)
