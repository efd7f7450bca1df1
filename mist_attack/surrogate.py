"""The narrow interface: all that the engine may ask of a model, whichever host has loaded it.

`Surrogate` is the field's word for the model one attacks in place of the adversary's. Latents are float32 and in
the denoiser's scale (scale and shift applied); images are float32 (B, 3, H, W) in [0, 1]; a noise level means what the
model's `noising` says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .errors import CheckpointError
from .needs import Objective as Objective
from .noising import Noising

Conditioning = Any
"""A prompt in the model's own form: made and consumed by the same adapter, opaque to the engine."""

Result = TypeVar("Result")

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, ROCm, XPU, MPS
    "can't allocate memory",  # CPU, Linux
    "not enough memory",  # CPU, Windows
    "ALLOC_FAILED",  # cuBLAS and cuDNN, which allocate for themselves
    "Could not allocate tensor",  # DirectML
)


class Surrogate(Protocol):
    """A model as the engine sees it. `tests/test_surrogate_contract.py` is this contract as tests."""

    name: str
    """What reports call the model."""

    device: torch.device
    """Where images, latents and generators must live while a job runs."""

    sigmas: Tensor
    """(T,) float32, increasing noise levels of the family's own schedule, shifted as it has them, or the few that a
    distilled model knows; a *timestep* is an index into it. Empty where only the autoencoder is there: then only
    `textural` works."""

    noising: Noising
    """How noise is added, and what the denoiser is trained on."""

    differentiable: bool
    """Gradients go through `denoise`. Else it is only asked for predictions, and raises CheckpointError where a
    gradient is wanted: enough for `sds`."""

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H/f, W/f): the posterior's mean, not a sample. Differentiable."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h*f, w*f) in [0, 1]. For reports, never in the loop."""
        ...

    def spatial_multiple(self, objective: Objective) -> int:
        """Pixels: H and W must be multiples of it (textural: the autoencoder's f; else the UNet's too)."""
        ...

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicted clean latents, float32. Differentiable.

        sigma is (B,) and holds members of `sigmas`."""
        ...

    def conditioning(self, prompt: str) -> Conditioning:
        """The prompt encoded, for a batch of any size; asked for before `run`, so that a host can load its text
        encoder first. Raises CheckpointError where the model cannot."""
        ...

    def lora(self, rank: int, seed: int) -> AbstractContextManager[list[Any]]:
        """Within `run`, while open: a LoRA of that rank on the denoiser's attention, which changes nothing until it is
        trained. Its weights: float32 leaves on `device`, for each layer (rank, inputs) and (outputs, rank); their
        gradient is that of a `denoise` whose latents want one, too. The model is as it was afterwards, on every exit.
        Raises CheckpointError where there is no denoiser, or no derivative."""
        ...

    def run(
        self,
        job: Callable[[Surrogate], Result],
        batch: int,
        height: int,
        width: int,
        *,
        low_vram: bool = False,
    ) -> Result:
        """Call `job(ready_surrogate)` and return its result.

        While it runs the model is on `device`, gradients are possible, parameters are frozen, no tensor is an
        inference tensor, and the host was asked for the memory of a forward and backward at (batch, 3, height,
        width). `low_vram` recomputes activations in the backward: at most one more forward of each module.
        Whatever the host lent is restored on every exit.
        """
        ...


def require_trainable(surrogate: Surrogate) -> None:
    """Raises CheckpointError for a model on which no LoRA can be trained."""
    if len(surrogate.sigmas) == 0:
        raise CheckpointError(
            f"{surrogate.name} is an autoencoder without a denoiser: there is nothing to fine-tune. Choose a whole "
            "model, or protect single pictures with the textural objective."
        )
    if not surrogate.differentiable:
        raise CheckpointError(
            f"{surrogate.name}: nobody has checked its derivative, so no LoRA can be trained on it. Protect single "
            "pictures, with the gradient sds, or choose another model."
        )


def out_of_memory(error: BaseException) -> bool:
    """Memory ran out: on an accelerator, or on the CPU, where torch raises a bare RuntimeError."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
