"""Mist v1's own loop (Liang & Wu 2023, arXiv 2305.12683), written from its description, to be compared with.

Each step encodes the target, the picture and a random crop of the picture and samples each posterior, encodes the
prompt three times, computes the gradients of the UNet's weights along with the picture's, checkpoints the UNet's
blocks, and attends and activates (in the autoencoder) by explicit products: as the published program does. Pictures
are (1, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..hosts.borrowing import heap
from ..hosts.borrowing.lending import fastest_format, instance_attributes, named, recomputed
from ..hosts.headless.diffusers import RECOMPUTED, DiffusersSurrogate
from ..needs import NEEDS, Objective
from ..objectives import MIST_LATENTS
from ..surrogate import Surrogate

RATE = 10_000.0  # 10^(fusion weight 1 + 3)
Prompt = Callable[[], Tensor]


class Loss(Protocol):
    def gradient(self, x: Tensor) -> Tensor:
        """At x, a picture in [-1, 1]."""
        ...


class MistV1:
    """sum((z(x) - z(target))^2) - rate * denoising loss, and its gradient.

    A sum against a mean: away from its own 512 px the rate is scaled, so that the balance stays the published one.

    prompt: encodes the prompt, (1, tokens, width). objective: "fused" or "textural".
    """

    def __init__(
        self, surrogate: DiffusersSurrogate, target: Tensor, prompt: Prompt, objective: Objective = "fused"
    ) -> None:
        self.vae, self.unet = surrogate.vae, _unet(surrogate)
        self.alphas = 1 / (1 + surrogate.sigmas.square())  # cumulative products
        self.target, self.prompt = target, prompt
        self.objective: Objective = objective

    def loss(self, x: Tensor) -> Tensor:
        zx, zy = self._latents(x), self._latents(self.target)
        loss = (zx - zy).square().sum()
        if not NEEDS[self.objective].denoiser:
            return loss
        rate = RATE * zx.numel() / MIST_LATENTS
        return loss - rate * self._denoising_loss(self._latents(self._crop(x)))

    def gradient(self, x: Tensor) -> Tensor:
        """At x. The UNet's weights accumulate theirs, which nobody uses."""
        x = x.detach().requires_grad_()
        self.loss(x).backward()
        assert x.grad is not None
        return x.grad

    def _latents(self, x: Tensor) -> Tensor:
        self.context = self.prompt()
        return self.vae.config.scaling_factor * self._posterior(x).sample()

    def _posterior(self, x: Tensor) -> Any:
        return self.vae.encode(x).latent_dist

    def _crop(self, x: Tensor) -> Tensor:
        """The random crop of a picture of the crop's size."""
        return x.clone()

    def _denoising_loss(self, z: Tensor) -> Tensor:
        t = torch.randint(len(self.alphas), (1,), device=z.device)
        alpha, noise = self.alphas[t].view(-1, 1, 1, 1), torch.randn_like(z)
        predicted = self.unet(
            (alpha.sqrt() * z + (1 - alpha).sqrt() * noise).to(self.unet.dtype), t, self.context
        ).sample
        return (predicted.float() - noise).square().mean()


class MistV1Once(MistV1):
    """The same function, random draws included, in fewer passes: each picture is encoded once a step, and the target
    once. For what the steps reach, where their cost is not asked."""

    def __init__(
        self, surrogate: DiffusersSurrogate, target: Tensor, prompt: Prompt, objective: Objective = "fused"
    ) -> None:
        super().__init__(surrogate, target, prompt, objective)
        with torch.no_grad():
            self.known = target, super()._posterior(target)
        self.seen = self.known

    def _posterior(self, x: Tensor) -> Any:
        if x is self.known[0]:
            return self.known[1]
        if x is not self.seen[0]:
            self.seen = x, super()._posterior(x)
        return self.seen[1]

    def _crop(self, x: Tensor) -> Tensor:
        return x


