"""The ComfyUI adapter on the small copy of the host: what the contract suite, which it also passes, does not ask."""

import sys
from types import SimpleNamespace

import pytest
import torch
from fakes import comfy, comfyui_pack
from torch import nn

from mist_attack.errors import CheckpointError
from mist_attack.protection import protect
from mist_attack.settings import Settings

comfy.install()
from mist_attack.hosts.comfyui import adapter, checks  # noqa: E402
from mist_attack.hosts.comfyui.adapter import ComfySurrogate  # noqa: E402


@pytest.fixture
def lent():
    return comfy.checkpoint()


def test_the_hosts_modules_stay_the_same_whoever_had_others_in_between(monkeypatch, tmp_path):
    """The adapter keeps those that it imported; a second copy would be told what it never hears."""

    def modules():
        return {name: id(module) for name, module in sys.modules.items() if name.split(".")[0] == "comfy"}

    before = modules()
    with monkeypatch.context() as between:
        comfyui_pack.install(between, tmp_path)
        comfy.install()
    comfy.install()
    assert {name: id_ for name, id_ in modules().items() if name in before} == before


def request(objective="fused", **changes):
    return Settings(objective=objective, steps=2, step_size=8 / 255, **changes)


def loss_gradient(surrogate, seed=0):
    """Of a textural and a semantic term at once, at the picture."""
    generator = torch.Generator().manual_seed(seed)
    image, noise = torch.rand(1, 3, 64, 64, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)
    conditioning = surrogate.conditioning("a painting")

    def job(model):
        x = image.clone().requires_grad_()
        latents, sigma = model.encode(x), model.sigmas[[400]]
        noised = model.noising.noised(latents, noise, sigma)
        error = (noised - model.denoise(noised, sigma, conditioning)) / sigma - noise
        return torch.autograd.grad(error.square().mean() + latents.square().mean(), x)[0]

    with torch.inference_mode():
        return surrogate.run(job, 1, 64, 64)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", [comfy.ModelType.EPS, comfy.ModelType.V_PREDICTION], ids=["eps", "v"])
@pytest.mark.parametrize("objective", ["textural", "semantic", "fused"])
def test_protects_inside_the_hosts_inference_mode(objective, kind):
    model, clip, vae = comfy.checkpoint(kind=kind)
    with torch.inference_mode():
        image = (torch.rand(1, 3, 72, 56) * 255).round() / 255
        result = protect(image, ComfySurrogate(vae, model, clip), request(objective))
        moved = ((result.images - image) * 255).round().abs().max()
    assert 1 <= moved <= 16
    assert not result.images.is_inference() or result.images.shape == image.shape


@pytest.fixture
def no_memory_to_spare(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "free", 0)


@pytest.mark.usefixtures("no_memory_to_spare")
def test_weights_in_memory_that_is_reused_give_the_same_gradient(lent):
    """What a plain graph makes of such weights is garbage without an error: the reason for `refetching`."""
    model, clip, vae = lent
    surrogate = ComfySurrogate(vae, model, clip)
    expected = loss_gradient(surrogate)
    with comfy.streaming(model.model, vae.first_stage_model) as buffer:
        assert relative(loss_gradient(surrogate), expected) < 1e-6
        fetched, buffer.released = buffer.released, 0
        assert fetched > 0
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr("mist_attack.hosts.comfyui.layers.is_transient", lambda *_: False)
            assert relative(loss_gradient(surrogate), expected) > 0.5


@pytest.mark.usefixtures("no_memory_to_spare")
def test_every_fetched_weight_is_given_back(lent):
    model, clip, vae = lent
    fetched = []
    with comfy.streaming(model.model, vae.first_stage_model) as buffer:
        fetch = buffer.fetch
        buffer.fetch = lambda weight, offset: fetched.append(offset) or fetch(weight, offset)
        loss_gradient(ComfySurrogate(vae, model, clip))
        assert buffer.released == sum(offset == 0 for offset in fetched)


def test_patches_applied_on_the_fly_are_in_the_gradient(lent):
    model, clip, vae = lent
    layer = model.model.diffusion_model.up
    plain = loss_gradient(ComfySurrogate(vae, model, clip))
    layer.weight_function = [lambda weight: weight * 3]
    patched = loss_gradient(ComfySurrogate(vae, model, clip))
    del layer.weight_function
    with torch.inference_mode():
        layer.weight.mul_(3)
    assert relative(patched, plain) > 0.01
    assert relative(patched, loss_gradient(ComfySurrogate(vae, model, clip))) < 1e-6


