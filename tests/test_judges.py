"""What a protection reaches, judged on models that were not made attackable: formulas first, then the bench's part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real import real as real_file
from torch.nn import functional

from mist_attack.bench import judged_tables, judges, quality, real, unseen
from mist_attack.bench.asked import Asked
from mist_attack.bench.baseline import MistV1Textural, mist_v1
from mist_attack.bench.reach import Reach, reach
from mist_attack.budget import to_levels
from mist_attack.command import main
from mist_attack.errors import CheckpointError, PictureError
from mist_attack.report import psnr
from mist_attack.settings import resolve
from mist_attack.targets import pattern

SIDE = 64
CPU = torch.device("cpu")


class Pooled:
    """Latents are the means of blocks of a picture; its decoder makes them a little darker."""

    device, sigmas, differentiable = CPU, torch.empty(0), False

    def __init__(self, name="pooled", block=8, decodes=True):
        self.name, self.block, self.decodes = name, block, decodes

    def encode(self, images):
        return functional.avg_pool2d(images, self.block)

    def decode(self, latents):
        if not self.decodes:
            raise CheckpointError("no decoder")
        return 0.9 * functional.interpolate(latents, scale_factor=self.block)

    def spatial_multiple(self, objective):
        return self.block

    def conditioning(self, prompt):
        raise AssertionError("the textural objective has no prompt")

    def run(self, job, batch, height, width, *, low_vram=False):
        return job(self)


def picture(seed=0):
    levels = torch.randint(30, 220, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    return levels / 255


def test_a_constant_change_moves_means_as_far_as_noise_of_its_size_moves_single_values():
    """Means of n values: noise moves them by its size over the root of n."""
    x, block = picture(), 4
    found = reach(Pooled(block=block), x, x + 4 / 255)
    assert found.times_noise == pytest.approx(block, rel=0.1)
    assert reach(Pooled(block=1), x, x + 4 / 255).times_noise == pytest.approx(1, rel=1e-5)


def test_what_is_left_is_the_share_of_the_squared_distance_to_the_target():
    x, target = picture(), pattern("lattice", SIDE, SIDE)
    assert reach(Pooled(), x, x)[:2] == (1, 0)
    assert reach(Pooled(), x, target).left == pytest.approx(0, abs=1e-4)
    assert reach(Pooled(), x, x + 0.25 * (target - x)).left == pytest.approx(0.75**2, abs=1e-3)


def test_what_the_reconstruction_loses_is_measured_against_the_original():
    x, model = picture(), Pooled()
    after = (x + 16 / 255).clamp(0, 1)
    kept, left = (psnr(to_levels(x), to_levels(model.decode(model.encode(y)))) for y in (x, after))
    assert reach(model, x, after).lost_db == pytest.approx(kept - left)
    assert reach(model, x, x).lost_db == 0
    assert reach(Pooled(decodes=False), x, after).lost_db is None


def test_mists_loop_without_a_posterior_takes_the_steps_of_the_preset_mist(monkeypatch):
    """From the picture itself, as each draws its start by itself."""
    model, x = Pooled(block=1), picture()
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_: self.zero_())
    monkeypatch.setattr("mist_attack.budget.uniform", lambda like, generator: torch.full_like(like, 0.5))
    loss = MistV1Textural(model, pattern("lattice", SIDE, SIDE) * 2 - 1)
    theirs = to_levels(mist_v1(loss, x * 2 - 1, 8, 5) / 2 + 0.5)
    settings = resolve("mist", {"objective": "textural", "strength": 8, "steps": 5, "working_size": SIDE})
    ours = to_levels(real.protect(x, model, settings).images)
    assert torch.equal(theirs, ours) and not torch.equal(ours, to_levels(x))
    moved = (ours.to(torch.int16) - to_levels(x)).abs()
    assert int(moved.max()) == 5  # one level a step


def test_every_way_keeps_the_strength_it_is_tried_at(monkeypatch):
    monkeypatch.setattr(real, "published", lambda *rest, **how: quality.published(*rest, **how, steps=40))
    model, x = Pooled(block=1), picture()
    for way in real.WAYS:
        for levels in real.LEVELS:
            after = real.protected(model, x, way, levels)
            moved = (to_levels(after).to(torch.int16) - to_levels(x)).abs()
            assert 0 < int(moved.max()) <= levels, way
            assert reach(model, x, after).left < 1


@pytest.fixture
def here(monkeypatch):
    """Work for other processes, done in this one; a real model and a demo model in place of those there are."""

    class Processes:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, call, items):
            return map(call, items)

    models = {Path("taef2_encoder.pth"): Pooled("TAEF2 (taef2_encoder.pth)"), Path("demo"): Pooled("demo model", 4)}
    models[Path("sana_encoder.pth")] = Pooled("TAESANA (sana_encoder.pth)", 16, decodes=False)
    monkeypatch.setattr(real, "ProcessPoolExecutor", Processes)
    monkeypatch.setattr(judges, "encoders", lambda folder: [] if folder is None else [*models][::2])
    monkeypatch.setattr(judges, "demos", lambda: [Path("demo")])
    monkeypatch.setattr(judges, "loaded", lambda checkpoint, device: models[checkpoint])
    monkeypatch.setattr(
        unseen, "pictures", lambda *_: {"drawing": [picture(1)], "photograph": [picture(2), picture(3)]}
    )
    monkeypatch.setattr(real, "protected", lambda model, x, way, levels: x + levels / 255 * (x < 0.5) / model.block)
    return models


def test_every_model_is_judged_by_the_median_of_its_pictures_with_an_interval(here):
    said = []
    found = real.figures(Asked(device=CPU, real=Path("folder")), said.append)
    assert {name: told["real"] for name, told in found["judged"].items()} == {
        "TAEF2 (taef2_encoder.pth)": True,
        "TAESANA (sana_encoder.pth)": True,
        "demo model": False,
    }
    ways = found["judged"]["TAEF2 (taef2_encoder.pth)"]["ways"]
    assert list(ways) == [real.row(way, levels) for way in real.WAYS for levels in real.LEVELS]
    each = [
        reach(here[Path("taef2_encoder.pth")], picture(seed), picture(seed) + 16 / 255 * (picture(seed) < 0.5) / 8)
        for seed in (1, 2, 3)
    ]
    for name in Reach._fields:
        values = sorted(getattr(one, name) for one in each)
        measured = ways["quick, 16"][name]
        assert measured["median"] == pytest.approx(values[1])
        assert values[0] <= measured["low"] <= measured["median"] <= measured["high"] <= values[2]
    assert found["judged"]["TAESANA (sana_encoder.pth)"]["ways"]["quick, 16"]["lost_db"] is None
    assert found["judged_on"] == {"side": 256, "pictures": {"drawing": 1, "photograph": 2}}
    assert not any("not measured" in line for line in said)


def test_transfer_is_what_another_model_sees_of_the_same_pictures(here):
    transfer = real.figures(Asked(device=CPU, real=Path("folder")), lambda line: None)["transfer"]
    assert set(transfer) == {model.name for model in here.values()}
    attacked_on, judge = here[Path("demo")], here[Path("taef2_encoder.pth")]
    left = [
        reach(judge, x, x + 16 / 255 * (x < 0.5) / attacked_on.block).left for x in (picture(1), picture(2), picture(3))
    ]
    assert transfer[attacked_on.name][judge.name]["left"]["median"] == pytest.approx(sorted(left)[1])
    assert list(transfer[attacked_on.name]) == list(transfer[judge.name])


def test_without_a_real_autoencoder_its_column_says_so(here):
    said = []
    found = real.figures(Asked(device=CPU), said.append)
    assert "not measured" in said[0] and "MIST_REAL_AUTOENCODER" in said[0]
    assert list(found["judged"]) == ["demo model"]
    shown = judged_tables.judged_section(found)
    lines = [line for line in shown.splitlines() if line.startswith("| quick, 16")]
    assert len(lines) == 1 and lines[0].split(" | ")[1:3] == ["not measured"] * 2
    assert "| way, strength | TAEF2 | TAESANA | demo model |" in shown


def test_real_autoencoders_come_first_and_mists_own_picture_is_in_the_table_of_transfer(here):
    shown = judged_tables.judged_section(real.figures(Asked(device=CPU, real=Path("folder")), lambda line: None))
    assert "| way, strength | TAEF2 | TAESANA | demo model |" in shown
    assert "| attacked on | TAEF2 | TAESANA | demo model |" in shown
    assert "| SD v1.4: Mist's published picture | 1.7 times | 1.7 times | not measured |" in shown
    nothing = judged_tables.judged_section({})
    assert nothing.startswith("Not measured.\n") and "published picture | 1.7 times | 1.7 times |" in nothing


@pytest.mark.parametrize("flag", [True, False])
def test_the_folder_is_the_flags_or_the_environments(tmp_path, monkeypatch, flag):
    monkeypatch.delenv(judges.ENVIRONMENT, raising=False)
    assert judges.real_folder(None) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x_encoder.pth").touch()
    (tmp_path / "mine" / "a_encoder.safetensors").touch()
    (tmp_path / "mine" / "x_decoder.pth").touch()
    monkeypatch.setenv(judges.ENVIRONMENT, str(tmp_path / ("nowhere" if flag else "mine")))
    folder = judges.real_folder(tmp_path / "mine" if flag else None)
    assert folder == tmp_path / "mine"
    assert [path.name for path in judges.encoders(folder)] == ["a_encoder.safetensors", "x_encoder.pth"]


def test_a_folder_without_an_encoder_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decoder_alone").mkdir()
    (tmp_path / "decoder_alone" / "taef2_decoder.pth").touch()
    for name in "decoder_alone", "nowhere":
        assert main.main(["bench", "--only", "real", "--real", name]) == 1
        told = capsys.readouterr().err
        assert name in told and "*_encoder.pth" in told
    assert main.main(["bench", "--only", "real", "--each", "0"]) == 1
    assert "--each" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()


def saved(path, size=(90, 60), colour=(200, 30, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_pictures_come_from_a_folder_by_kind(tmp_path):
    for name in ("b.png", "a.jpg", "c.webp"):
        saved(tmp_path / "mine" / "painting" / name)
    saved(tmp_path / "mine" / "one.png", (20, 300))
    (tmp_path / "mine" / "notes.txt").touch()
    (tmp_path / "mine" / "empty").mkdir()
    found = unseen.pictures(2, 32, tmp_path / "mine")
    assert {kind: len(members) for kind, members in found.items()} == {"mine": 1, "painting": 2}
    assert all(x.shape == (1, 3, 32, 32) for members in found.values() for x in members)
    assert len(unseen.pictures(folder=tmp_path / "mine")["painting"]) == 3


def test_the_middle_of_a_picture_is_judged(tmp_path):
    levels = np.zeros((40, 120, 3), np.uint8)
    levels[:, 40:80] = 250
    Image.fromarray(levels).save(tmp_path / "a.png")
    (x,) = unseen.pictures(1, 40, tmp_path)[tmp_path.name]
    assert torch.equal(to_levels(x), torch.full_like(to_levels(x), 250))


def test_a_folder_without_pictures_or_with_a_broken_one_is_named(tmp_path):
    with pytest.raises(PictureError, match="holds no picture"):
        unseen.pictures(1, 32, tmp_path)
    with pytest.raises(PictureError, match=r"nowhere is none"):
        unseen.pictures(1, 32, tmp_path / "nowhere")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"broken\.png"):
        unseen.pictures(1, 32, tmp_path)


@pytest.mark.parametrize("side", [64, 128])
def test_pictures_that_anyone_has_come_at_any_side(side):
    found = unseen.pictures(1, side)
    assert list(found) == ["drawing", "lineart", "painting", "photograph"]
    assert all(x.shape == (1, 3, side, side) and float(x.std()) > 0.02 for (x,) in found.values())


def test_a_real_autoencoder_gives_way_and_what_is_left_of_it_can_be_seen():
    model = judges.loaded(real_file(), CPU)
    (x,) = unseen.pictures(1, SIDE)["photograph"]
    found = {levels: reach(model, x, real.protected(model, x, "quick", levels)) for levels in (4, 16)}
    assert found[16].left < found[4].left < 0.95
    assert found[16].times_noise > 1.3 and found[16].lost_db > found[4].lost_db > 0
    assert judges.encoders(judges.real_folder(real_file().parent))[0] == real_file()


def test_an_encoder_alone_judges_too():
    model = judges.loaded(real_file("taesana_encoder.pth"), CPU)
    (x,) = unseen.pictures(1, SIDE)["photograph"]
    found = reach(model, x, real.protected(model, x, "quick", 16))
    assert found.left < 0.95 and found.lost_db is None
