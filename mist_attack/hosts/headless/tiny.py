"""A small autoencoder as a model of its own: TAESD and its kin, from a file of a few megabytes. Textural alone.

Needs neither diffusers nor transformers, whose layout of the same weights it reads too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from ...devices import require_working
from ...errors import CheckpointError
from ...surrogate import Objective, Result, Surrogate
from ..borrowing import heap
from ..borrowing.lending import frozen, named, recomputed
from .diffusers import fastest_format
from .tiny_files import Weights, read
from .tiny_modules import Block


class TinySurrogate:
    """`mist_attack.surrogate.Surrogate` over the two halves of a small autoencoder. Make one with `load`.

    It computes in float32. What the published encoders give is in the UNet's scale already; a diffusers folder may say
    otherwise (`scaling_factor`, `shift_factor`).
    """

    is_demo = False

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.name, self.device, self.sigmas = weights.name, device, torch.empty(0, device=device)
        self.family, self.scale, self.shift = weights.family, weights.scale, weights.shift
        self.encoder = _filled(weights.family.encoder, weights.encoder)
        self.decoder = None if weights.decoder is None else _filled(weights.family.decoder, weights.decoder)

    @property
    def modules(self) -> list[nn.Module]:
        return [half for half in (self.encoder, self.decoder) if half is not None]

    def encode(self, images: Tensor) -> Tensor:
        return (self.encoder(images) - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        if self.decoder is None:
            raise CheckpointError(f"{self.name} has no decoder beside it: put the family's decoder file there.")
        return self.decoder(latents / self.scale + self.shift).clamp(0, 1)

    def spatial_multiple(self, objective: Objective) -> int:
        del objective
        return self.family.factor

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> NoReturn:
        self._refuse(latents, noise, sigma)

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: object) -> NoReturn:
        self._refuse(noised_latents, sigma, conditioning)

    def conditioning(self, prompt: str) -> NoReturn:
        self._refuse(prompt)

    def _refuse(self, *_: object) -> NoReturn:
        raise CheckpointError(
            f"{self.name} is an autoencoder without a UNet: only the textural objective can use it. "
            "Choose --objective textural (--mode 1 of Mist's flags), or a whole model."
        )

    def run(
        self,
        job: Callable[[Surrogate], Result],
        batch: int,
        height: int,
        width: int,
        *,
        low_vram: bool = False,
    ) -> Result:
        memory = nullcontext() if low_vram else heap.reused(self.device)  # faster, at the price of some memory
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.modules), memory:
            for module in self.modules:
                module.to(self.device, memory_format=fastest_format(self.device))  # pyright: ignore[reportCallIssue]
            with recomputed(named(self.modules, {Block.__name__}) if low_vram else ()):
                return job(self)


def load(checkpoint: Path, device: torch.device) -> TinySurrogate:
    """The autoencoder in `checkpoint`, on the CPU; it moves to `device` when it is first run.

    `checkpoint` is the encoder's file (the decoder's beside it serves too), a file with both halves, a folder with such
    files of one autoencoder, or a diffusers folder of an AutoencoderTiny. Raises CheckpointError that says what was
    found instead; DeviceError.
    """
    require_working(device)
    with torch.inference_mode(False):
        return TinySurrogate(read(checkpoint), device)


def _filled(make: Callable[[], nn.Sequential], weights: dict[str, Tensor]) -> nn.Sequential:
    with torch.device("meta"):
        module = make()
    module.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return module
