"""The gradient that the adapter computes inside the real web UI."""

import torch
from modules import call_queue

import mist_attack.loss
import mist_attack.objectives
import mist_attack.views
from mist_attack.hosts import detect

SIDE = 128


def fused(model, generator):
    """The engine's own fused loss at a fixed target, with the weight at which both terms count."""
    with torch.no_grad():
        shape = model.encode(torch.zeros(1, 3, SIDE, SIDE, device=model.device)).shape
    target = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(model.device)
    textural = mist_attack.objectives.Textural(target)
    semantic = mist_attack.objectives.Semantic(model, model.conditioning("a (painting:1.2)"))
    objective = mist_attack.objectives.Fused(textural, semantic, semantic_weight=16384)
    views = mist_attack.views.plan(SIDE, SIDE, "whole", 512, model.spatial_multiple("fused"))
    return mist_attack.loss.PictureLoss(model, views, [objective], generator)


def with_gradient(model):
    """(value and gradient as functions of the picture, a picture), inside the adapter's `run`."""
    generator = torch.Generator(model.device)
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1
    loss = fused(model, generator)

    def value_and_gradient(x):
        generator.manual_seed(11)
        value, gradient = loss.value_and_gradient(x)
        return float(value.double()), gradient.double()

    return value_and_gradient, picture.to(model.device)


def run(task, low_vram=False):
    with call_queue.queue_lock:
        surrogate = detect.loaded_model()
        return surrogate.run(lambda model: task(*with_gradient(model)), 1, SIDE, SIDE, low_vram=low_vram)


def differences(value_and_gradient, picture, step=5e-4):
    """Slope by differences of the fourth order along the gradient, and what the gradient says it is."""
    _, gradient = value_and_gradient(picture)
    direction = (gradient / gradient.norm()).float() * SIDE * 3**0.5

    def value(factor):
        return value_and_gradient(picture + factor * step * direction)[0]

    slope = (value(-2) - 8 * value(-1) + 8 * value(1) - value(2)) / (12 * step)
    return slope, float(gradient.norm()) * SIDE * 3**0.5


def predicted(denoised):
    """How far the sds gradient of the real model is from its formula, in parts of its size.

    denoised: (noised latents, sigma, conditioning) -> the host's own denoised latents."""
    latents, drawn = torch.empty(0), []

    def task(model):
        nonlocal latents
        picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
        latents = model.encode(picture.to(model.device)).detach()
        semantic = mist_attack.objectives.Semantic(model, prompt, mist_attack.objectives.ESTIMATES["sds"])
        draw = semantic.draw
        semantic.draw = lambda *given: drawn.append(draw(*given)) or drawn[-1]
        return semantic.value_and_gradient(latents, torch.Generator(model.device).manual_seed(11))[1]

    with call_queue.queue_lock:
        surrogate = detect.loaded_model()
        prompt = surrogate.conditioning("a (painting:1.2)")
        gradient = surrogate.run(task, 1, SIDE, SIDE)
        ((timesteps, noise),) = drawn
        sigma = surrogate.sigmas[timesteps]
        is_flow = bool(surrogate.sigmas[-1] <= 1)
        noised = (1 - sigma) * latents + sigma * noise if is_flow else latents + sigma * noise
        error = (latents - denoised(noised, sigma, prompt)) / sigma
    expected = -2 / latents.numel() * error / (1 if is_flow else (1 + sigma**2) ** 0.5)
    return {
        "relative": float((gradient - expected).norm() / expected.norm()),
        "gradient": float(gradient.norm()),
        "flow": is_flow,
        "differentiable": surrogate.differentiable,
    }
