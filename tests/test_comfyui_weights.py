"""What a run in ComfyUI need not fetch, cast or watch; and that every weight is the host's own again afterwards."""

from contextlib import nullcontext

import pytest
import torch
from fakes import comfy
from test_comfyui_adapter import ComfySurrogate, adapter, relative
from torch import nn

from mist_attack.hosts.borrowing.aliases import Aliases, unwatched, watched

CPU = torch.device("cpu")
NEEDED = adapter.memory(64 * 64, 4, low_vram=False)


@pytest.fixture
def lent():
    return comfy.checkpoint()


@pytest.fixture
def surrogate(lent):
    return ComfySurrogate(lent[2], lent[0], lent[1])


def layers_of(surrogate):
    """Those that take part in a step."""
    autoencoder, unet = surrogate.modules
    return [layer for part in (autoencoder.encoder, autoencoder.quant_conv, unet) for layer in part.modules()]


def spare(monkeypatch, copies):
    """Memory for the host, for a forward and backward and for so many bytes of weights."""
    own = comfy.model_management.minimum_inference_memory()
    monkeypatch.setattr(comfy.model_management, "free", own + NEEDED + copies)


def gradients(surrogate, count, **options):
    """Of one run, at one place."""
    found = []

    def job(model):
        x = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64).clone().requires_grad_()
        sigma, prompt = model.sigmas[[400]], model.conditioning("a painting")
        for _ in range(count):
            latents = model.encode(x)
            loss = model.denoise(latents, sigma, prompt).square().mean() + latents.square().mean()
            found.append(torch.autograd.grad(loss, x)[0])

    with torch.inference_mode():
        surrogate.run(job, 1, 64, 64, **options)
    return found


@pytest.fixture
def seen(monkeypatch):
    """The names of the calls that go through the alias mode."""
    names, through = [], Aliases.__torch_function__

    def look(mode, func, types, args=(), kwargs=None):
        names.append(getattr(func, "__name__", ""))
        return through(mode, func, types, args, kwargs)

    monkeypatch.setattr(Aliases, "__torch_function__", look)
    return names


LAYERS = {"conv2d", "linear", "group_norm", "scaled_dot_product_attention", "silu"}


@pytest.mark.parametrize("low_vram", [False, True])
def test_no_call_inside_the_models_is_watched_where_weights_lie_ready(surrogate, seen, low_vram):
    gradients(surrogate, 2, low_vram=low_vram)
    assert seen and not LAYERS & set(seen)


def test_with_dynamic_memory_no_call_inside_the_models_is_watched(lent, surrogate, seen, monkeypatch):
    spare(monkeypatch, 0)
    with comfy.streaming(lent[0].model, lent[2].first_stage_model):
        gradients(surrogate, 1)
    assert not (LAYERS - {"group_norm", "silu"}) & set(
        seen
    )  # a norm is computed again in its backward, inside the mode


def test_what_is_fetched_once_serves_the_run_where_there_is_memory(lent, surrogate, monkeypatch):
    model, _, vae = lent
    (expected,) = gradients(surrogate, 1)
    with comfy.streaming(model.model, vae.first_stage_model) as buffer:
        fetched = {}
        for copies in (0, 2**40):
            spare(monkeypatch, copies)
            for count in (1, 3):
                buffer.released = 0
                assert all(relative(found, expected) < 1e-6 for found in gradients(surrogate, count))
                fetched[copies, count] = buffer.released
    layers = sum(isinstance(layer, comfy.CastWeightBiasOp) for layer in layers_of(surrogate))
    assert fetched[2**40, 1] == fetched[2**40, 3] == layers
    assert fetched[0, 3] == 3 * fetched[0, 1] > 3 * layers


