"""Prompts as the denoiser reads them, from each of the places where a headless model keeps its text encoder.

Text encoders are read when a prompt is asked for and dropped again: they are as large as a third of the UNet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import CheckpointError, quoted
from .checkpoints import SD_V1_KIND, SD_V2_KIND, SD_XL_KIND, read_tensors

Embedded = Tensor | Mapping[str, Tensor]
PromptEncoder = Callable[[str], Embedded]
"""Prompt -> (1, ...) tensors on the CPU, as the family has them. Raises CheckpointError where it cannot."""

FIXED_PROMPTS = {
    "": (),
    "a painting": (320, 3086),
    "a photo": (320, 1125),
    "a drawing": (320, 3610),
    "line art": (1148, 794),
}
"""Tokens of CLIP ViT-L/14's vocabulary. A single-file checkpoint brings no vocabulary."""

START, END, LENGTH = 49406, 49407, 77


@dataclass(frozen=True)
class Clip:
    """One text encoder of a single file. folder: of its config. prefix: of its tensors. padding: a token."""

    folder: str
    prefix: str
    padding: int = END
    is_open_clip: bool = False


TEXT_ENCODERS = {
    SD_V1_KIND: (Clip("text_encoder", "cond_stage_model.transformer."),),
    SD_V2_KIND: (Clip("text_encoder", "cond_stage_model.model.", padding=0, is_open_clip=True),),
    SD_XL_KIND: (
        Clip("text_encoder", "conditioner.embedders.0.transformer."),
        Clip("text_encoder_2", "conditioner.embedders.1.model.", padding=0, is_open_clip=True),
    ),
}


def from_table(path: Path) -> PromptEncoder:
    """Learned embeddings, one per prompt, of the denoisers that we trained."""
    table = load_file(path)

    def encode(prompt: str) -> Tensor:
        if prompt not in table:
            raise _unknown(prompt, table, "A model of ours has no text encoder.")
        return table[prompt][None].float()

    return encode


def from_file(path: Path, config: Path, kind: str) -> PromptEncoder:
    """The text encoders inside a single-file checkpoint, for FIXED_PROMPTS."""

    def encode(prompt: str) -> Embedded:
        if prompt not in FIXED_PROMPTS:
            raise _unknown(
                prompt, FIXED_PROMPTS, "A single file has no vocabulary; a diffusers folder takes any prompt."
            )
        if len(TEXT_ENCODERS[kind]) == 1:
            (clip,) = TEXT_ENCODERS[kind]
            return _last_hidden_state(_text_encoder(path, config, clip), _tokens(prompt, clip))
        return _of_both(path, config, kind, prompt)

    return encode


@torch.no_grad()
def _of_both(path: Path, config: Path, kind: str, prompt: str) -> dict[str, Tensor]:
    """SDXL's: the last states but one of both, and what the second makes of the whole."""
    states: list[Tensor] = []
    pooled = None
    for clip in TEXT_ENCODERS[kind]:
        encoder = _text_encoder(path, config, clip).eval().float()
        answer = encoder(_tokens(prompt, clip), output_hidden_states=True)
        states.append(answer.hidden_states[-2])
        pooled = answer[0]
    assert pooled is not None
    return {"states": torch.cat(states, dim=-1), "pooled": pooled}


def _tokens(prompt: str, clip: Clip) -> Tensor:
    tokens = (START, *FIXED_PROMPTS[prompt], END)
    return torch.tensor([tokens + (clip.padding,) * (LENGTH - len(tokens))], device="cpu")


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


def _text_encoder(path: Path, config: Path, clip: Clip) -> Any:
    import transformers

    settings = json.loads((config / clip.folder / "config.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, settings["architectures"][0])
    encoder = kind(transformers.CLIPTextConfig(**settings))
    wanted = encoder.state_dict().keys()
    prefix = "text_model." if any(name.startswith("text_model.") for name in wanted) else ""  # not in transformers 5
    found = {
        name if name.startswith("text_projection") else prefix + name.removeprefix("text_model."): tensor
        for name, tensor in _weights(path, encoder, clip).items()
    }
    missing = wanted - found.keys()
    if missing:
        raise CheckpointError(f"{path} has no complete text encoder: {len(missing)} tensors are missing.")
    encoder.load_state_dict(found, strict=False, assign=True)  # old files also hold position_ids
    return encoder


def _weights(path: Path, encoder: Any, clip: Clip) -> dict[str, Tensor]:
    tensors = {key: tensor for key, tensor in read_tensors(path).items() if key.startswith(clip.prefix)}
    if not clip.is_open_clip:
        return {key.removeprefix(clip.prefix): tensor for key, tensor in tensors.items()}
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    return convert_open_clip_checkpoint(encoder, tensors, prefix=clip.prefix)
