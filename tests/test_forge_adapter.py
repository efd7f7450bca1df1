"""Forge's adapter on fakes of the host: what it loads, borrows and gives back, and whom it refuses."""

import pytest
import torch
from fakes import forge
from torch import nn

from mist_attack.errors import CheckpointError
from mist_attack.hosts import detect
from mist_attack.hosts.borrowing.lending import memory


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """As it starts: a checkpoint is chosen, and nothing loaded."""
    for kept in (forge.asked, forge.loads, forge.moved):
        kept.clear()
    monkeypatch.setattr(forge.modules["modules.shared"], "sd_model", forge.FakeInitialModel())
    forge.chosen[0] = forge.Engine()
    return forge.modules


def job(model):
    """The gradient of what the engine asks for."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = model.denoise(model.encode(x), model.sigmas[[300]], {"c_crossattn": torch.ones(1, 3, 5)}).square().sum()
    return torch.autograd.grad(loss, x)[0]


def run(surrogate, task=job, **options):
    return surrogate.run(task, 1, 64, 64, **options)


def unet_of(surrogate):
    return surrogate.objects.unet.model.diffusion_model


def test_the_model_is_loaded_when_it_is_first_asked_for(host):
    assert forge.adapter().loaded().name == "SD1 (tiny-sd1)"
    assert forge.loads == ["asked"] and host["modules.shared"].sd_model is forge.chosen[0]


def test_a_running_generation_keeps_its_model_whatever_is_chosen_by_now(host):
    host["modules.shared"].sd_model = forge.Engine("sdxl")
    assert forge.adapter().loaded(keep_extra_networks=True).name == "SDXL (tiny-sdxl)" and forge.loads == []


@pytest.mark.parametrize("error", [ValueError("You do not have any model!"), AssertionError("no VAE"), KeyError("x")])
def test_what_forge_cannot_load_is_told_with_what_to_do(error):
    forge.chosen[0] = error
    with pytest.raises(CheckpointError, match="Choose a checkpoint") as raised:
        forge.adapter().loaded()
    assert str(error) in str(raised.value)


def test_memory_that_runs_out_while_loading_is_not_called_a_bad_checkpoint():
    forge.chosen[0] = RuntimeError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        forge.adapter().loaded()


def test_loras_of_an_earlier_generation_are_off_and_those_of_a_running_one_on():
    model = forge.Engine()
    plain, kept = (forge.surrogate(model, keep_extra_networks=keep) for keep in (False, True))
    weights = [run(surrogate, lambda _: unet_of(plain).out.weight.detach().clone()) for surrogate in (plain, kept)]
    torch.testing.assert_close(weights[1] - weights[0], torch.full_like(weights[0], forge.Engine.lora))
    for surrogate in (plain, kept):
        surrogate.conditioning("a cat")
    assert [asked[3] for asked in model.asked] == ["clip", "clip with LoRA"]
    assert model.forge_objects is model.forge_objects_after_applying_lora


def test_loras_that_are_merged_on_the_fly_come_to_the_device_and_go_back():
    surrogate = forge.surrogate()
    surrogate.objects.unet.lora_patches = {"left": 1}
    surrogate.objects.unet.offload_device = torch.device("meta")
    run(surrogate, lambda _: forge.moved.append("at work"))
    assert forge.moved == [torch.device("cpu"), "at work", torch.device("meta")]


def borrowed(surrogate):
    layers = [layer for module in surrogate.modules for layer in module.modules()]
    parameters = [p for module in surrogate.modules for p in module.parameters()]
    return {
        "parameters": list(map(id, parameters)),
        "inference": [p.is_inference() for p in parameters],
        "training": [layer.training for layer in layers],
        "casts": [getattr(layer, "parameters_manual_cast", None) for layer in layers],
        "own": [sorted(vars(layer)) for layer in layers],
        "attention": forge.modules["backend.nn.unet"].attention_function,
        "attention of the autoencoder": forge.modules["backend.nn.vae"].attention_function_single_head_spatial,
        "stream": forge.modules["backend.stream"].stream_activated,
        "objects": surrogate.model.forge_objects,
    }


@pytest.mark.parametrize("low_vram", [False, True])
@pytest.mark.parametrize("error", [None, RuntimeError("in the middle"), KeyboardInterrupt()])
def test_all_that_was_borrowed_is_given_back(error, low_vram):
    surrogate = forge.surrogate()
    before = borrowed(surrogate)
    assert all(before["inference"])

    def task(model):
        during = borrowed(model)
        assert during["parameters"] == before["parameters"] and not during["stream"] and not any(during["training"])
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


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_gradients_are_possible_whatever_the_caller_forbids(caller):
    surrogate = forge.surrogate()
    expected = run(surrogate)
    with caller():
        assert torch.equal(run(surrogate), expected)
        assert not torch.is_grad_enabled()


def test_memory_is_asked_of_forge_for_both_parts():
    surrogate = forge.surrogate()
    run(surrogate)
    objects = surrogate.objects
    assert forge.asked == [([objects.unet, objects.vae.patcher], memory(64 * 64, 4, low_vram=False))]


def test_the_autoencoder_computes_in_float32_and_its_weights_stay_as_they_are():
    surrogate = forge.surrogate()
    with torch.inference_mode():
        surrogate.objects.vae.first_stage_model.encoder.to(torch.bfloat16)
        surrogate.objects.vae.first_stage_model.quant_conv.to(torch.bfloat16)
    before = borrowed(surrogate)
    latents = run(surrogate, lambda model: model.encode(torch.rand(1, 3, 64, 64)))
    assert latents.dtype == torch.float32
    assert borrowed(surrogate) == before
    assert surrogate.objects.vae.first_stage_model.quant_conv.weight.dtype == torch.bfloat16


def test_weights_that_are_copied_for_each_call_are_not_kept_by_the_graph(monkeypatch):
    surrogate = forge.surrogate()
    recomputed = lambda _: "forward" in vars(unet_of(surrogate).res)  # noqa: E731
    assert not run(surrogate, recomputed)
    unet_of(surrogate).down.parameters_manual_cast = True
    assert run(surrogate, recomputed) and not run(surrogate, lambda _: None)


def test_a_prompt_is_encoded_at_the_size_of_training_and_leaves_no_trace():
    surrogate, engine = forge.surrogate(), forge.modules["backend.text_processing.classic_engine"]
    engine.last_extra_generation_params["TI"] = "mine"
    parts = surrogate.conditioning("a (cat:1.2)")
    assert surrogate.model.asked[0][:3] == (["a (cat:1.2)"], 1024, 1024) and surrogate.model.clip_skip == 2
    assert engine.last_extra_generation_params == {"TI": "mine"}
    assert list(parts) == ["c_crossattn"] and not parts["c_crossattn"].is_inference()
    engine.last_extra_generation_params.clear()


def changed(change):
    model = forge.Engine()
    change(model, model.forge_objects_original)
    return model


class Quantised(nn.Parameter):
    """As GGUF's and bitsandbytes' parameters are."""


def quantise(_, objects):
    objects.unet.model.diffusion_model.out.weight = Quantised(torch.zeros(4, 8, 1, 1))


OTHERS = {
    "inpainting": lambda model, _: setattr(model, "is_inpaint", True),
    "an unknown prediction": lambda _, objects: setattr(objects.unet.model, "predictor", nn.Identity()),
    "editing": lambda _, objects: objects.unet.model.config.unet_config.update(in_channels=8),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_families_are_autoencoders_only_and_say_so(kind):
    surrogate = forge.surrogate(changed(OTHERS[kind]))
    assert "autoencoder only" in surrogate.name and len(surrogate.sigmas) == 0
    for asked in (lambda: surrogate.conditioning("a cat"), lambda: surrogate.denoise(None, None, None)):
        with pytest.raises(CheckpointError, match="textural objective only"):
            asked()

    def textural(model):
        x = torch.rand(1, 3, 64, 64).requires_grad_()
        return torch.autograd.grad(model.encode(x).square().sum(), x)[0]

    assert run(surrogate, textural).abs().max() > 0
    assert forge.asked[0][0] == [surrogate.objects.vae.patcher]


def schnell():
    model = forge.Engine("flux")
    model.forge_objects_original.unet.model.diffusion_model.guidance_embed = False
    return model


PREDICTED = {
    "Flux": lambda: forge.Engine("flux"),
    "Flux schnell": schnell,
    "quantised": lambda: changed(quantise),
    "EDM": lambda: changed(lambda _, objects: setattr(objects.unet.model.predictor, "prediction_type", "edm")),
}


@pytest.fixture(params=PREDICTED)
def predicted(request):
    """A model that is only asked for predictions."""
    surrogate = forge.surrogate(PREDICTED[request.param]())
    return surrogate


def test_without_a_verified_gradient_the_sds_gradient_is_its_formula(predicted):
    """From the host's own denoised picture, and with nothing of the denoiser borrowed."""
    from mist_attack.objectives import ESTIMATES, Semantic

    assert not predicted.differentiable and predicted.modules == [predicted.objects.vae.first_stage_model]
    denoiser, prompt = predicted.objects.unet.model, predicted.conditioning("a cat")
    latents = torch.randn(1, 4, 8, 8)

    def task(model):
        semantic = Semantic(model, prompt, ESTIMATES["sds"])
        drawn = []
        draw = semantic.draw
        semantic.draw = lambda *given: drawn.append(draw(*given)) or drawn[-1]
        _, gradient = semantic.value_and_gradient(latents, torch.Generator().manual_seed(0))
        return gradient, *drawn[-1]

    gradient, timesteps, noise = run(predicted, task)
    sigma = predicted.sigmas[timesteps]
    flow = denoiser.predictor.prediction_type == "const"
    noised = (1 - sigma) * latents + sigma * noise if flow else latents + sigma * noise
    with torch.inference_mode():
        denoised = denoiser.apply_model(noised, sigma, transformer_options={}, **prompt)
    error = (latents - denoised) / sigma
    expected = -2 / latents.numel() * error * (1 if flow else (1 + sigma**2) ** -0.5)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-9)
    assert not gradient.is_inference()


