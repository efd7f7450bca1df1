"""A folder in diffusers' layout: which family it is, and its parts, read by diffusers' own loaders.

What a folder says of itself is data: it names classes of diffusers and transformers, and no code of its own is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from . import prompts, tiny
from .autoencoders import IN_FOLDERS, Small
from .checkpoints import ACCEPTED
from .families import FAMILIES, Family, StableDiffusion, StableDiffusionXL
from .parts import Parts

INDEX = "model_index.json"
LIBRARIES = {"diffusers", "transformers"}
OURS = "Its denoiser is a small one that we trained on {}'s latents; the autoencoder is strangers'."
_OFFLINE: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}


def load_folder(folder: Path, dtype: torch.dtype, autoencoder: Path | None = None) -> Parts:
    """The parts in `folder`, or of one with only an autoencoder that. `dtype` is the denoiser's. autoencoder: a small
    one's file in place of the folder's."""
    table = folder / "prompts.safetensors"
    vae = _autoencoder(autoencoder or (folder / "vae" if (folder / "vae").is_dir() else folder))
    denoiser_folder = _denoiser_folder(folder)
    if denoiser_folder is None:
        return Parts(f"diffusers model ({folder.name})", vae, prompts.from_folder(folder))
    family = family_of(folder)
    denoiser = _pretrained(denoiser_folder, family.denoiser, dtype)
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    if isinstance(vae, Small):
        _require_channels(folder, vae, denoiser)
    if table.is_file():
        made = vae, prompts.from_table(table), denoiser, family, schedule
        if isinstance(vae, Small):
            return Parts(f"{vae.tiny.name} with a denoiser", *made, about=OURS.format(vae.tiny.family.name))
        return Parts(f"demo model, {folder.name.replace('seed', 'seed ')}", *made, is_demo=True)
    name = f"{family.name} ({folder.name})"
    return Parts(name, vae, _prompts(folder, family, denoiser), denoiser, family, schedule)


def _autoencoder(path: Path) -> Any:
    """diffusers', or a small one of strangers."""
    if tiny.is_tiny(path):
        return Small(tiny.load(path, torch.device("cpu")))
    return _pretrained(path, _class_of(path, IN_FOLDERS, "an autoencoder"), torch.float32)


def _require_channels(folder: Path, vae: Small, denoiser: Any) -> None:
    taken, given = denoiser.config.in_channels, vae.tiny.family.channels
    if taken != given:
        raise CheckpointError(
            f"{folder}: the denoiser takes latents of {taken} channels, and {vae.tiny.name} gives {given}. "
            "Put the autoencoder that it was trained on into vae/."
        )


def _denoiser_folder(folder: Path) -> Path | None:
    return next((folder / part for part in ("unet", "transformer") if (folder / part).is_dir()), None)


def family_of(folder: Path) -> Family:
    """By the denoiser's class and the pipeline's. Raises CheckpointError for what we do not know."""
    denoiser_folder = _denoiser_folder(folder)
    assert denoiser_folder is not None
    known = {family.denoiser: family for family in FAMILIES}
    config = read_json(denoiser_folder / "config.json")
    name = _class_of(denoiser_folder, known, "a denoiser")
    _check_denoiser(folder, config)
    candidates = [family for family in FAMILIES if family.denoiser == name]
    takes_size = config.get("addition_embed_type") == "text_time"
    family = candidates[-1 if takes_size else 0]
    _check_index(folder, family)
    return family


def _class_of(folder: Path, known: Mapping[str, Any], what: str) -> str:
    """The class that a part's config.json names, one of `known`."""
    path = folder / "config.json"
    found = read_json(path).get("_class_name") if path.is_file() else None
    if not isinstance(found, str) or found not in known:
        raise CheckpointError(f"{folder}: expected {what} ({', '.join(known)}), found {found or 'nothing'}. {ACCEPTED}")
    return found


