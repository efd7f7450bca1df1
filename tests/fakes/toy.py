"""A surrogate of a thousand parameters: what the engine's tests run on, in float64 where a test wants precision."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from mist_attack.errors import CheckpointError
from mist_attack.hosts.borrowing.adapting import low_rank
from mist_attack.needs import NEEDS
from mist_attack.noising import Added, Flow
from mist_attack.surrogate import require_trainable


class ToySurrogate:
    """f = 8, 4 latent channels, Stable Diffusion's noise schedule, smooth layers; prompts are any strings.

    `dtype` is that of parameters, images and latents, `device` where they are. `vae_only` leaves out the denoiser.
    """

    scaling_factor, noising, differentiable = 0.6, Added(), True

    def __init__(
        self,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        *,
        vae_only: bool = False,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> None:
        self.name, self.device, self.dtype = f"toy, seed {seed}", device, dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.Tanh(), nn.Conv2d(12, 8, 2, 2)).to(dtype)
            self.decoder = nn.Sequential(nn.ConvTranspose2d(4, 3, 8, 8), nn.Sigmoid()).to(dtype)
            self.denoiser = None if vae_only else ToyDenoiser().to(dtype)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas_cumprod = (1 - betas).cumprod(0)
        self.sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().to(device, dtype)
        for module in self.modules:
            module.to(device)
        if vae_only:
            self.sigmas = self.sigmas[:0]
        self._low_vram = False

    @property
    def modules(self) -> list[nn.Module]:
        return [module for module in (self.encoder, self.decoder, self.denoiser) if module is not None]

    def encode(self, images):
        mean, _ = self._call(self.encoder, images * 2 - 1).chunk(2, dim=1)
        return 4 * mean * self.scaling_factor

    def decode(self, latents):
        return self.decoder(latents / self.scaling_factor / 4)

    def spatial_multiple(self, objective):
        return 16 if NEEDS[objective].denoiser else 8

    def denoise(self, noised_latents, sigma, conditioning):
        if self.denoiser is None:
            raise CheckpointError(f"{self.name} is an autoencoder alone.")
        sigma = sigma.view(-1, 1, 1, 1)
        scaled = noised_latents * (1 + sigma**2).rsqrt()
        return noised_latents - sigma * self._call(self.denoiser, scaled, sigma.log(), conditioning)

    def conditioning(self, prompt):
        if self.denoiser is None:
            raise CheckpointError(f"{self.name} takes no prompt.")
        with torch.inference_mode(False):
            generator = torch.Generator().manual_seed(sum(prompt.encode()))
            return torch.randn(1, 6, generator=generator, dtype=self.dtype, device="cpu").to(self.device)

    def lora(self, rank, seed):
        require_trainable(self)
        return low_rank(self.denoiser, rank, seed, self.device)

    def run(self, job, batch, height, width, *, low_vram=False):
        state = [(p, p.requires_grad) for module in self.modules for p in module.parameters()]
        modes = [(layer, layer.training) for module in self.modules for layer in module.modules()]
        outer, self._low_vram = self._low_vram, low_vram
        try:
            for module in self.modules:
                module.eval().requires_grad_(False)
            with torch.inference_mode(False), torch.enable_grad():
                return job(self)
        finally:
            self._low_vram = outer
            for parameter, wanted in state:
                parameter.requires_grad_(wanted)
            for layer, training in modes:
                layer.training = training

    def _call(self, module, *inputs):
        return recompute(module, *inputs, use_reentrant=False) if self._low_vram else module(*inputs)


class ToyFlow(ToySurrogate):
    """Rectified flow, with the schedule and the shift of Stable Diffusion 3."""

    noising = Flow()

    def __init__(self, seed=0, dtype=torch.float32, **options):
        super().__init__(seed, dtype, **options)
        times = torch.arange(1, 1001, dtype=torch.float64) / 1000
        self.sigmas = (3 * times / (1 + 2 * times)).to(self.device, dtype)[: len(self.sigmas)]

    def denoise(self, noised_latents, sigma, conditioning):
        sigma = sigma.view(-1, 1, 1, 1)
        return noised_latents - sigma * self._call(self.denoiser, noised_latents, sigma, conditioning)


class ToyDenoiser(nn.Module):
    """(B, 4, h, w) with even h, w; log sigma, or a flow's sigma (B, 1, 1, 1); conditioning (1 or B, 6) -> eps or the
    velocity, of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 2, 2)
        self.prompt, self.noise = nn.Linear(6, 8), nn.Conv2d(1, 8, 1)

    def forward(self, x, log_sigma, conditioning):
        bias = self.prompt(conditioning)[:, :, None, None] + self.noise(log_sigma)
        return 0.5 * x + self.last(torch.tanh(self.first(x) + bias))
