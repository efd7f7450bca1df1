"""Gradients through the host's real modules in float32: against central differences, and as descent."""

import importlib.util

import pytest
import torch
from autoencoders import FAMILIES, vae
from models import autoencoder, checkpoint, conditioning, diffusion_model, v_prediction, with_lora
from records import record

from mist_attack.hosts.comfyui.adapter import ComfySurrogate

SIDE, TIMESTEP = 64, 400


def sd1():
    model, clip, vae = checkpoint()
    return ComfySurrogate(vae, model, clip)


def sd1_with_lora():
    model, clip, vae = checkpoint()
    return ComfySurrogate(vae, *with_lora(model, clip))


def sd1_predicting_v():
    model, clip, vae = checkpoint()
    return ComfySurrogate(vae, v_prediction(model), clip)


def sd2():
    return ComfySurrogate(autoencoder("vae4"), diffusion_model("sd2"), positive=conditioning("sd2"))


def sd2_predicting_v():
    return ComfySurrogate(autoencoder("vae4"), v_prediction(diffusion_model("sd2")), positive=conditioning("sd2"))


def sdxl():
    return ComfySurrogate(autoencoder("vae4"), diffusion_model("sdxl"), positive=conditioning("sdxl"))


def sd1_in_fp8():
    model, clip, vae = checkpoint("sd1-fp8")
    return ComfySurrogate(vae, model, clip)


def sd1_in_int8():
    model, clip, vae = checkpoint("sd1-int8")
    return ComfySurrogate(vae, model, clip)


def vae_of_4_channels():
    return ComfySurrogate(autoencoder("vae4"))


def vae_of_16_channels():
    return ComfySurrogate(autoencoder("vae16"))


def alone(name):
    """A VAE of another kind."""

    def make():
        return ComfySurrogate(vae(name))

    make.__name__ = name
    return make


QUANTISED = [sd1_in_fp8, sd1_in_int8] if importlib.util.find_spec("comfy.quant_ops") else []
WITH_UNET = [sd1, sd1_with_lora, sd1_predicting_v, sd2, sd2_predicting_v, sdxl, *QUANTISED]
VERIFIED = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
ANY = [*WITH_UNET, vae_of_4_channels, vae_of_16_channels, *map(alone, FAMILIES)]


def textural(model, x):
    """Mean squared distance of the latents to a target's; in double, so that a small step shows."""
    with torch.no_grad():
        target = model.encode(torch.zeros_like(x))
    return lambda x: (model.encode(x).double() - target).square().mean()


def semantic(model, x):
    """Denoising loss at one noise and timestep."""
    sigma, prompt = model.sigmas[[TIMESTEP]], model.conditioning("a painting")
    with torch.no_grad():
        noise = torch.randn(model.encode(x).shape, generator=torch.Generator().manual_seed(1))

    def loss(x):
        noised = model.noising.noised(model.encode(x), noise, sigma)
        return ((noised - model.denoise(noised, sigma, prompt)) / sigma - noise).square().mean()

    return loss


CASES = [(make, textural) for make in ANY] + [(make, semantic) for make in WITH_UNET]
cases = pytest.mark.parametrize(("make", "objective"), CASES, ids=lambda function: function.__name__)


def picture():
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def gradient(loss, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0]


@cases
def test_the_gradient_is_the_slope(make, objective):
    def job(model):
        x = picture()
        loss = objective(model, x)
        slope = gradient(loss, x)
        size, h = float(slope.norm()), 1e-3 if objective is textural else 0.1  # small for the kinks of ReLUs
        with torch.no_grad():
            difference = float(loss(x + h * slope / size) - loss(x - h * slope / size)) / (2 * h)
        return difference, size

    difference, size = make().run(job, 1, SIDE, SIDE)
    assert size > 0 and difference == pytest.approx(size, rel=1e-3)
    if objective is semantic and make.__name__ in VERIFIED:
        record(make.__name__, VERIFIED[make.__name__], ["exact", "sds", "amortised"])


@cases
def test_sign_steps_lower_the_loss(make, objective):
    def job(model):
        x = picture()
        loss = objective(model, x)
        losses = []
        for _ in range(5):
            losses.append(float(loss(x.requires_grad_()).detach()))
            x = (x.detach() - gradient(loss, x).sign() / 255).clamp(0, 1)
        return losses

    losses = make().run(job, 1, SIDE, SIDE)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
