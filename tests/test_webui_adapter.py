"""The web UI's adapter on fakes of the host: what it borrows and gives back, and whom it refuses."""

import sys
from types import SimpleNamespace

import pytest
import torch
from fakes import webui

from mist_attack.errors import CheckpointError
from mist_attack.hosts import detect

hijack = webui.modules["sd_hijack"]


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """As it starts."""
    webui.activated.clear()
    monkeypatch.setattr(webui.modules["shared"], "sd_model", webui.Model(), raising=False)
    monkeypatch.setattr(hijack, "current_optimizer", None)
    return webui.modules


def job(model):
    """The gradient of what the engine asks for."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    latents = model.encode(x)
    loss = model.denoise(latents, model.sigmas[[300]], {"c_crossattn": torch.ones(1, 3, 5)}).square().sum()
    return torch.autograd.grad(loss, x)[0]


def run(surrogate, task=job, **options):
    return surrogate.run(task, 1, 64, 64, **options)


def test_without_a_model_the_user_is_told_what_to_do(host):
    host["shared"].sd_model = None
    with pytest.raises(CheckpointError, match="no Stable Diffusion model loaded"):
        webui.adapter().loaded()


def test_leftover_networks_are_taken_off_but_not_within_a_generation():
    run(webui.adapter().loaded())
    assert webui.activated == [{}]
    run(webui.adapter().loaded(keep_extra_networks=True))
    assert webui.activated == [{}]


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_gradients_are_possible_whatever_the_caller_forbids(caller):
    surrogate = webui.surrogate()
    expected = run(surrogate)
    with caller():
        assert torch.equal(run(surrogate), expected)
        assert not torch.is_grad_enabled()


def borrowed(surrogate):
    layers = list(surrogate.model.modules())
    return {
        "gradients": [p.requires_grad for p in surrogate.model.parameters()],
        "checkpoint": [getattr(layer, "checkpoint", None) for layer in layers],
        "forward": ["forward" in vars(layer) for layer in layers],
        "attention": webui.CrossAttention.forward,
        "circular": hijack.model_hijack.circular_enabled,
        "overwrite": torch.__future__.get_overwrite_module_params_on_conversion(),
    }


@pytest.mark.parametrize("low_vram", [False, True])
@pytest.mark.parametrize("error", [None, RuntimeError("in the middle"), KeyboardInterrupt()])
def test_all_that_was_borrowed_is_given_back(monkeypatch, error, low_vram):
    monkeypatch.setattr(hijack, "current_optimizer", SimpleNamespace(name="xformers"))
    monkeypatch.setattr(hijack.model_hijack, "circular_enabled", True)
    surrogate = webui.surrogate()
    before = borrowed(surrogate)

    def task(model):
        during = borrowed(model)
        assert (
            not any(during["gradients"]) and not during["circular"] and during["attention"] is not before["attention"]
        )
        gradient = job(model)
        if error:
            raise error
        return gradient

    if error:
        with pytest.raises(type(error)):
            run(surrogate, task, low_vram=low_vram)
    else:
        assert run(surrogate, task, low_vram=low_vram).abs().max() > 0
    assert borrowed(surrogate) == before


def test_attention_that_differentiates_is_left_alone(monkeypatch):
    monkeypatch.setattr(hijack, "current_optimizer", SimpleNamespace(name="Doggettx"))
    before = webui.CrossAttention.forward
    assert run(webui.surrogate(), lambda model: webui.CrossAttention.forward) is before


def test_a_compiled_unet_is_put_aside(monkeypatch):
    asked, sd_unet = [], webui.modules["sd_unet"]
    monkeypatch.setattr(sd_unet, "current_unet", object())
    monkeypatch.setattr(sd_unet, "apply_unet", lambda option=None: asked.append(option))
    run(webui.surrogate(), lambda model: asked.append("at work"))
    assert asked == ["None", "at work", None]


def test_a_prompt_leaves_no_trace_in_the_running_generations_infotext():
    hijack.model_hijack.extra_generation_params["Seed resize"] = "8"
    webui.surrogate().conditioning("a (cat:1.2)")
    assert hijack.model_hijack.extra_generation_params == {"Seed resize": "8"}
    hijack.model_hijack.extra_generation_params.clear()


def test_noise_levels_are_those_of_the_training():
    """Options rescale `alphas_cumprod` for sampling, and half precision rounds it."""
    model = webui.Model()
    alphas = model.alphas_cumprod_original.double()
    torch.testing.assert_close(webui.surrogate(model).sigmas, ((1 - alphas) / alphas).sqrt().float())
    assert webui.surrogate(model).sigmas.isfinite().all()


OTHERS = {
    "inpainting": lambda: webui.Model(conditioning_key="hybrid"),
    "SD3 inpainting": lambda: webui.Model("sd3", conditioning_key="hybrid"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_families_are_autoencoders_only_and_say_so(kind):
    surrogate = webui.surrogate(OTHERS[kind]())
    assert "autoencoder only" in surrogate.name and len(surrogate.sigmas) == 0
    for asked in (lambda: surrogate.conditioning("a cat"), lambda: surrogate.denoise(None, None, None)):
        with pytest.raises(CheckpointError, match="textural objective only"):
            asked()

    def textural(model):
        x = torch.rand(1, 3, 64, 64).requires_grad_()
        latents = model.encode(x)
        gradient = torch.autograd.grad(latents.square().sum(), x)[0]
        scaled = model.vae.quant_conv(model.vae.encoder(x * 2 - 1)).chunk(2, dim=1)[0]
        scaled = (scaled - 0.5) * 2 if surrogate.model.is_sd3 else scaled * model.model.scale_factor
        torch.testing.assert_close(latents, scaled)
        return gradient

    assert run(surrogate, textural).abs().max() > 0


def lend(module, other):
    """Of two parts one at a time is on the device: elsewhere its weights are useless."""
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    def send_me_to_gpu(_, __):
        for name, parameter in module.named_parameters():
            parameter.data = weights[name].clone()
        for parameter in other.parameters():
            parameter.data = torch.full_like(parameter, torch.nan)

    module.register_forward_pre_hook(send_me_to_gpu)


@pytest.mark.parametrize("low_vram", [False, True])
def test_parts_that_leave_the_device_come_back_for_their_backward(low_vram):
    """As --medvram does it: while the UNet works the autoencoder is away, and the other way round."""
    expected = run(webui.surrogate(), low_vram=low_vram)
    model = webui.Model()
    vae, unet = model.first_stage_model, model.model.diffusion_model
    lend(vae, unet)
    lend(unet, vae)
    model.lowvram = True
    torch.testing.assert_close(run(webui.surrogate(model), low_vram=low_vram), expected, rtol=1e-4, atol=1e-7)


def test_which_web_ui_it_is_is_asked_as_a_fact():
    assert detect.webui() == "none"
    with webui.installed():
        assert detect.webui() == "a1111"
        assert detect.loaded_model().name == "SD1 (tiny-sd1)"


@pytest.mark.parametrize(
    ("module", "host", "name"),
    [("modules.scripts_manager", "sdnext", "SD.Next"), ("modules_forge", "other forge", "this relative of Forge")],
)
def test_others_are_refused_in_plain_words(monkeypatch, module, host, name):
    with webui.installed():
        monkeypatch.setitem(sys.modules, module, webui.new_module(module, {}))
        assert detect.webui() == host
        with pytest.raises(CheckpointError, match=f"model loaded in {name}"):
            detect.loaded_model()
