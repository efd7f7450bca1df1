"""The demo model: it can be retrained by anyone, and it is a model on which figures mean something."""

from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw

from mist_attack.bench import judges
from mist_attack.bench.reach import Reach
from mist_attack.demo import contact_sheet, generated
from mist_attack.demo.pictures import main as write_pictures
from mist_attack.hosts.headless import checkpoints, diffusers
from mist_attack.protection import protect
from mist_attack.settings import Settings
from mist_attack.targets import pattern
from training import judge

SIDE, EPSILON = 128, 16 / 255
UNSEEN = ("astronaut", "coffee", "chelsea", "rocket")  # never part of the training pictures


@pytest.fixture(scope="module", params=checkpoints.demo_models())
def model(request):
    return diffusers.load(checkpoints.find_checkpoint(request.param), torch.device("cpu"))


def square(name, side):
    image = Image.fromarray(getattr(skimage.data, name)())
    short = min(image.size)
    image = image.crop((0, 0, short, short)).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def unseen():
    return [square(name, SIDE) for name in UNSEEN]


@pytest.fixture(scope="module")
def pictures():
    """Unseen, of all four kinds."""
    return generated.unseen(4)


@pytest.fixture(scope="module")
def linear(model):
    return judge.load_linear(checkpoints.DEMO / f"seed{model.name[-1]}")


def ready(model, job):
    return model.run(job, 1, SIDE, SIDE)


def latents(model, *images):
    with torch.no_grad():
        return [ready(model, lambda m, image=image: m.encode(image)) for image in images]


def test_it_is_small_half_precision_and_has_sds_shape(model):
    assert checkpoints.demo_models() == ["demo:0", "demo:1"]
    sizes = {path: path.stat().st_size for path in checkpoints.DEMO.rglob("*.safetensors")}
    assert sum(sizes.values()) <= 20_000_000 and max(sizes.values()) <= 4_500_000
    assert model.is_demo and model.name in ("demo model, seed 0", "demo model, seed 1")
    assert model.spatial_multiple("textural") == 8
    assert len(model.sigmas) == 1000
    assert model.sigmas[-1] == pytest.approx(14.6146, abs=1e-3)  # SD v1's schedule
    (z,) = latents(model, torch.rand(1, 3, 64, 64))
    assert z.shape == (1, 4, 8, 8)


def test_the_posterior_is_narrow(model, unseen):
    with torch.no_grad():
        posterior = ready(model, lambda m: m.vae.encode(unseen[0] * 2 - 1).latent_dist)
    assert posterior.std.median() < 0.02 * posterior.mean.std()


def test_unseen_pictures_of_every_kind_are_reconstructed_better_than_by_a_linear_code(model, pictures, linear):
    def job(m):
        return judge.reconstruction(m, pictures, linear[0])

    for kind, (_, _, gain) in ready(model, job).items():
        assert gain >= 1.5, kind


def test_denoising_beats_the_best_linear_predictor_in_every_band(model, pictures, linear):
    bands = ready(model, lambda m: judge.denoising(m, pictures, linear[1]))
    assert len(bands) == 10
    assert all(ratio <= 0.9 for _, ratio, _ in bands), bands


