"""A small autoencoder as a model of its own, for the textural objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...noising import Added, Noising
from ...surrogate import Objective, Result, Surrogate, require_trainable
from ..borrowing.lending import fastest_format, frozen, named, recomputed
from .modules import Block, Family
from .tensors import Half

Weights = Mapping[str, Tensor]


class TinySurrogate:
    """`mist_attack.surrogate.Surrogate` over the two halves of a small autoencoder, in float32.

    What published encoders give is in the UNet's scale; where a folder says otherwise, latents are
    (encoded - shift) * scale.
    """

    is_demo = False

    def __init__(
        self,
        name: str,
        family: Family,
        encoder: Weights,
        decoder: Weights | None,
        device: torch.device,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        self.name, self.family, self.device, self.sigmas = name, family, device, torch.empty(0, device=device)
        self.noising: Noising = Added()
        self.differentiable = False
        self.scale, self.shift = scale, shift
        self.encoder = _filled(family, "encoder", encoder)
        self.decoder = None if decoder is None else _filled(family, "decoder", decoder)

    @property
    def modules(self) -> list[nn.Module]:
        return [half for half in (self.encoder, self.decoder) if half is not None]

    def encode(self, images: Tensor) -> Tensor:
        return (self.encoder(images) - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        if self.decoder is None:
            raise CheckpointError(f"{self.name} has no decoder beside it, and so no picture of its latents.")
        return self.decoder(latents / self.scale + self.shift).clamp(0, 1)

    def spatial_multiple(self, objective: Objective) -> int:
        del objective
        return self.family.factor

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: object) -> NoReturn:
        self._refuse(noised_latents, sigma, conditioning)

    def conditioning(self, prompt: str) -> NoReturn:
        self._refuse(prompt)

    def _refuse(self, *_: object) -> NoReturn:
        raise CheckpointError(
            f"{self.name} is an autoencoder without a UNet: only the textural objective can use it. "
            "Choose textural (--objective textural, or Mist's --mode 1), or a whole model."
        )

    def lora(self, rank: int, seed: int) -> NoReturn:
        """There is none."""
        require_trainable(self)
        raise AssertionError

    def run(
        self,
        job: Callable[[Surrogate], Result],
        batch: int,
        height: int,
        width: int,
        *,
        low_vram: bool = False,
    ) -> Result:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(self.device.type, enabled=False),
            frozen(self.modules),
        ):
            for module in self.modules:
                module.to(self.device, memory_format=fastest_format(self.device))  # pyright: ignore[reportCallIssue]
            with recomputed(named(self.modules, {Block.__name__}) if low_vram else ()):
                return job(self)


def _filled(family: Family, half: Half, weights: Weights) -> nn.Sequential:
    with torch.device("meta"):
        module = family.make(half)
    module.load_state_dict({name: tensor.float().clone() for name, tensor in weights.items()}, assign=True)
    return module
