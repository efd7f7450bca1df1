"""How far pictures are from a style: Frechet distance of what an autoencoder makes of small parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..budget import to_unit
from ..surrogate import Surrogate

NEIGHBOURS = 2  # by as many latents: with f = 8, 16 x 16 pixels


@dataclass(frozen=True)
class Style:
    """A Gaussian fitted to features of pictures. mean: (D,), spread: (D, D), both float64."""

    mean: np.ndarray
    spread: np.ndarray


@torch.no_grad()
def style_of(surrogate: Surrogate, pictures: Sequence[Tensor]) -> Style:
    """Of (1, 3, H, W) uint8 pictures, sides multiples of the model's; within `Surrogate.run`. See `fitted`."""
    return fitted([surrogate.encode(to_unit(picture).to(surrogate.device)) for picture in pictures])


def fitted(latents: Sequence[Tensor]) -> Style:
    """Of pictures' latents, (1, C, h, w) each, in the denoiser's scale.

    A feature is what lies in 2 x 2 neighbouring latents of a picture, D = 4 * C numbers, taken at every place:
    colours, contrasts and their direction, but not what is shown. One picture of 256 x 256 pixels has 961 of them at
    f = 8, against D = 16 of four channels, so that twelve pictures fit the Gaussian well. Nothing is inverted, and no
    spread needs to be shrunk."""
    features = [nn.functional.unfold(z, NEIGHBOURS)[0].double().cpu().numpy() for z in latents]
    together = np.concatenate(features, axis=1)
    return Style(together.mean(1), np.cov(together))


def frechet(some: Style, others: Style) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)): Heusel et al. 2017, arXiv 1706.08500, eq. 6.

    The root's trace is that of (A S2 A)^(1/2), A^2 = S1, which is symmetric."""
    root = _root(some.spread)
    cross = np.sqrt(np.linalg.eigvalsh(root @ others.spread @ root).clip(min=0)).sum()
    apart = np.square(some.mean - others.mean).sum()
    return max(0.0, float(apart + np.trace(some.spread) + np.trace(others.spread) - 2 * cross))


def _root(spread: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(spread)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