def test_no_more_is_copied_than_there_is_memory_to_spare(lent, surrogate, monkeypatch):
    model, _, vae = lent
    sizes = {
        layer: 4 * (layer.weight.numel() + layer.bias.numel())
        for layer in layers_of(surrogate)
        if isinstance(layer, comfy.CastWeightBiasOp)
    }
    (expected,) = gradients(surrogate, 1)
    for room in (min(sizes.values()), sum(sizes.values()) // 2):
        spare(monkeypatch, room)
        held = []
        with comfy.streaming(model.model, vae.first_stage_model):

            def job(_, held=held):
                held += [layer for layer in sizes if not layer.comfy_cast_weights]

            surrogate.run(job, 1, 64, 64)
            assert held and sum(sizes[layer] for layer in held) <= 2 * room  # each of the two modules asks anew
            assert relative(gradients(surrogate, 1)[0], expected) < 1e-6


def test_in_the_thrifty_way_nothing_is_copied(lent, surrogate):
    with comfy.streaming(lent[0].model, lent[2].first_stage_model) as buffer:
        fetched = []
        for count in (1, 2):
            buffer.released = 0
            gradients(surrogate, count, low_vram=True)
            fetched.append(buffer.released)
    assert fetched[1] > fetched[0]


@pytest.mark.parametrize("free", [0, 2**40], ids=["cast for every call", "cast once"])
def test_an_autoencoder_in_half_precision_is_cast_once_where_there_is_memory(lent, monkeypatch, free):
    vae, casts, cast = lent[2], [], comfy.cast_bias_weight
    with torch.inference_mode():
        vae.first_stage_model.half()
    for place in ("comfy.ops", "fakes.comfy"):
        monkeypatch.setattr(f"{place}.cast_bias_weight", lambda *a, **k: casts.append(a[0]) or cast(*a, **k))
    monkeypatch.setattr(comfy.model_management, "free", free)
    surrogate = ComfySurrogate(vae, lent[0], lent[1])
    gradients(surrogate, 1)
    first = len(casts)
    gradients(surrogate, 3)
    assert (len(casts) == 2 * first) == (free > 0)
    assert all(p.dtype == torch.float16 for p in vae.first_stage_model.parameters())


@pytest.mark.parametrize("outcome", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_layer_has_its_own_weights_again(lent, surrogate, streamed, outcome):
    model, _, vae = lent
    with comfy.streaming(model.model, vae.first_stage_model) if streamed else nullcontext():
        layers = layers_of(surrogate)
        before = [(dict(vars(layer)), dict(layer._parameters), dict(layer._buffers)) for layer in layers]

        def job(model):
            assert all(type(value) is torch.Tensor for layer in layers for value in layer._parameters.values())
            if outcome is not None:
                raise outcome

        try:
            surrogate.run(job, 1, 64, 64)
        except (ValueError, KeyboardInterrupt) as error:
            assert type(error) is outcome
        for layer, (own, parameters, buffers) in zip(layers, before, strict=True):
            assert vars(layer) == own
            assert all(layer._parameters[name] is value for name, value in parameters.items())
            assert all(layer._buffers[name] is value for name, value in buffers.items())


def test_a_weight_that_the_host_changes_meanwhile_is_the_hosts(lent, surrogate):
    unet = lent[0].model.diffusion_model
    put = nn.Parameter(torch.zeros(16, 16), requires_grad=False)

    def job(_):
        unet.query.weight = put  # as a hook does that patches for some steps
        unet.key.weight.zero_()

    own = unet.key.weight
    surrogate.run(job, 1, 64, 64)
    assert unet.query.weight is put and unet.key.weight is own and not own.any()


def test_a_patch_that_brings_inference_tensors_is_watched(lent, surrogate, seen):
    """An extension's, kept since a generation. The gradient is that of the same numbers in normal tensors."""
    unet, found = lent[0].model.diffusion_model, []
    with torch.inference_mode():
        kept = torch.rand(16, 1, 1) + 0.5
    for factor in (kept.numpy(), kept):
        factor = torch.as_tensor(factor)
        handle = unet.block.register_forward_hook(lambda _, __, result, factor=factor: result * factor)
        seen.clear()
        found.append(gradients(surrogate, 2))
        handle.remove()
    assert "conv2d" in seen
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert relative(found[0][0], gradients(surrogate, 1)[0]) > 1e-3


def test_a_forward_that_is_begun_again_has_all_that_it_was_given():
    """The host takes the controls out of their list."""
    from mist_attack.hosts.comfyui.changes import freed_of_aliases

    with torch.inference_mode():
        kept = torch.full((1,), 3.0)

    class Module(nn.Module):
        def forward(self, x, control, transformer_options):
            transformer_options["calls"] = transformer_options.get("calls", 0) + 1
            return x * control["output"].pop() * kept

    module, x, options = Module(), torch.ones(1, requires_grad=True), {}
    control = {"output": [torch.full((1,), 2.0)]}
    with Aliases(), freed_of_aliases(module):
        for _ in range(2):
            (slope,) = torch.autograd.grad(module(x, control=control, transformer_options=options), x)
            assert slope.item() == 6
        assert options == {"calls": 3} and len(control["output"]) == 1  # and not a second failure
    assert "forward" not in vars(module)


def test_an_error_of_another_kind_passes_and_leaves_the_mode_as_it_was():
    with Aliases():
        with pytest.raises(RuntimeError, match="other"), unwatched():
            assert not watched()
            raise RuntimeError("other")
        assert watched()
    with unwatched():
        assert not watched()


@pytest.mark.parametrize(("asked", "found"), [("cuda:0", True), ("cuda", True), ("cuda:1", False), ("cpu", False)])
def test_a_device_without_an_index_is_the_same(asked, found):
    from mist_attack.hosts.comfyui.layers import is_on

    class OnCuda:
        device = torch.device("cuda:0")

    assert is_on(torch.device(asked), OnCuda()) is found
    assert is_on(CPU, torch.zeros(1))
