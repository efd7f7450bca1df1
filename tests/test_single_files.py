"""Single files of Stable Diffusion 2 and XL: against the modules that were written, in both of their predictions."""

import pytest
import torch
from diffusers import DDPMScheduler
from fakes import ldm
from safetensors.torch import save_file

from mist_attack.hosts.headless import diffusers
from mist_attack.hosts.headless.families import SIZE

CPU = torch.device("cpu")
SD2_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.fixture(scope="module", params=["sd_v2", "sd_xl"])
def tiny(request, tmp_path_factory):
    """(kind, config folder, modules, tensors in the original layout)."""
    torch.manual_seed(0)
    config = ldm.write_tiny_config(tmp_path_factory.mktemp(request.param) / "config", request.param)
    modules = ldm.new_modules(config)
    return request.param, config, modules, ldm.to_ldm(*modules)


@pytest.fixture
def load(tiny, tmp_path):
    def loaded(**marks):
        _, config, _, tensors = tiny
        save_file(tensors | marks, tmp_path / "model.safetensors")
        return diffusers.load(tmp_path / "model.safetensors", CPU, config=config)

    return loaded


def prompt_of(kind, text, text_2=None):
    """ "a painting" as the family reads it: OpenCLIP pads with nought, CLIP with its last word."""
    words = [49406, 320, 3086, 49407]
    clip, open_clip = torch.tensor([words + [49407] * 73]), torch.tensor([words + [0] * 73])
    with torch.no_grad():
        if kind == "sd_v2":
            return text(open_clip).last_hidden_state
        first, second = text(clip, output_hidden_states=True), text_2(open_clip, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return {"states": states, "pooled": second.text_embeds}


def test_prompts_are_those_of_the_text_encoders(tiny, load):
    kind, _, (_, _, *texts), _ = tiny
    expected, found = prompt_of(kind, *texts), load().conditioning("a painting")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def marks_of(kind, prediction):
    if kind == "sd_xl":
        return {"v_pred": torch.tensor([])} if prediction == "v_prediction" else {}
    spread = {"v_prediction": 0.2, "epsilon": 0.01}[prediction]
    return {SD2_BIAS: torch.linspace(-spread, spread, 16)}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_denoises_as_its_unet_does(tiny, load, prediction):
    kind, _, (unet, vae, *texts), _ = tiny
    marks = marks_of(kind, prediction)
    surrogate = load(**marks)
    assert surrogate.name == {"sd_v2": "SD v2", "sd_xl": "SDXL"}[kind] + " (model.safetensors)"
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    latents, noise, t = *torch.randn(2, 1, 4, 8, 8), torch.tensor([400])
    prompt, added = prompt_of(kind, *texts), None
    if kind == "sd_xl":
        added = {"text_embeds": prompt["pooled"], "time_ids": torch.tensor([SIZE], dtype=torch.float32)}

    def job(model):
        with torch.no_grad():
            x = scheduler.add_noise(latents, noise, t)
            states = prompt["states"] if kind == "sd_xl" else prompt
            answer = model.unet(x, t, states, added_cond_kwargs=added).sample
            clean = scheduler.step(answer, 400, x).pred_original_sample
            sigma = model.sigmas[t]
            denoised = model.denoise(model.noising.noised(latents, noise, sigma), sigma, prompt)
            picture = torch.rand(1, 3, 64, 64)
            mean = vae.encode(picture * 2 - 1).latent_dist.mean * vae.config.scaling_factor
            return denoised, clean, model.encode(picture), mean

    scheduler.config.clip_sample = False
    denoised, clean, encoded, mean = surrogate.run(job, 1, 64, 64)
    torch.testing.assert_close(denoised, clean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encoded, mean, rtol=1e-4, atol=2e-5)
    written = unet.state_dict()
    changed = {"up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"} if SD2_BIAS in marks else set()
    different = {k for k, v in surrogate.unet.state_dict().items() if not torch.equal(v, written[k])}
    assert different == changed


def test_a_schedule_that_ends_in_noise_alone_is_that_of_the_mark(tiny, load):
    if tiny[0] != "sd_xl":
        pytest.skip("files of Stable Diffusion 2 have no such mark")
    plain, to_the_end = load(), load(v_pred=torch.tensor([]), ztsnr=torch.tensor([]))
    assert to_the_end.sigmas[-1] > 100 * plain.sigmas[-1] and to_the_end.sigmas.isfinite().all()


@pytest.mark.parametrize("kind", ["sd_v2", "sd_xl"])
def test_the_configs_are_those_of_the_published_models(kind):
    """Numbers of parameters, as Stability AI's files hold them."""
    sizes = {"sd_v2": [865_910_724, 83_653_863, 340_387_840], "sd_xl": [2_567_463_684, 83_653_863]}
    with torch.device("meta"):
        modules = ldm.new_modules(diffusers.SD_V1.parent / kind, "meta")
    found = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert found[: len(sizes[kind])] == sizes[kind]
    assert kind == "sd_v2" or found[2:] == [123_060_480, 694_659_840]
