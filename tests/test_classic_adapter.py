"""Forge Classic's adapter on fakes of the host: what it asks, borrows and gives back, and whom it refuses."""

import sys

import pytest
import torch
from fakes import classic

from mist_attack.errors import CheckpointError
from mist_attack.hosts import detect
from mist_attack.hosts.borrowing.lending import memory
from mist_attack.protection import protect
from mist_attack.settings import Settings


@pytest.fixture(autouse=True)
def host(monkeypatch):
    for kept in (classic.asked, classic.activated):
        kept.clear()
    monkeypatch.setattr(classic.modules["modules.shared"], "sd_model", classic.Model())


def run(surrogate, task):
    return surrogate.run(task, 1, 64, 64)


def test_it_is_known_by_its_modules_and_loras_of_an_earlier_generation_are_taken_off():
    with classic.installed():
        assert detect.webui() == "classic"
        plain, kept = (detect.loaded_model(keep_extra_networks=keep) for keep in (False, True))
    assert plain.name == "SD1 (tiny)" and classic.activated == [{}]
    for surrogate in (plain, kept):
        surrogate.conditioning("a cat")
    assert plain.model.asked == [(["a cat"], 1024, "clip"), (["a cat"], 1024, "clip with LoRA")]
    assert plain.model.forge_objects is plain.model.forge_objects_after_applying_lora


def test_no_model_is_told_with_what_to_do(monkeypatch):
    monkeypatch.setattr(classic.modules["modules.shared"], "sd_model", None)
    with classic.installed(), pytest.raises(CheckpointError, match="Choose a checkpoint"):
        detect.loaded_model()


def test_a_relative_without_those_modules_is_refused_in_one_line_that_names_it(monkeypatch):
    """Another version of Classic, or of reForge."""
    monkeypatch.delattr(classic.modules["ldm_patched.ldm.models.autoencoder"], "AutoencoderKL")
    monkeypatch.delitem(sys.modules, "mist_attack.hosts.classic", raising=False)
    with (
        classic.installed(),
        pytest.raises(CheckpointError, match=r"Forge Classic or reForge .*AutoencoderKL") as error,
    ):
        detect.loaded_model()
    assert "\n" not in str(error.value)


def test_a_picture_is_protected_with_the_autoencoders_gradient_in_float32_and_nothing_is_left_behind():
    surrogate = classic.surrogate()
    layers = [layer for module in surrogate.modules for layer in module.modules()]
    before = [dict(vars(layer)) for layer in layers]
    picture = torch.rand(1, 3, 64, 64).mul(255).round() / 255
    for objective in ("textural", "semantic", "fused"):
        report = protect(picture, surrogate, Settings(objective=objective, steps=3, working_size=64)).reports[0]
        for name in report.after:
            assert report.after[name] != report.before[name]
        assert ("sds took its place" in " ".join(report.notices)) == (objective != "textural")
    assert [dict(vars(layer)) for layer in layers] == before
    assert {p.dtype for p in surrogate.autoencoder.parameters()} == {torch.bfloat16}


def test_the_encoders_gradient_is_that_of_differences():
    surrogate, weights = classic.surrogate(), torch.randn(1, 4, 8, 8)

    def task(model):
        x = torch.rand(1, 3, 64, 64).requires_grad_()
        (gradient,) = torch.autograd.grad((model.encode(x) * weights).sum(), x)
        direction = gradient / gradient.norm()
        with torch.no_grad():
            ends = [(model.encode(x + h * direction) * weights).sum() for h in (1e-2, -1e-2)]
        return float((ends[0] - ends[1]) / 2e-2), float(gradient.norm())

    difference, slope = run(surrogate, task)
    assert slope > 0 and difference == pytest.approx(slope, rel=0.01)


def test_predictions_are_the_hosts_and_a_gradient_through_them_is_refused():
    surrogate = classic.surrogate()
    prompt, sigma, noised = surrogate.conditioning("a cat"), surrogate.sigmas[[300]], torch.randn(1, 4, 8, 8)
    found = run(surrogate, lambda model: model.denoise(noised, sigma, prompt))
    with torch.inference_mode():
        assert torch.equal(found, surrogate.denoiser.apply_model(noised, sigma, **prompt))
    assert not found.is_inference()
    with pytest.raises(CheckpointError, match="Use the gradient sds"):
        run(surrogate, lambda model: model.denoise(noised.clone().requires_grad_(), sigma, prompt))


def test_memory_is_asked_for_a_generation_and_for_the_autoencoders_gradient():
    surrogate = classic.surrogate()
    run(surrogate, lambda _: None)
    objects = surrogate.objects
    needed = memory(64 * 64, 0, low_vram=False) + objects.unet.memory_required([1, 4, 8, 8])
    assert classic.asked == [([objects.unet, objects.vae.patcher], needed)]


def test_inpainting_is_textural_only_with_the_reason():
    model = classic.Model()
    model.forge_objects_original.unet.model.model_config.unet_config["in_channels"] = 9
    surrogate = classic.surrogate(model)
    assert "autoencoder only" in surrogate.name and len(surrogate.sigmas) == 0
    with pytest.raises(CheckpointError, match="textural objective only: it is for inpainting or editing"):
        surrogate.conditioning("a cat")


def test_an_autoencoder_of_another_kind_is_refused():
    model = classic.Model()
    model.forge_objects_original.vae.first_stage_model = torch.nn.Identity()
    with pytest.raises(CheckpointError, match="KL kind"):
        classic.surrogate(model)