def test_a_gradient_through_it_is_refused_in_a_line_that_says_what_to_do(predicted):
    def task(model):
        model.denoise(torch.randn(1, 4, 8, 8).requires_grad_(), model.sigmas[[0]], model.conditioning("a cat"))

    with pytest.raises(CheckpointError, match="Use the gradient sds"):
        run(predicted, task)


def test_what_it_predicts_can_be_computed_with(predicted):
    """No inference tensor, which the engine could not use further."""
    sigma, prompt = predicted.sigmas[[0]], predicted.conditioning("a cat")
    assert not run(predicted, lambda model: model.denoise(torch.randn(1, 4, 8, 8), sigma, prompt)).is_inference()


def test_its_memory_is_what_the_host_asks_for_a_generation(predicted):
    run(predicted, lambda _: None)
    (patchers, needed), objects = forge.asked[-1], predicted.objects
    assert patchers == [objects.unet, objects.vae.patcher]
    assert needed == memory(64 * 64, 0, low_vram=False) + objects.unet.model.memory_required([1, 4, 8, 8])


def test_a_distilled_model_is_asked_at_its_few_levels():
    assert len(forge.surrogate(forge.Engine("flux")).sigmas) == 10000
    torch.testing.assert_close(forge.surrogate(schnell()).sigmas, torch.tensor([0.25, 0.5, 0.75, 1.0]))


