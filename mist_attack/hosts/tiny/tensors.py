"""Small autoencoders by their tensors: which half, of which family, in whichever layout. Raises CheckpointError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ...errors import CheckpointError
from .modules import FAMILIES, Family

Half = Literal["encoder", "decoder"]
KEY = re.compile(r"(?:(?:taesd_)?(encoder|decoder)\.)?(layers\.)?(\d+)\.(.+)")
"""Of a tensor: as published, one half to a file; as ComfyUI has both in one; and in diffusers' layout."""
ACCEPTED = (
    "Accepted: the encoder of TAESD, TAESDXL, TAESD3, TAEF1, TAEF2 or TAESANA as .pth or .safetensors, or a folder "
    "with one of them."
)


def is_tiny(tensors: Mapping[str, Tensor]) -> bool:
    """Of this kind, whole or not: layers with numbers, and blocks of convolutions among them."""
    return any(KEY.fullmatch(key) and key.endswith(".conv.0.weight") for key in tensors)


def halves(tensors: Mapping[str, Tensor]) -> dict[Half, dict[str, Tensor]]:
    """By half, each tensor by its name in `Family`'s modules. Diffusers' decoders leave out the first layer."""
    found: dict[Half, dict[str, Tensor]] = {}
    alone = _half_alone(tensors)
    for key, tensor in tensors.items():
        if match := KEY.fullmatch(key):
            half: Half = "decoder" if (match[1] or alone) == "decoder" else "encoder"
            number = int(match[3]) + (half == "decoder" and match[2] is not None)
            found.setdefault(half, {})[f"{number}.{match[4]}"] = tensor
    return found


def _half_alone(tensors: Mapping[str, Tensor]) -> Half:
    """Of a file whose keys do not say it: a decoder ends with a picture."""
    last = max((int(match[3]) for key in tensors if (match := KEY.fullmatch(key))), default=0)
    ends = tensors.get(f"{last}.weight")
    return "decoder" if ends is not None and ends.shape[0] == 3 else "encoder"


def family_of(half: Half, tensors: Mapping[str, Tensor], where: str) -> Family:
    """The one whose modules these tensors fill. where: of whom a message speaks."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for family in FAMILIES:
        if shapes == _shapes(family, half):
            return family
    raise CheckpointError(f"{where}: found {_other(half, shapes)}. {ACCEPTED}")


@cache
def _shapes(family: Family, half: Half) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = family.make(half)
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def _other(half: Half, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What is not of a known family."""
    for family in FAMILIES:
        known = _shapes(family, half)
        if shapes.items() < known.items() and len(shapes) > len(known) / 2:
            missing = next(key for key in known if key not in shapes)
            return f"the {half} of {family.name} without {len(known) - len(shapes)} of its tensors ({missing} ...)"
    numbers = {int(key.partition(".")[0]) for key in shapes}
    first, last = (shapes.get(f"{pick(numbers)}.weight", (0, 0)) for pick in (min, max))
    changes = sum(_changes_scale(key, shapes) for key in shapes)
    return (
        f"the {half} of a small autoencoder of no known family ({first[1]} channels in, {last[0]} out, the scale "
        f"changed {changes} times)"
    )


def _changes_scale(key: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The convolutions that do are those without a bias."""
    number, _, rest = key.partition(".")
    return rest == "weight" and f"{number}.bias" not in shapes