def test_a_quantised_layer_multiplies_with_its_dequantised_weight(lent):
    """Rounded inputs would make the loss a staircase."""
    model, clip, vae = lent
    unet = model.model.diffusion_model
    expected = loss_gradient(ComfySurrogate(vae, model, clip))
    with torch.inference_mode():
        unet.query = comfy.QuantisedLinear(unet.query)
    assert relative(loss_gradient(ComfySurrogate(vae, model, clip)), expected) < 1e-6
    assert "weight_function" not in vars(unet.query)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("mist_attack.hosts.comfyui.adapter.quantised_changes", lambda _: {})
        assert relative(loss_gradient(ComfySurrogate(vae, model, clip)), expected) > 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_an_autoencoder_in_half_precision_computes_in_float32(lent, dtype):
    model, clip, vae = lent
    with torch.inference_mode():
        vae.first_stage_model.to(dtype)
        half = ComfySurrogate(vae, model, clip)
        coarse = loss_gradient(half)
        assert next(vae.first_stage_model.parameters()).dtype == dtype
        vae.first_stage_model.to(torch.float32)  # the same rounded weights
    assert relative(coarse, loss_gradient(half)) < 1e-5
    assert not any("comfy_cast_weights" in vars(layer) for layer in vae.first_stage_model.modules())


def test_half_precision_in_the_unet_loses_no_small_gradient(lent):
    """Means over the latents make them small: without the scale most would be zero in float16."""
    model, clip, vae = lent
    expected = loss_gradient(ComfySurrogate(vae, model, clip))
    with torch.inference_mode():
        model.model.diffusion_model.half()
    model.model.diffusion_model.dtype = torch.float16
    seen = []
    up = model.model.diffusion_model.up
    up.register_full_backward_hook(lambda _, __, gradient: seen.append(gradient[0]))
    assert relative(loss_gradient(ComfySurrogate(vae, model, clip)), expected) < 0.02
    assert float(seen[0].abs().median()) > 1e-2  # one by the mean, 1/128, would be at 1e-4


def test_the_hosts_own_attention_and_cfg_functions_take_no_part(lent):
    model, clip, vae = lent
    model.model_options["sampler_cfg_function"] = model.model_options["sampler_post_cfg_function"] = "steers"
    seen = []
    guide = comfy.CFGGuider.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.CFGGuider, "__call__", lambda *a, **k: seen.append(k["model_options"]) or guide(*a, **k))
        loss_gradient(ComfySurrogate(vae, model, clip))
    assert seen and not any("sampler_cfg_function" in options for options in seen)
    assert model.model_options["transformer_options"] == {}  # the graph's own model keeps its options
    assert model.model_options["sampler_cfg_function"] == "steers" and not model.wrappers and not model.additional


def test_the_host_is_asked_for_the_memory_of_a_backward_and_loads_both_models(lent):
    model, clip, vae = lent
    comfy.model_management.loaded.clear()
    loss_gradient(ComfySurrogate(vae, model, clip))
    ((models, asked),) = comfy.model_management.loaded
    assert models[0].model is model.model and models[1:] == [vae.patcher]
    needed = adapter.memory(64 * 64, 4, low_vram=False)
    assert asked == pytest.approx(needed)
    assert adapter.memory(64 * 64, 4, low_vram=True) < needed


def test_a_vae_alone_serves_textural_and_asks_for_its_memory(lent):
    comfy.model_management.loaded.clear()
    surrogate = ComfySurrogate(lent[2])
    result = protect(torch.rand(1, 3, 40, 40), surrogate, request("textural"))
    assert result.reports[0].budget_used_levels > 0 and len(surrogate.sigmas) == 0
    assert comfy.model_management.loaded == [([lent[2].patcher], adapter.memory(40 * 40, 0, low_vram=False))]
    with pytest.raises(CheckpointError, match=r"Connect a clip"):
        surrogate.conditioning("a painting")


OTHER_KINDS = pytest.mark.parametrize("kind", [comfy.TAESD, comfy.WanVAE], ids=lambda kind: kind.__name__)


def textural_gradient(vae, **options):
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def job(model):
        x = image.clone().requires_grad_()
        latents = model.encode(x)
        return torch.autograd.grad(latents.square().mean(), x)[0], latents.detach(), model.decode(latents.detach())

    with torch.inference_mode():
        return ComfySurrogate(vae).run(job, 2, 64, 64, **options)