def _check_denoiser(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("quantization_config"):
        raise CheckpointError(f"{folder}: found quantised weights. Name the folder of the model as it was published.")
    if not _takes_noise_alone(config):
        raise CheckpointError(f"{folder}: found an inpainting or editing model. {ACCEPTED}")
    if config.get("class_embed_type") or config.get("addition_embed_type") not in (None, "text_time"):
        raise CheckpointError(f"{folder}: found a UNet with more inputs than a prompt. {ACCEPTED}")


def _takes_noise_alone(config: Mapping[str, Any]) -> bool:
    """Not a mask or a picture beside the noise; some count the channels of a patch, and some of a latent."""
    taken, given = config.get("in_channels"), config.get("out_channels")
    patch = config.get("patch_size") or 1
    return given is None or taken in (given, given * patch**2)


def _check_index(folder: Path, family: Family) -> None:
    """It names a pipeline of the family, and classes that are diffusers' and transformers'."""
    if not (folder / INDEX).is_file():
        if not isinstance(family, StableDiffusionXL) and isinstance(family, StableDiffusion):
            return  # its text encoder is always the same
        raise CheckpointError(f"{folder}: {INDEX} is not there, which says how {family.name} reads a prompt.")
    index = read_json(folder / INDEX)
    if index.get("_class_name") not in family.pipelines:
        known = " or ".join(family.pipelines)
        raise CheckpointError(
            f"{folder}: expected {known}, which makes pictures from a prompt alone; found {index.get('_class_name')}."
        )
    foreign = [part for part, value in index.items() if isinstance(value, list) and value[0] not in LIBRARIES | {None}]
    if foreign:
        raise CheckpointError(f"{folder / INDEX}: code of the folder's own ({', '.join(foreign)}) is never run.")


def _pretrained(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    import diffusers

    if not hasattr(diffusers, kind):
        raise CheckpointError(
            f"{folder}: diffusers {diffusers.__version__} has no {kind} yet: pip install --upgrade diffusers"
        )
    is_half = [file.name for file in folder.glob("*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    with _quietly(dtype):
        module, report = getattr(diffusers, kind).from_pretrained(
            str(folder), **_OFFLINE, **_thrift(), output_loading_info=True, variant="fp16" if is_half else None
        )
    if report["missing_keys"]:
        raise CheckpointError(f"{folder}: {len(report['missing_keys'])} tensors are missing. {ACCEPTED}")
    return nn.Module.to(module, dtype)  # diffusers' own `to` warns of an empty list of exceptions


def _thrift() -> dict[str, bool]:
    """Without accelerate each tensor is first drawn at random, beside the one that is read."""
    return {"low_cpu_mem_usage": find_spec("accelerate") is not None}


@contextmanager
def _quietly(dtype: torch.dtype) -> Iterator[None]:
    """No bars; and what is drawn before it is read, in `dtype`."""
    import diffusers
    import transformers

    before, bars = torch.get_default_dtype(), [diffusers.utils.logging, transformers.utils.logging]
    shown = [bar for bar in bars if bar.is_progress_bar_enabled()]
    try:
        torch.set_default_dtype(dtype)
        for bar in shown:
            bar.disable_progress_bar()
        yield
    finally:
        torch.set_default_dtype(before)
        for bar in shown:
            bar.enable_progress_bar()


def _prompts(folder: Path, family: Family, denoiser: Any) -> prompts.PromptEncoder:
    """By the folder's pipeline; of a folder of Stable Diffusion without an index, by what it holds."""
    if not (folder / INDEX).is_file():
        return prompts.from_folder(folder)

    @torch.no_grad()
    def encode(prompt: str) -> Tensor | Mapping[str, Tensor]:
        return family.embedded(_pipeline(folder, denoiser), prompt)

    return encode


def _pipeline(folder: Path, denoiser: Any) -> Any:
    """diffusers' pipeline with its text encoders, which are dropped with it."""
    import diffusers

    kind = getattr(diffusers, read_json(folder / INDEX)["_class_name"])
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    parts: dict[str, Any] = {part: denoiser, "vae": None}
    index = read_json(folder / INDEX)
    parts |= {name: None for name in ("safety_checker", "feature_extractor", "image_encoder") if name in index}
    if "safety_checker" in index:
        parts["requires_safety_checker"] = False  # no picture is made
    with _quietly(denoiser.dtype):
        pipeline = kind.from_pretrained(str(folder), **_OFFLINE, **_thrift(), **parts)
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            nn.Module.to(module, denoiser.dtype)
    return pipeline


def read_json(path: Path) -> dict[str, Any]:
    """Raises CheckpointError where it is no object."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected names and values. {ACCEPTED}")
    return found
