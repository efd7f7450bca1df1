"""Weights that last for a run, in the host's real modules: nothing is watched, fetched or cast again."""

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.utils
import pytest
import torch
from models import checkpoint, path
from test_gradients import QUANTISED, SIDE, WITH_UNET, gradient, picture, sd1, semantic, textural

from mist_attack.hosts.borrowing.aliases import Aliases
from mist_attack.hosts.comfyui.adapter import ComfySurrogate

LAYERS = {"conv2d", "linear", "group_norm", "layer_norm"}
PLAIN = [make for make in WITH_UNET if make not in QUANTISED]


def gradients(surrogate, objective, fetched, count=1):
    """Of one run; what it fetches of the models, once its prompts are read."""
    for prompt in ("", "a painting"):
        surrogate.conditioning(prompt)
    fetched.clear()

    def job(model):
        loss = objective(model, picture())
        return [gradient(loss, picture()) for _ in range(count)]

    return surrogate.run(job, 1, SIDE, SIDE)


@pytest.fixture
def seen(monkeypatch):
    """The names of the calls that go through the alias mode."""
    names, through = [], Aliases.__torch_function__

    def look(mode, func, types, args=(), kwargs=None):
        names.append(getattr(func, "__name__", ""))
        return through(mode, func, types, args, kwargs)

    monkeypatch.setattr(Aliases, "__torch_function__", look)
    return names


@pytest.fixture
def fetched(monkeypatch):
    """The layers whose weights the host was asked for."""
    layers, fetch = [], comfy.ops.cast_bias_weight
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", lambda *a, **k: layers.append(a[0]) or fetch(*a, **k))
    return layers


@pytest.mark.parametrize("make", PLAIN, ids=lambda function: function.__name__)
def test_no_call_inside_the_models_is_watched(make, seen, fetched):
    surrogate = make()
    gradients(surrogate, semantic, fetched)
    seen.clear()
    gradients(surrogate, semantic, fetched)
    assert seen and not LAYERS & set(seen) and not fetched


def layers_of(surrogate):
    """Those that take part in a step."""
    autoencoder, unet = surrogate.modules
    parts = [autoencoder.encoder, *filter(None, [getattr(autoencoder, "quant_conv", None)]), unet]
    return [layer for part in parts for layer in part.modules()]


def dynamic(surrogate, monkeypatch):
    """As dynamic VRAM leaves layers of more than 16 KiB: fetched for every call. The host copies them on a CPU."""
    for layer in layers_of(surrogate):
        if isinstance(layer, comfy.ops.CastWeightBiasOp):
            monkeypatch.setattr(layer, "comfy_cast_weights", True)
            if sum(value.nbytes for value in layer.parameters(recurse=False)) > 16 * 1024:
                monkeypatch.setattr(layer, "_v", None, raising=False)


def spare(monkeypatch, has_memory):
    """Whatever else runs on this machine."""
    monkeypatch.setattr("mist_attack.hosts.comfyui.adapter.spare_memory", lambda *_: 1e12 if has_memory else 0.0)


@pytest.mark.parametrize("has_memory", [True, False])
def test_dynamic_weights_are_fetched_once_where_there_is_memory(has_memory, seen, fetched, monkeypatch):
    surrogate = sd1()
    (expected,) = gradients(surrogate, semantic, fetched)
    assert not fetched
    dynamic(surrogate, monkeypatch)
    spare(monkeypatch, has_memory)
    seen.clear()
    counts = []
    for count in (1, 2):
        assert all(torch.equal(found, expected) for found in gradients(surrogate, semantic, fetched, count))
        counts.append(len(fetched))
    assert (counts[1] == counts[0]) == has_memory and not LAYERS & set(seen)
    layers = {layer for layer in layers_of(surrogate) if hasattr(layer, "_v")}
    assert set(fetched) <= layers  # what is small lies on the device, and is not fetched
    assert not has_memory or counts[0] == len(layers)


def test_an_autoencoder_in_half_precision_is_cast_once(fetched, monkeypatch):
    model, clip, _ = checkpoint()
    state = {name: value.bfloat16() for name, value in comfy.utils.load_torch_file(path("vae4")).items()}
    vae = comfy.sd.VAE(sd=state, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in vae.first_stage_model.state_dict().items()}
    assert {value.dtype for value in before.values()} == {torch.bfloat16}
    surrogate = ComfySurrogate(vae, model, clip)
    spare(monkeypatch, True)
    both = gradients(surrogate, textural, fetched, 2)
    cast = [layer for layer in layers_of(surrogate) if getattr(layer, "weight", None) is not None]
    assert set(fetched) == {layer for layer in cast if layer.weight.dtype == torch.bfloat16}
    assert len(fetched) == len(set(fetched))
    spare(monkeypatch, False)
    again = gradients(surrogate, textural, fetched, 2)
    assert all(torch.equal(a, b) for a, b in zip(both, again, strict=True)) and len(fetched) > 2 * len(set(fetched))
    after = vae.first_stage_model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