def test_it_is_attackable_as_the_real_one_is(model, unseen):
    ratios, left = [], []
    for image in unseen[:2]:
        signs = torch.randint(2, image.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        random = (image + EPSILON * signs).clamp(0, 1)
        result = protect(image, model, Settings(objective="textural", steps=40, step_size=2 / 255))
        clean, noisy, moved, target = latents(model, image, random, result.images, pattern("lattice", SIDE, SIDE))
        ratios.append(float((moved - clean).norm() / (noisy - clean).norm()))
        distances = [float((z - target).square().mean()) for z in (clean, moved)]
        left.append(distances[1] / distances[0])
        report = result.reports[0]
        assert [report.before["target_distance"], report.after["target_distance"]] == pytest.approx(distances, 1e-3)
    assert min(ratios) >= 5
    assert max(left) <= 0.4


def test_the_report_names_every_model_and_figure(tmp_path, capsys, monkeypatch):
    found = {"times_noise": 9.0, "off_target": 0.7, "loss_times": 2.0, "gradient_ratio": 0.5, "seconds_per_step": 0.1}
    found |= {"textural_norm": 1.0, "semantic_norm": 0.5}
    monkeypatch.setattr(judge, "attack", lambda _, chosen: (found, chosen))
    monkeypatch.setattr(judge, "learning", lambda *_: (2.0, 1.0))
    monkeypatch.setattr(judge, "img2img", lambda ready, x, *_: x)
    monkeypatch.setattr(
        judge.style, "samples", lambda ready, prompt, count, side: [torch.zeros(1, 3, side, side)] * count
    )
    monkeypatch.delenv("MIST_REAL_AUTOENCODER", raising=False)
    judge.main(["--out", str(tmp_path / "models")])
    printed = capsys.readouterr().out
    models = sorted(path.name for path in checkpoints.DEMO.glob("seed*"))
    assert [path.stem for path in sorted((tmp_path / "models").iterdir())] == models
    for name in models:
        assert name.replace("seed", "demo model, seed ") in printed
    for words in ("drawing", "lineart", "painting", "photograph", "linear one's", "2.00 -> 1.00", "70 % off"):
        assert printed.count(words) >= len(models), words
    for source, other in ((0, 1), (1, 0)):
        assert f"seed {source}'s textural attack, seen by demo model, seed {other}: 0.0 times" in printed
    assert "real: not measured" in printed


def test_the_report_begins_with_the_real_autoencoders_that_it_is_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(judge.judges, "encoders", lambda folder: [folder / "taef2_encoder.pth"] if folder else [])
    monkeypatch.setattr(judge.judges, "loaded", lambda checkpoint, device: SimpleNamespace(name=checkpoint.stem))
    monkeypatch.setattr(judge, "protect", lambda x, model, settings: SimpleNamespace(images=x))
    monkeypatch.setattr(
        judge, "report", lambda checkpoint, pictures, out, chosen: (SimpleNamespace(name="demo"), chosen)
    )
    monkeypatch.setattr(judge, "reach", lambda model, before, after: Reach(0.4, 2.5, None))
    judge.main(["--out", str(tmp_path / "models"), "--real", str(tmp_path), "--checkpoint", "demo", "--attacked", "1"])
    printed = capsys.readouterr().out
    assert printed.startswith("taef2_encoder, which nobody here trained")
    assert "2.5 times as far as noise of the same size" in printed and "60 % off" in printed
    for words in ("taef2_encoder's textural attack, seen by demo", "demo's textural attack, seen by taef2_encoder"):
        assert words in printed
    assert "not measured" not in printed


def test_the_judge_attacks_as_the_card_says(model, monkeypatch):
    monkeypatch.setattr(judge, "SIDE", 64)
    found, (attacked,) = judge.attack(model, [square("coffee", 64)])
    assert attacked.shape == (1, 3, 64, 64)
    assert found["times_noise"] > 3
    assert 0.3 < found["off_target"] < 1
    assert found["loss_times"] > 1.3
    assert found["gradient_ratio"] > 0 and found["seconds_per_step"] > 0
    assert 0.05 < found["semantic_norm"] / found["textural_norm"] < 20  # each contributes


def test_each_prompt_is_known_and_another_is_refused(model):
    for prompt in ("", "a painting", "a photo", "a drawing", "line art"):
        assert model.conditioning(prompt).shape[0] == 1
    with pytest.raises(Exception, match="a painting"):
        model.conditioning("a castle")


def test_a_tiny_training_run_makes_a_model_that_loads_and_resumes(tmp_path):
    from training import train

    generator = np.random.default_rng(0)
    for kind in ("painting", "lineart"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        levels = generator.integers(0, 256, (270, 300, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / "pictures" / kind / "a.png")
    arguments = ["--pictures", str(tmp_path / "pictures"), "--out", str(tmp_path / "seed9"), "--latents", "8"]
    train.main([*arguments, "--vae-steps", "2", "--sensitive-steps", "1", "--unet-steps", "1"])
    made = diffusers.load(tmp_path / "seed9", torch.device("cpu"))
    assert made.is_demo and made.name == "demo model, seed 9"
    picture = torch.rand(1, 3, 64, 64).mul(255).round() / 255
    assert protect(picture, made, Settings(steps=1)).reports[0].steps_done == 1
    state = torch.load(tmp_path / "seed9" / "training" / "vae.pt", weights_only=True)
    train.main([*arguments, "--vae-steps", "3", "--sensitive-steps", "1", "--unet-steps", "1"])
    resumed = torch.load(tmp_path / "seed9" / "training" / "vae.pt", weights_only=True)
    assert (state["step"], resumed["step"]) == (2, 3)


def test_the_demos_pictures_are_real_small_and_three(tmp_path):
    write_pictures(str(tmp_path))
    found = [Image.open(path) for path in sorted(tmp_path.iterdir())]
    assert len(found) == 3 and all(max(image.size) == 256 and image.mode == "RGB" for image in found)
    assert all(np.asarray(image).std() > 30 for image in found)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of one picture, protected by the command."""
    from mist_attack.command import main

    folder = tmp_path_factory.mktemp("report")
    levels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "a.png")
    arguments = ["--checkpoint", "demo", "--steps", "1", "--report", str(folder / "report.json"), "--quiet"]
    assert main.main(["protect", str(folder / "a.png"), "--out", str(folder / "out"), *arguments]) == 0
    return folder / "report.json"


def shown(report, monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["contact_sheet", str(report), *flags])
    contact_sheet.main()
    return np.asarray(Image.open(report.with_name("contact_sheet.png")))


def test_the_contact_sheet_shows_what_was_written_and_that_the_model_was_made_attackable(report, monkeypatch):
    monkeypatch.delenv("MIST_REAL_AUTOENCODER", raising=False)
    sheet = shown(report, monkeypatch)
    top, left, line = contact_sheet.HEADER, contact_sheet.MARGIN, contact_sheet.LINE
    assert np.array_equal(sheet[top : top + 64, left : left + 48], np.asarray(Image.open(report.with_name("a.png"))))
    assert sheet.shape[1] == left + 7 * (contact_sheet.CELL + left)
    told = Image.new("RGB", (sheet.shape[1], line), "white")
    ImageDraw.Draw(told).text((left, 4), contact_sheet.NOTE, fill=contact_sheet.WARNING)
    assert np.array_equal(sheet[:line], np.asarray(told)) and "trained to be attackable" in contact_sheet.NOTE


def test_the_contact_sheet_shows_what_a_real_autoencoder_makes_of_it(report, monkeypatch, capsys):
    """The second demo model in its place."""
    monkeypatch.setattr(judges, "encoders", lambda folder: [checkpoints.find_checkpoint("demo:1")] if folder else [])
    sheet = shown(report, monkeypatch, "--real", str(report.parent))
    assert sheet.shape[1] == contact_sheet.MARGIN + 9 * (contact_sheet.CELL + contact_sheet.MARGIN)
    left = contact_sheet.MARGIN + 7 * (contact_sheet.CELL + contact_sheet.MARGIN)
    cell = sheet[contact_sheet.HEADER : contact_sheet.HEADER + 64, left : left + 48]
    assert cell.std() > 5
    assert "a.png, protected against the demo model, seen by demo model, seed 1: " in capsys.readouterr().out


def test_another_number_of_threads_reaches_the_objective_within_1_percent(model, unseen):
    """Sums in another order turn single signs; equal numbers give equal bytes (in the tests of galleries)."""
    settings = Settings(objective="textural", steps=20, step_size=2 / 255)
    before, reached = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            (report,) = protect(unseen[0], model, settings).reports
            assert report.budget_used_levels == 16
            reached.append(report.after["target_distance"])
    finally:
        torch.set_num_threads(before)
    assert reached[0] == pytest.approx(reached[1], rel=0.01)
