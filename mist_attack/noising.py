"""How a family of models adds noise, and what its network is trained to tell: all that differs between families here.

Every host hands out the clean latents that it predicts, D(noised). Then the error of the network's own prediction is
(latents - D) / sigma in each family, and a deterministic sampler moves by (noised - D) / sigma per sigma.

noised: the forward process, (B, C, h, w) twice and sigma (B,) -> (B, C, h, w). slope: (B,) -> (B,), d error / d latents
with the network's Jacobian left out. spread: noise levels between which few draws do the work of many, where the
denoising loss rises most for what it takes from the textural term.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Added:
    """Noise on top (k-diffusion, Karras et al. 2022, arXiv 2206.00364): noised = latents + sigma * noise.

    The network predicts eps, or v, from c * noised with c = 1 / sqrt(sigma_data^2 + sigma^2):
    error = eps_pred - noise = (noised - D) / sigma - noise = (latents - D) / sigma;
    d error / d latents = J * c, and J, the Jacobian of eps_pred, is left out (Xue et al. 2024, arXiv 2311.12832).
    """

    sigma_data: float = 1.0
    spread: tuple[float, float] = (0.343, 0.695)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latents + sigma.view(-1, 1, 1, 1) * noise

    def slope(self, sigma: Tensor) -> Tensor:
        return 1 / (self.sigma_data**2 + sigma.square()).sqrt()


@dataclass(frozen=True)
class Flow:
    """Rectified flow (Liu et al. 2023, arXiv 2209.03003): noised = (1 - sigma) * latents + sigma * noise_scale * noise.

    The network predicts the velocity v = noise_scale * noise - latents, and D = noised - sigma * v_pred:
    error = v_pred - v = (noised - D) / sigma - noise_scale * noise + latents = (latents - D) / sigma;
    d error / d latents = (1 - sigma) * J + 1, and without J, the Jacobian of v_pred, 1 (Yang et al. 2024,
    arXiv 2406.03293).
    """

    noise_scale: float = 1.0
    spread: tuple[float, float] = (0.255, 0.41)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * (self.noise_scale * noise)

    def slope(self, sigma: Tensor) -> Tensor:
        return sigma.new_ones(sigma.shape)


Noising = Added | Flow
