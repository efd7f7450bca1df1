"""Muon for matrices and convolutions, AdamW for the rest.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, scaled to AdamW's step as in Liu et al. 2025
(arXiv 2502.16982). torch.optim.Muon takes matrices alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM, DECAY = 0.95, 0.01
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic that sends singular values of (0, 1] to about 1
ITERATIONS = 5


class Muon:
    """An optimizer of one learning rate; `state_dict` and `load_state_dict` as torch's have."""

    def __init__(self, parameters: Iterable[Tensor], rate: float) -> None:
        parameters = list(parameters)
        self.rate = rate
        self.matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        self.momenta = [torch.zeros_like(matrix) for matrix in self.matrices]
        self.rest = torch.optim.AdamW(
            [parameter for parameter in parameters if parameter.ndim < 2], rate, betas=(0.9, 0.98), weight_decay=DECAY
        )

    @torch.no_grad()
    def step(self) -> None:
        for matrix, momentum in zip(self.matrices, self.momenta, strict=True):
            if matrix.grad is not None:
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                direction = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                matrix.mul_(1 - self.rate * DECAY).add_(direction, alpha=-self.rate)
        for group in self.rest.param_groups:
            group["lr"] = self.rate
        self.rest.step()

    def state_dict(self) -> dict[str, Any]:
        return {"momenta": self.momenta, "rest": self.rest.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self.rest.load_state_dict(state["rest"])


def orthogonal(gradient: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix, outputs by the rest, by Newton and Schulz's iteration; the entries'
    root mean square is 0.2, AdamW's usual step."""
    matrix = gradient.flatten(1)
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    x = x.T if tall else x
    return x.reshape(gradient.shape) * (0.2 * max(matrix.shape) ** 0.5)