def test_what_a_prompt_holds_for_flux_is_handed_on_with_the_hosts_guidance():
    surrogate = forge.surrogate(forge.Engine("flux"))
    assert surrogate.name == "Engine (tiny-flux)" and surrogate.spatial_multiple("fused") == 16
    assert surrogate.conditioning("a cat")["guidance"].tolist() == [3.5]


def test_an_autoencoder_of_another_kind_is_refused():
    with pytest.raises(CheckpointError, match="KL kind"):
        forge.surrogate(changed(lambda _, objects: setattr(objects.vae, "first_stage_model", nn.Linear(1, 1))))


def test_which_web_ui_it_is_is_asked_as_a_fact(monkeypatch):
    with forge.installed():
        assert detect.webui() == "forge"
        assert detect.loaded_model().name == "SD1 (tiny-sd1)"


def test_a_backend_on_a_second_device_is_served():
    """`--vae-in-cpu`: pictures go to the autoencoder's device, latents to the UNet's."""
    model = forge.Engine()
    model.forge_objects_original.unet.load_device = torch.device("meta")
    surrogate = forge.surrogate(model)
    assert surrogate.device.type == "meta" and surrogate.sigmas.device.type == "meta"
    latents = run(surrogate, lambda model: model.encode(torch.rand(1, 3, 64, 64)))
    assert latents.device.type == "meta"


def test_noise_levels_are_those_of_the_training():
    surrogate = forge.surrogate()
    assert not surrogate.sigmas.is_inference()
    assert torch.equal(surrogate.sigmas, surrogate.objects.unet.model.predictor.sigmas)