class MistV1Fixed(MistV1):
    """On an autoencoder that has no posterior to sample; each picture is encoded once a step, and the target once."""

    def __init__(
        self, surrogate: DiffusersSurrogate, target: Tensor, prompt: Prompt, objective: Objective = "fused"
    ) -> None:
        super().__init__(surrogate, target, prompt, objective)
        self.encode = surrogate.encode
        with torch.no_grad():
            self.known = self.seen = target, self._encoded(target)

    def _latents(self, x: Tensor) -> Tensor:
        self.context = self.prompt()
        if x is self.known[0]:
            return self.known[1]
        if x is not self.seen[0]:
            self.seen = x, self._encoded(x)
        return self.seen[1]

    def _encoded(self, x: Tensor) -> Tensor:
        return self.encode(x / 2 + 0.5)

    def _crop(self, x: Tensor) -> Tensor:
        return x


class MistV1Textural:
    """sum((z(x) - z(target))^2) on a model that has no posterior to sample and no UNet. Within `Surrogate.run`."""

    def __init__(self, ready: Surrogate, target: Tensor) -> None:
        self.ready = ready
        with torch.no_grad():
            self.latents = self._encoded(target)

    def gradient(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((self._encoded(x) - self.latents).square().sum(), x)
        return gradient

    def _encoded(self, x: Tensor) -> Tensor:
        return self.ready.encode(x / 2 + 0.5)


def mist_v1(loss: Loss, x0: Tensor, epsilon: float, steps: int) -> Tensor:
    """Sign steps of 1 / 255 from a random start, clipped to the budget. x0: in [-1, 1]; epsilon: in levels."""
    reach, size = 2 * epsilon / 255, 2 / 255
    x = (x0 + torch.empty_like(x0).uniform_(-reach, reach)).clamp(-1, 1)
    for _ in range(steps):
        x = x - size * loss.gradient(x).sign()
        x = torch.minimum(torch.maximum(x, x0 - reach), x0 + reach).clamp(-1, 1)
    return x


@contextmanager
def as_published(surrogate: DiffusersSurrogate) -> Iterator[None]:
    """The modules as the published program has them: explicit attention and, in the autoencoder, explicit swish,
    weights of the UNet that want gradients, checkpointed blocks, contiguous memory. Within `Surrogate.run`, and
    afterwards as that has them."""
    from diffusers.models.attention_processor import Attention, AttnProcessor
    from diffusers.models.resnet import ResnetBlock2D

    vae, unet = surrogate.vae, _unet(surrogate)
    modules: list[Any] = [vae, unet]
    processors = [module.attn_processors for module in modules]
    changed: dict[nn.Module, dict[str, Any]] = {}
    for module, activation in ((vae, _swish), (unet, nn.functional.silu)):
        for layer in module.modules():
            if isinstance(layer, Attention):
                changed[layer] = {"get_attention_scores": partial(_scores, layer.scale)}
            elif isinstance(layer, ResnetBlock2D):
                changed[layer] = {"forward": partial(_residual, layer, activation)}
    changed[vae.encoder.conv_act] = {"forward": _swish}
    with instance_attributes(changed), heap.given_back(surrogate.device):
        try:
            for module in modules:
                module.set_attn_processor(AttnProcessor())
                module.to(memory_format=torch.contiguous_format)
            unet.requires_grad_(True)
            with recomputed(named([unet], RECOMPUTED)):
                yield
        finally:
            unet.requires_grad_(False)
            for parameter in unet.parameters():
                parameter.grad = None
            for module, before in zip(modules, processors, strict=True):
                module.set_attn_processor(before)
                module.to(memory_format=fastest_format(surrogate.device))


def _residual(block: Any, activation: Callable[[Tensor], Tensor], x: Tensor, temb: Tensor | None = None) -> Tensor:
    h = block.conv1(activation(block.norm1(x)))
    if temb is not None:
        h = h + block.time_emb_proj(activation(temb))[:, :, None, None]
    h = block.conv2(activation(block.norm2(h)))
    return (x if block.conv_shortcut is None else block.conv_shortcut(x)) + h


def _scores(scale: float, query: Tensor, key: Tensor, mask: None = None) -> Tensor:
    """softmax(Q K^T / sqrt(width)), (heads, queries, keys); no part of Stable Diffusion v1 masks."""
    return (query @ key.transpose(-1, -2) * scale).softmax(-1)


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _unet(surrogate: DiffusersSurrogate) -> Any:
    assert surrogate.unet is not None
    return surrogate.unet
