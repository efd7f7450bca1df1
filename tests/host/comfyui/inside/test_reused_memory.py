"""Weights that do not last until the backward, in the host's real modules: what a GPU does, imitated on the CPU.

With dynamic VRAM or streamed offloading every layer's weight is a view of memory that the next layer's overwrites.
Here `comfy.ops.cast_bias_weight` hands out new tensors over one memory, so that no version counter betrays the reuse.
"""

from contextlib import contextmanager

import comfy.model_management
import comfy.ops
import pytest
import torch
from comfy.ldm.wan.vae import CausalConv3d
from models import checkpoint, with_lora
from test_gradients import ANY, SIDE, WITH_UNET, gradient, picture, semantic, textural

from mist_attack.hosts.borrowing.aliases import Aliases
from mist_attack.hosts.comfyui import layers as adapter_layers
from mist_attack.hosts.comfyui.adapter import ComfySurrogate
from mist_attack.hosts.comfyui.layers import refetching

CPU = torch.device("cpu")
CASES = [(make, textural) for make in ANY] + [(make, semantic) for make in WITH_UNET]
cases = pytest.mark.parametrize(("make", "objective"), CASES, ids=lambda function: function.__name__)


class Memory:
    """Room for the weights of one layer."""

    def __init__(self, numbers):
        self.numbers, self.fetched = torch.zeros(numbers), set()

    def holding(self, value, offset):
        view = torch.empty(0).set_(self.numbers.untyped_storage(), offset, value.shape, value.contiguous().stride())
        return view.copy_(value.detach())


@contextmanager
def reused_memory(*modules):
    """Every layer's weight and bias pass through one memory."""
    layers = [layer for module in modules for layer in module.modules() if is_cast(layer)]
    memory = Memory(max(sum(value.numel() for value in layer.parameters(recurse=False)) for layer in layers))
    fetch = comfy.ops.cast_bias_weight

    def fetch_into_memory(layer, *args, **kwargs):
        weight, bias, *rest = fetch(layer, *args, **kwargs)
        memory.fetched.add(type(layer).__name__)
        weight = memory.holding(weight, 0)
        return weight, bias if bias is None else memory.holding(bias, weight.numel()), *rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.ops, "cast_bias_weight", fetch_into_memory)
        for layer in layers:
            patch.setattr(layer, "weight_function", [lambda weight: weight])  # the host then casts at every call
        yield memory


def is_cast(layer):
    return isinstance(layer, comfy.ops.CastWeightBiasOp) and next(layer.parameters(recurse=False), None) is not None


def measured(surrogate, objective):
    def job(model):
        return gradient(objective(model, picture()), picture())

    return surrogate.run(job, 1, SIDE, SIDE)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@cases
def test_the_gradient_survives_and_the_plain_way_would_be_garbage(make, objective, monkeypatch):
    surrogate = make()
    expected = measured(surrogate, objective)
    with reused_memory(*surrogate.modules) as memory:
        assert relative(measured(surrogate, objective), expected) < 1e-6
        encoding = [layer for part in surrogate.autoencoder.encoding for layer in part.modules() if is_cast(layer)]
        assert {type(layer).__name__ for layer in encoding} <= memory.fetched
        assert objective is textural or {"Linear", "LayerNorm"} <= memory.fetched
        monkeypatch.setattr(adapter_layers, "is_transient", lambda *_: False)
        assert relative(measured(surrogate, objective), expected) > 0.5


@pytest.mark.parametrize("make", ANY, ids=lambda function: function.__name__)
def test_no_layer_is_of_a_kind_that_was_not_tried(make):
    tried = {name for name, *_ in LAYERS} | {"Embedding"}
    found = {type(layer).__name__ for module in make().modules for layer in module.modules() if is_cast(layer)}
    assert found <= tried


LAYERS = [
    ("Linear", (12, 7), (2, 5, 12)),
    ("Conv1d", (4, 6, 3), (2, 4, 9)),
    ("Conv2d", (4, 6, 3, 2, 1), (2, 4, 9, 8)),
    ("Conv3d", (4, 6, 3), (1, 4, 5, 6, 7)),
    ("CausalConv3d", (4, 6, 3, 1, 1), (1, 4, 1, 6, 7)),
    ("ConvTranspose1d", (4, 6, 3), (2, 4, 9)),
    ("ConvTranspose2d", (4, 6, 3), (2, 4, 9, 8)),
    ("GroupNorm", (2, 4), (2, 4, 9, 8)),
    ("LayerNorm", (8,), (2, 9, 8)),
    ("RMSNorm", (8,), (2, 9, 8)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS, ids=lambda value: value if type(value) is str else "")
def test_every_kind_of_layer_fetches_its_weight_again(name, arguments, shape):
    kind = CausalConv3d if name == "CausalConv3d" else getattr(comfy.ops.manual_cast, name)
    layers = torch.nn.Sequential(*[kind(*arguments) for _ in range(2)])
    for value in layers.parameters():
        torch.nn.init.normal_(value)
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(shape)
        with Aliases():
            expected = [gradient(lambda x, layer=layer: layer(x).square().sum(), x) for layer in layers]
        with reused_memory(layers), refetching([layers], CPU, torch.float32), Aliases():
            x.requires_grad_()
            first, second = layers[0](x), layers[1](x)  # the second overwrites the first one's weight
            both = torch.autograd.grad(first.square().sum() + second.square().sum(), x)[0]
    assert relative(both, sum(expected)) < 1e-6


def loaded_in_part(models, *_, **__):
    """As the host loads where hardly any memory is left: weights stay away, LoRAs are applied at every call."""
    for patcher in models:
        patcher.load(CPU, lowvram_model_memory=1)


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_a_model_that_is_loaded_in_part_gives_the_same_gradient(lora, monkeypatch):
    model, clip, vae = checkpoint()
    if lora:
        model, clip = with_lora(model, clip)
    surrogate = ComfySurrogate(vae, model, clip)
    expected = measured(surrogate, semantic)
    surrogate.conditioning("a painting")
    model.unpatch_model(CPU)
    comfy.model_management.current_loaded_models.clear()
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", loaded_in_part)
    found = measured(surrogate, semantic)
    casting = [layer for layer in model.model.diffusion_model.modules() if getattr(layer, "comfy_cast_weights", False)]
    model.unpatch_model(CPU)
    assert len(casting) > 20
    assert relative(found, expected) < 1e-6