@OTHER_KINDS
def test_other_kinds_give_the_hosts_latents_in_the_familys_scale(kind):
    vae = comfy.autoencoder(kind)
    gradient, latents, shown = textural_gradient(vae)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        model = vae.first_stage_model
        if kind is comfy.TAESD:
            own = model.encode(image)
            expected, back = (own - model.vae_shift) * model.vae_scale, model.decode(own)
        else:
            own = model.encode(image.unsqueeze(2))
            expected, back = comfy.Wan21().process_in(own).squeeze(2), model.decode(own).squeeze(2)
        torch.testing.assert_close(latents, expected.clone())
        torch.testing.assert_close(shown, (back / 2 + 0.5).clamp(0, 1).clone())
    assert gradient.abs().max() > 0


@OTHER_KINDS
def test_other_kinds_survive_the_low_vram_way_and_memory_that_is_reused(kind, no_memory_to_spare):
    vae = comfy.autoencoder(kind)
    expected = textural_gradient(vae)
    with comfy.streaming(vae.first_stage_model):
        found = textural_gradient(vae)
        both = textural_gradient(vae, low_vram=True)
    for others in (textural_gradient(vae, low_vram=True), found, both):
        assert all(relative(a, b) < 1e-6 for a, b in zip(others, expected, strict=True))


def test_a_small_autoencoder_of_packed_latents_has_twice_the_multiple():
    """The host tells 8 for Flux 2's, whose encoder fails on odd sides of the latents."""
    vae = comfy.autoencoder(comfy.TAESD)
    assert ComfySurrogate(vae).spatial_multiple("textural") == 8
    vae.first_stage_model.taesd_encoder.__class__ = type("EncoderFlux2", (nn.Sequential,), {})
    assert ComfySurrogate(vae).spatial_multiple("textural") == 16


def test_a_conditioning_of_the_users_takes_the_place_of_prompts(lent):
    model, clip, vae = lent
    own = clip.encode_from_tokens_scheduled("own")
    assert ComfySurrogate(vae, model, positive=own).conditioning("a painting") is own
    with_own = loss_gradient(ComfySurrogate(vae, model, positive=own))
    assert relative(with_own, loss_gradient(ComfySurrogate(vae, model, clip))) > 1e-4


def test_the_host_is_told_of_the_training_and_told_back(lent):
    model, clip, vae = lent
    management, seen = sys.modules["comfy.model_management"], []
    surrogate = ComfySurrogate(vae, model, clip)
    for outcome in (None, KeyboardInterrupt, ValueError):

        def job(_, outcome=outcome):
            seen.append(management.in_training)
            if outcome is not None:
                raise outcome

        try:
            surrogate.run(job, 1, 64, 64)
        except (KeyboardInterrupt, ValueError) as error:
            assert type(error) is outcome
        assert management.in_training is False and surrogate._denoiser is None
    assert seen == [True] * 3


def test_what_is_refused_says_what_to_do(lent):
    model, _, vae = lent
    with pytest.raises(CheckpointError, match="holds none"):
        ComfySurrogate(SimpleNamespace(first_stage_model=None))
    for dimensions, channels, words in ((1, 3, "shapes"), (3, 3, "videos"), (2, 2, "for sound")):
        foreign = SimpleNamespace(first_stage_model=nn.Identity(), latent_dim=dimensions, output_channels=channels)
        with pytest.raises(
            CheckpointError, match=rf"Expected a VAE for pictures.*found Identity \(.*{words}.*Load VAE"
        ):
            ComfySurrogate(foreign)
    model.model.concat_keys = ("mask",)
    with pytest.raises(CheckpointError, match="inpainting"):
        ComfySurrogate(vae, model)
    model.model.concat_keys = ()
    model.model.latent_format.latent_channels = 16
    with pytest.raises(
        CheckpointError, match=r"\(SD15\), whose latents have 16 channels, one for 8 pixels; found one with 4"
    ):
        ComfySurrogate(vae, model)
    model.model.latent_format.latent_channels, model.model.latent_format.latent_dimensions = 4, 1
    with pytest.raises(CheckpointError, match=r"found SD15, which makes sound or shapes"):
        ComfySurrogate(vae, model)
    model.model.latent_format.latent_dimensions, model.model.model_sampling = 2, nn.Identity()
    with pytest.raises(CheckpointError, match=r"found SD15.*choose the mode textural"):
        ComfySurrogate(vae, model)


class ForeignLinear(comfy.Linear):
    pass


class fp8_ops:  # noqa: N801  # the host's own name
    class Linear(comfy.Linear):
        pass


fp8_ops.Linear.__module__ = "comfy.ops"


