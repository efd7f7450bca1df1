"""The denoiser on TAEF2's latents that the repository carries: what it is paired with, how, and how it was made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny as made
from fakes.command import draw, mist
from fakes.tiny import TAEF2, TAESANA, TAESD
from PIL import Image
from real import real

from mist_attack.bench import unseen
from mist_attack.errors import CheckpointError
from mist_attack.hosts.headless import choice, tiny
from mist_attack.hosts.headless.checkpoints import find_checkpoint

CPU = torch.device("cpu")
FOLDER = choice.DENOISERS["TAEF2"]
ABOUT = "Its denoiser is a small one that we trained on TAEF2's latents; the autoencoder is strangers'."
PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_what_is_carried_is_small_and_holds_nothing_of_strangers():
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert set(files) == {weights, "unet/config.json", "scheduler/scheduler_config.json", "prompts.safetensors"}
    assert sum(path.stat().st_size for path in files.values()) < 4e6


def test_it_makes_of_the_strangers_autoencoder_a_whole_model(tmp_path):
    path = made.write(tmp_path, TAEF2, "taef2")
    model, alone = choice.real_model(path, CPU), tiny.load(path, CPU)
    assert model.name == "TAEF2 (taef2_encoder.pth) with a denoiser" and model.about == ABOUT and not model.is_demo
    assert len(model.sigmas) == 1000 and len(alone.sigmas) == 0

    def job(ready):
        with torch.no_grad():
            latents, prompt = ready.encode(PICTURE), ready.conditioning("a painting")
            return latents, ready.decode(latents), ready.denoise(latents, ready.sigmas[[500]], prompt)

    latents, decoded, denoised = model.run(job, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(latents, alone.encode(PICTURE))  # no scale of our own
        torch.testing.assert_close(decoded, alone.decode(latents), atol=1e-5, rtol=0)
    assert denoised.shape == latents.shape == (1, 32, 8, 8)


@pytest.mark.parametrize("case", ["no decoder", "another family", "other channels", "no diffusers"])
def test_otherwise_the_autoencoder_stays_alone(tmp_path, monkeypatch, case):
    family = {"another family": TAESD, "other channels": TAESANA}.get(case, TAEF2)
    path = made.write(tmp_path, family, "one")
    if case == "no decoder":
        (tmp_path / "one_decoder.pth").unlink()
    if case == "no diffusers":
        monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert len(choice.real_model(path, CPU).sigmas) == 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """As a user makes one: our folder, with TAEF2's files in vae/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    shutil.copytree(FOLDER, "model")
    Path("model/vae").mkdir()
    made.write(Path("model/vae"), TAEF2, "taef2")
    return Path("model")


def test_a_folder_of_both_protects_in_the_fused_mode(folder, capsys):
    draw("a.png", (64, 40))
    assert mist("protect", "a.png", "--out", "out", "--steps", 1, "--report", "r.json", "--checkpoint", folder) == 0
    assert "TAEF2 (taef2_encoder.pth) with a denoiser on cpu" in capsys.readouterr().out
    report = json.loads(Path("r.json").read_text("utf-8"))[0]["report"]
    assert report["settings"]["objective"] == "fused" and "denoising_loss" in report["after"]


def test_an_autoencoder_of_other_channels_is_refused(folder, capsys):
    shutil.rmtree(folder / "vae")
    (folder / "vae").mkdir()
    made.write(folder / "vae")
    with pytest.raises(CheckpointError, match=r"takes latents of 32 channels, and TAESD or TAESDXL .* gives 4"):
        choice.load(folder, CPU)


def test_evaluate_judges_by_it_and_says_whose_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = made.write(tmp_path, TAEF2, "taef2")
    levels = np.asarray(Image.open(draw("a.png", (64, 64)))).astype(int)
    Image.fromarray((levels + 9 * (levels < 128)).astype(np.uint8)).save("b.png")
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    assert mist("evaluate", "a.png", "b.png", "--real", path, "--out", "out") == 0
    told = capsys.readouterr()
    found = json.loads(Path("out/results.json").read_text("utf-8"))
    (judged,) = found["pairs"][0]["models"]
    assert judged["model"].startswith("TAEF2") and judged["about"] == found["verdicts"][0]["about"] == ABOUT
    assert len(judged["denoising"]) == 8 and len(judged["img2img"]) == 4 and judged["inpainting"]["rms_levels"] > 0
    assert ABOUT in told.err and Path("out/index.html").read_text("utf-8").count(ABOUT.replace("'", "&#39;")) == 2


def test_it_predicts_better_than_a_constant_on_the_real_one():
    """On pictures that it has not seen, at every tenth of the schedule; the constant is v = 0."""
    model = choice.real_model(real(), CPU)
    pictures = torch.cat([x for members in unseen.pictures(1, side=64).values() for x in members])

    def job(ready):
        with torch.no_grad():
            latents, found = ready.encode(pictures), []
            for t in range(50, 1000, 100):
                sigma, noise = ready.sigmas[[t]].expand(len(latents)), torch.randn(latents.shape)
                noised = ready.noising.noised(latents, noise, sigma)
                error = ready.denoise(noised, sigma, ready.conditioning("")) - latents
                constant = noised / (1 + sigma.view(-1, 1, 1, 1).square()) - latents
                found.append(float(error.square().mean() / constant.square().mean()))
            return found

    torch.manual_seed(0)
    assert max(model.run(job, 1, 64, 64)) < 0.9


# Training


def test_training_begins_at_the_best_constant_and_resumes(tmp_path, monkeypatch):
    from training import real_latents

    monkeypatch.setattr(real_latents, "SHARD", 2)
    with torch.no_grad():
        fresh = real_latents.new_unet()(torch.randn(1, 32, 8, 8), 500, torch.randn(1, 8, 64)).sample
    assert not fresh.any()
    (tmp_path / "pictures" / "painting").mkdir(parents=True)
    draw(tmp_path / "pictures" / "painting" / "a.png", (260, 256))
    words = ["--pictures", tmp_path / "pictures", "--autoencoder", made.write(tmp_path, TAEF2, "taef2")]
    words += ["--work", tmp_path / "work", "--out", tmp_path / "out", "--latents", "2"]
    for steps in (1, 2):
        real_latents.main([*map(str, words), "--steps", str(steps)])
        assert torch.load(tmp_path / "work" / "unet.pt", weights_only=True)["step"] == steps
    latents, kinds = real_latents.bank(tmp_path / "work")
    assert latents.shape == (2, 32, 32, 32) and latents.dtype == torch.float16 and kinds == ["painting"] * 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"unet", "scheduler", "prompts.safetensors"}
    monkeypatch.setitem(choice.DENOISERS, "TAEF2", tmp_path / "out")
    assert choice.real_model(tmp_path / "taef2_encoder.pth", CPU)._predicts_v


def test_the_judge_counts_a_loss_over_the_originals(monkeypatch, tmp_path):
    from training import judge_latents

    monkeypatch.setattr(judge_latents, "SIDE", 64)
    monkeypatch.setattr(judge_latents, "SEEDS", range(1000, 1001))
    model = choice.load(find_checkpoint("demo"), CPU)
    same = judge_latents.judged(model, PICTURE, (PICTURE + 1 / 255).clamp(0, 1))
    assert same["loss_times"] == pytest.approx(1, abs=0.1) and len(same["loss_times_by_band"]) == 8
    row = {"model": "m", "picture": "p", "way": "mist", **same}
    assert "m: mist, 2 pictures" in judge_latents.table([row, row])