class ForeignTensor(torch.Tensor):
    pass


FOREIGN = [ForeignLinear(16, 16), fp8_ops.Linear(16, 16), comfy.Linear(16, 16)]
FOREIGN[2].weight = nn.Parameter(torch.rand(16, 16).as_subclass(ForeignTensor), requires_grad=False)
WORDS = ["ForeignLinear", "multiply in fp8", "ForeignTensor"]


@pytest.mark.parametrize("layer, words", list(zip(FOREIGN, WORDS, strict=True)), ids=WORDS)
def test_formats_that_nobody_vouches_for_are_asked_for_predictions_alone(lent, layer, words):
    model, clip, vae = lent
    assert ComfySurrogate(vae, model, clip).differentiable
    model.model.diffusion_model.query = layer
    surrogate = ComfySurrogate(vae, model, clip)
    assert words in checks.unverified(model) and not surrogate.differentiable
    assert surrogate.modules == [vae.first_stage_model]
    with pytest.raises(CheckpointError, match=r"SD15 in ComfyUI.*Use sds"):
        loss_gradient(surrogate)


@pytest.mark.parametrize("layer, words", list(zip(FOREIGN, WORDS, strict=True)), ids=WORDS)
def test_an_autoencoder_in_such_a_format_is_refused(lent, layer, words):
    _, _, vae = lent
    vae.first_stage_model.extra = layer
    with pytest.raises(CheckpointError, match=words):
        ComfySurrogate(vae)


@pytest.fixture
def flow():
    """A family whose derivative nobody has checked, as the host's other families."""
    return comfy.checkpoint(kind=comfy.ModelType.FLOW)


def test_a_model_of_another_kind_is_protected_against_by_sds_and_the_report_says_so(flow):
    model, clip, vae = flow
    with torch.inference_mode():
        result = protect(torch.rand(1, 3, 64, 64), ComfySurrogate(vae, model, clip), request("fused"))
    (report,) = result.reports
    assert report.settings["gradient"] == "sds" and report.budget_used_levels > 0
    assert any("SD15 in ComfyUI: sds took its place" in notice for notice in report.notices)
    with torch.inference_mode():
        chosen = protect(torch.rand(1, 3, 64, 64), ComfySurrogate(vae, model, clip), request("fused", gradient="sds"))
    assert chosen.reports[0].notices == []


def test_such_a_model_is_asked_in_the_hosts_own_mode_and_lends_nothing(flow):
    """In inference mode, not marked as training, with the host's attention, on modules as they are."""
    model, clip, vae = flow
    management, unet, seen = sys.modules["comfy.model_management"], model.model.diffusion_model, []
    before = {layer: dict(vars(layer)) for layer in unet.modules()}

    own_attention = comfy._no_backward

    def attention(*args, **options):
        seen.append((torch.is_inference_mode_enabled(), management.in_training))
        assert {layer: dict(vars(layer)) for layer in unet.modules()} == before
        return own_attention(*args, **options)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(comfy, "_no_backward", attention)
        protect(torch.rand(1, 3, 64, 64), ComfySurrogate(vae, model, clip), request("semantic"))
    assert seen and set(seen) == {(True, False)}


def test_the_host_is_asked_for_its_own_forward_and_the_autoencoders_backward(flow):
    model, clip, vae = flow
    comfy.model_management.loaded.clear()
    ComfySurrogate(vae, model, clip).run(lambda ready: None, 1, 64, 64)
    ((_, asked),) = comfy.model_management.loaded
    assert asked == pytest.approx(
        adapter.memory(64 * 64, 0, low_vram=False) + model.model.memory_required([1, 4, 8, 8])
    )


def test_a_conditioning_of_another_family_is_told_and_changes_nothing(flow):
    model, _, vae = flow
    for wrong in ([{"cross_attn": torch.randn(1, 5, 9)}], [{"pooled": torch.randn(1, 5)}]):
        with pytest.raises(CheckpointError, match="made for this model"):
            protect(torch.rand(1, 3, 64, 64), ComfySurrogate(vae, model, positive=wrong), request("fused"))


def test_a_conditioning_that_brings_pictures_is_refused(flow):
    model, _, vae = flow
    editing = [{"cross_attn": torch.randn(1, 5, 8), "model_conds": {"ref_latents": torch.zeros(1, 4, 8, 8)}}]
    with pytest.raises(CheckpointError, match="inpainting, editing or control"):
        protect(torch.rand(1, 3, 64, 64), ComfySurrogate(vae, model, positive=editing), request("fused"))
