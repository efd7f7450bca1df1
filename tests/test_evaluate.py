"""`mist evaluate`: each number recomputed in a few lines of its own, the page, and what it refuses."""

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.command import Model, draw, files, mist, toy_model  # noqa: F401
from fakes.toy import ToySurrogate
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from mist_attack.errors import CheckpointError
from mist_attack.evaluation.effect import BANDS, DRAWS
from mist_attack.evaluation.intervals import share, worst, worst_median
from mist_attack.evaluation.judging import judge
from mist_attack.evaluation.page import writing
from mist_attack.evaluation.page.plots import plots
from mist_attack.evaluation.results import Pair, results, summaries
from mist_attack.evaluation.sight import sights
from mist_attack.evaluation.transforms import SUITE, transformed
from mist_attack.evaluation.words import as_text, sentences, short, verdict
from mist_attack.hosts.headless import checkpoints, diffusers
from mist_attack.randomness import noise_like
from mist_attack.settings import resolve
from mist_attack.targets import PatternTarget
from mist_attack.words import figure

pytestmark = pytest.mark.usefixtures("toy_model", "one_thread", "quick_pages")
SIDE = 64


@pytest.fixture
def one_thread():
    """Pictures of these sizes are too small to share, and threads that wait for each other cost most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plotted():
    """Asked for by tests that look at plots."""


@pytest.fixture
def quick_pages(request, monkeypatch):
    """Plots take most of a page's time."""
    if "plotted" not in request.fixturenames:
        monkeypatch.setattr(writing, "plots", lambda *_: {})


def protected(before, path, seed=1, size=9):
    """Moved by up to `size` levels, in coarse blocks."""
    levels = np.asarray(Image.open(before).convert("RGB")).astype(int)
    height, width = levels.shape[:2]
    drawn = np.random.default_rng(seed).integers(-size, size + 1, (height // 8 + 1, width // 8 + 1, 3))
    moved = levels + drawn.repeat(8, 0).repeat(8, 1)[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(moved.clip(0, 255).astype(np.uint8)).save(path)
    return path


def smooth(path, size=(SIDE, SIDE), seed=0):
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def pair(tmp_path):
    before = smooth(tmp_path / "originals" / "a.png")
    return before, protected(before, tmp_path / "protected" / "a.png")


def levels(path):
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None]


def found(out="evaluation"):
    return json.loads(Path(out, "results.json").read_text("utf-8"))


def page(out="evaluation"):
    return Path(out, "index.html").read_text("utf-8")


def rms(a, b):
    return math.sqrt(((a.double() - b.double()) ** 2).mean())


def near(value):
    return pytest.approx(value, rel=1e-4, abs=1e-7)


@torch.no_grad()
def test_each_figure_the_model_is_recomputed(pair):
    before, after = map(levels, pair)
    assert mist("evaluate", *pair, "--seed", 3) == 0
    (row,) = found()["pairs"]
    (judged,) = row["models"]
    whole, model = judged["views"]["whole"], Model()
    noisy = before + (after.int() - before).abs() * (torch.randint(2, before.shape, generator=seeded(3)) * 2 - 1)
    noisy = noisy.clamp(0, 255)
    a, b, c = (model.encode(x.float() / 255) for x in (before, after, noisy))

    effect = whole["effect"]
    assert effect["latent_shift"] == near(rms(a, b)) and effect["latent_shift_of_noise"] == near(rms(a, c))
    assert effect["shift_over_noise"]["value"] == near(rms(a, b) / rms(a, c))
    assert effect["shift_over_noise"]["low"] < effect["shift_over_noise"]["value"] < effect["shift_over_noise"]["high"]
    (view,) = sights(model, SIDE, SIDE, 512)[0].views
    target = model.encode(PatternTarget("lattice").seen(view))
    assert effect["target_distance_before"] == near(rms(a, target) ** 2)
    assert effect["target_distance_after"] == near(rms(b, target) ** 2)
    for name, z in (("before", a), ("after", b), ("of_noise", c)):
        kept = (model.decode(z) * 255).round().to(torch.uint8)
        expected = peak_signal_noise_ratio(before.numpy(), kept.numpy())
        assert effect[f"reconstruction_psnr_db_{name}"] == near(expected)

    assert set(whole["survival"]) == {*SUITE, "worst", "nearest_noise"}
    prompt = model.conditioning("a painting")
    left, over = {}, {}
    for name in SUITE:
        x, y, z = (
            model.encode(transformed(name, p, model, prompt).float() / 255) for p in (before, after, noisy.byte())
        )
        survived = whole["survival"][name]
        assert survived["latent_shift"] == near(rms(x, y))
        over[name] = survived["over_noise"]["value"]
        assert over[name] == near(rms(x, y) / rms(x, z))
        left[name] = survived["share_left"]["value"]
        assert left[name] == near(rms(x, y) / rms(a, b))
    lowest = min(left, key=left.get)
    assert whole["survival"]["worst"]["name"] == lowest
    assert whole["survival"]["worst"]["share_left"]["value"] == near(left[lowest])
    assert whole["survival"]["nearest_noise"]["name"] == min(over, key=over.get)
    assert whole["survival"]["nearest_noise"]["over_noise"]["value"] == near(min(over.values()))

    draws = seeded(3)
    for band, told in zip(BANDS, judged["denoising"], strict=True):
        sigma = model.sigmas[[int(band * 1000)]]
        noises = [torch.randn(a.shape, generator=draws) for _ in range(DRAWS)]
        for key, z in (("before", a), ("after", b), ("of_noise", c)):
            errors = [(z + sigma * n - model.denoise(z + sigma * n, sigma, prompt)) / sigma - n for n in noises]
            assert told[key] == near(sum(float(e.square().mean()) for e in errors) / DRAWS)
        assert told["gap"] == near(told["after"] - told["before"])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_variations_start_from_the_same_noise_and_their_distance_is_recomputed(pair):
    before, after = map(levels, pair)
    made = judge(ToySurrogate(), before, after, resolve("default", {"seed": 5}))
    model, prompt = ToySurrogate(), ToySurrogate().conditioning("a painting")
    noise = torch.randn(1, 4, 8, 8, generator=seeded(5))
    for row in made.figures["img2img"]:
        steps, results = max(2, round(20 * row["strength"])), []
        for picture in (before, after):
            z = model.encode(picture.float() / 255)
            times = np.linspace(round(row["strength"] * 1000) - 1, 0, steps).round().astype(int)
            sigmas = [*model.sigmas[times].tolist(), 0.0]
            z = z + sigmas[0] * noise
            for now, then in pairwise(sigmas):
                z = z + (z - model.denoise(z, torch.tensor([now]), prompt)) / now * (then - now)
            results.append((model.decode(z) * 255).round().to(torch.uint8))
        assert row["rms_levels"] == pytest.approx(rms(*results), abs=0.02)
        shown = made.pictures[f"img2img_{row['strength']:g}_before"]
        assert int((shown.int() - results[0]).abs().max()) <= 1


def test_painting_anew_leaves_what_is_around(pair):
    before, after = map(levels, pair)
    made = judge(ToySurrogate(), before, after, resolve("default", {}))
    kept, painted = made.pictures["reconstruction_before"], made.pictures["inpainting_before"]
    middle = slice(SIDE // 4, 3 * SIDE // 4)
    around = torch.ones(SIDE, SIDE, dtype=torch.bool)
    around[middle, middle] = False
    assert int((painted.int() - kept).abs()[..., around].max()) <= 1
    assert int((painted.int() - kept).abs()[..., middle, middle].max()) > 10
    both = [made.pictures[f"inpainting_{name}"][..., middle, middle] for name in ("before", "after")]
    assert made.figures["inpainting"]["rms_levels"] == near(rms(*both))


def test_an_autoencoder_alone_leaves_the_rest_unmeasured(pair):
    before, after = map(levels, pair)
    figures = judge(ToySurrogate(vae_only=True), before, after, resolve("default", {})).figures
    missing = figures["not_measured"]
    assert {"img2img", "denoising", "inpainting"} == set(missing) and all(missing.values())
    assert figures["img2img"] is figures["denoising"] is figures["inpainting"] is None
    assert set(figures["views"]["whole"]["survival"]) == {*SUITE, "worst", "nearest_noise"} - {"img2img"}


def test_an_encoder_without_a_decoder_says_so(pair):
    class Half(ToySurrogate):
        def decode(self, latents):
            raise CheckpointError("it has no decoder")

    figures = judge(Half(vae_only=True), *map(levels, pair), resolve("default", {})).figures
    assert figures["not_measured"]["reconstruction"] == figures["not_measured"]["round_trip"] == "it has no decoder"
    assert "round_trip" not in figures["views"]["whole"]["survival"]
    assert not [name for name in figures["views"]["whole"]["effect"] if name.startswith("reconstruction")]


@torch.no_grad()
def test_a_large_picture_is_judged_reduced_and_in_native_crops(tmp_path):
    path = smooth(tmp_path / "large.png", (160, 96))
    before, after = levels(path), levels(protected(path, tmp_path / "p.png"))
    model = ToySurrogate(vae_only=True)
    figures = judge(model, before, after, resolve("default", {"working_size": 64})).figures
    reduced = [F.interpolate(x.float() / 255, (48, 80), mode="bilinear", antialias=True) for x in (before, after)]
    whole, native = figures["views"]["whole"], figures["views"]["native"]
    assert whole["effect"]["latent_shift"] == near(rms(*map(model.encode, reduced)))
    assert "reduced to 80 x 48" in whole["words"] and "3 crops of 64 x 64" in native["words"]
    places = ((16, 48), (0, 0), (32, 96))
    crops = [[x[..., t : t + 64, u : u + 64].float() / 255 for x in (before, after)] for t, u in places]
    squares = [rms(*map(model.encode, crop)) ** 2 for crop in crops]
    assert native["effect"]["latent_shift"] == near(math.sqrt(sum(squares) / 3))
    half = [
        [transformed("half", x)[..., t : t + 64, u : u + 64].float() / 255 for x in (before, after)] for t, u in places
    ]
    left = math.sqrt(sum(rms(*map(model.encode, crop)) ** 2 for crop in half) / sum(squares))
    assert native["survival"]["half"]["share_left"]["value"] == near(left)
    times = native["effect"]["shift_over_noise"]
    (one,), (several,) = summaries([{"models": [figures]}]), summaries([{"models": [figures]}] * 2)
    assert one["native_shift_over_noise"] == times
    assert several["native_shift_over_noise"] == dict.fromkeys(("value", "low", "high"), times["value"])
    assert "in crops at its own scale" in verdict(one) and "in crops at its own scale" in verdict(several)


def test_the_text_says_why_a_part_was_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    before = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    judged = judge(ToySurrogate(vae_only=True), before, before + 4, resolve("default", {}))
    text = as_text(results([Pair("a.png", "b.png", before, before + 4, [judged]).figures()], {}, {}))
    for words in ("denoising: this needs the whole model", "bilateral and guided filters: The bilateral"):
        assert f"Not measured: {words}" in text


def test_noise_is_as_large_as_the_protection_at_every_value():
    before = torch.randint(20, 230, (1, 3, 32, 32), dtype=torch.uint8)
    after = (before + torch.randint(-9, 10, before.shape)).to(torch.uint8)
    noisy = noise_like(before, after, 4)
    assert torch.equal((noisy.int() - before).abs(), (after.int() - before).abs())
    signs = ((noisy.int() - before) * (after.int() - before)).sign().float()
    assert abs(float(signs.mean())) < 0.1


def test_the_interval_of_a_share_and_of_the_worst():
    wholes = np.random.default_rng(0).uniform(1, 2, 16)
    assert share(wholes / 4, wholes) == pytest.approx((0.5, 0.5, 0.5))
    parts = wholes * np.random.default_rng(1).uniform(0.1, 0.4, 16)
    value, low, high = share(parts, wholes)
    assert value == pytest.approx(math.sqrt(parts.sum() / wholes.sum())) and low < value < high
    assert share(parts, 0 * wholes) is None
    name, (lowest, _, end) = worst({"one": (parts, wholes), "other": (np.roll(parts, 1) * 1.001, wholes)})
    assert name in ("one", "other") and lowest <= value and end <= high
    assert worst_median({"x": [0.5, 0.6, 0.7], "y": [0.2, 0.3, 0.9]})[0] == "y"
    assert worst_median({"x": [0.5, 0.6, 0.7], "y": [0.2, 0.3, 0.9]})[1].median == 0.3


def test_the_page_holds_the_numbers_and_everything_it_needs(pair, plotted):
    assert mist("evaluate", *pair) == 0
    text, everything = page(), found()
    (row,) = everything["pairs"]
    whole = row["models"][0]["views"]["whole"]
    for value in (
        *row["visibility"].values(),
        *(f["latent_shift"] for n, f in whole["survival"].items() if n in SUITE),
    ):
        assert value is None or figure(value) in text
    for told in everything["verdicts"]:
        assert html.escape(told["words"]) in text
    assert all(transform.words in text for transform in SUITE.values())
    outside = re.sub(r'xmlns(:\w+)?="[^"]*"|data:image/png;base64,[A-Za-z0-9+/=]*', "", text)
    assert not re.search(r"https?:|//[a-z]|@import|<link|<iframe|url\((?!#|\")", outside.split("<script>")[0])
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(text) and "default-src 'none'" in html.unescape(text)
    assert text.count("<svg") >= 4 and text.count("data:image/png;base64,") >= 8
    images = re.findall(r"<img [^>]*>", text)
    assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
    assert "do not publish it" in text and 'lang="en"' in text and "width=device-width" in text
    assert "mimicry" in text and "LPIPS needs weights" in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_page_that_may_be_published_has_no_picture(pair):
    assert mist("evaluate", *pair, "--no-pictures") == 0
    assert "data:image" not in page() and "do not publish" not in page()
    assert figure(found()["pairs"][0]["visibility"]["psnr_db"]) in page()


def test_no_changed_picture_is_written_and_the_originals_stay(pair, tmp_path):
    kept = {path: path.read_bytes() for path in pair}
    assert mist("evaluate", *pair, "--out", "out") == 0
    assert files(tmp_path / "out") == ["index.html", "results.csv", "results.json"]
    assert {path: path.read_bytes() for path in pair} == kept


def test_the_table_has_every_figure_a_line_and_computes_nothing(tmp_path):
    before = smooth(tmp_path / "=1+1.png")
    after = protected(before, tmp_path / "p" / "=1+1.png")
    assert mist("evaluate", before, after) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "evaluation" / "results.csv").read_text("utf-8"))))
    assert {row["original"] for row in rows} == {"'=1+1.png"}
    by_figure = {(row["view"], row["figure"]): row for row in rows}
    whole = found()["pairs"][0]["models"][0]["views"]["whole"]
    told = by_figure["whole", "half.share_left"]
    assert {key: float(told[key]) for key in ("value", "low", "high")} == whole["survival"]["half"]["share_left"]
    assert float(by_figure["", "psnr_db"]["value"]) == found()["pairs"][0]["visibility"]["psnr_db"]
    assert float(by_figure["whole", "img2img.0.3.rms_levels"]["value"]) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_names_are_escaped(tmp_path):
    name = "<img src=x onerror=alert(1)>\"'{{7*7}}.png"
    before = smooth(tmp_path / name)
    assert mist("evaluate", before, protected(before, tmp_path / "p" / name)) == 0
    assert "<img src=x" not in page() and "{{7*7}}" in page() and html.escape("<img src=x") in page()


def test_folders_are_paired_by_name_and_what_has_no_counterpart_is_told(tmp_path, capsys):
    for i, name in enumerate(("a", "deep/b", "c")):
        before = smooth(tmp_path / "o" / f"{name}.jpg", seed=i)
        if name != "c":
            protected(before, tmp_path / "o" / "mist" / f"{name}.png", seed=i)
    assert mist("evaluate", "o", "o/mist") == 3
    assert "passed over" in capsys.readouterr().err
    everything = found()
    assert [row["protected"] for row in everything["pairs"]] == ["a.png", "deep/b.png"]
    assert [name for name in everything["failed"] if name.endswith("c.jpg")]
    (summary,) = everything["summary"]
    times = [row["models"][0]["views"]["whole"]["effect"]["shift_over_noise"]["value"] for row in everything["pairs"]]
    assert summary["shift_over_noise"]["value"] == near(np.median(times)) and summary["pictures"] == 2
    assert summary["intervals_over"] == "2 pictures" and "2 protected pictures" in everything["verdicts"][0]["words"]
    assert "c.jpg" in page() and page().count("<h2>") == 4


def test_a_pair_that_fails_does_not_stop_the_others(tmp_path, capsys):
    for i, size in enumerate(((64, 64), (64, 48))):
        before = smooth(tmp_path / "o" / f"{i}.png")
        smooth(tmp_path / "p" / f"{i}.png", size, seed=9) if i else protected(before, tmp_path / "p" / f"{i}.png")
    assert mist("evaluate", "o", "p") == 2
    assert "64 x 64 pixels and the protected one 64 x 48" in capsys.readouterr().err
    assert len(found()["pairs"]) == 1 and "1.png" in found()["failed"]


def equal(folder):
    return smooth(folder / "a.png"), smooth(folder / "b.png")


def sizes(folder):
    return smooth(folder / "a.png"), smooth(folder / "b.png", (64, 48))


def unpaired(folder):
    return smooth(folder / "o" / "a.png").parent, smooth(folder / "p" / "b.png").parent


def mixed(folder):
    return smooth(folder / "o" / "a.png").parent, smooth(folder / "b.png")


def absent(folder):
    return smooth(folder / "a.png"), folder / "nothing.png"


def no_picture(folder):
    (folder / "b.png").write_bytes(b"text")
    return smooth(folder / "a.png"), folder / "b.png"


@pytest.mark.parametrize(
    "made, words",
    [
        (equal, "are equal"),
        (sizes, "one size"),
        (unpaired, "has the name of one in"),
        (mixed, "two pictures or two folders"),
        (absent, "no such file"),
        (no_picture, "expected a picture"),
    ],
    ids=lambda made: getattr(made, "__name__", ""),
)
def test_what_cannot_be_judged_is_refused_and_nothing_is_written(made, words, tmp_path, capsys):
    assert mist("evaluate", *made(tmp_path)) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "evaluation").exists()


def test_one_picture_alone_is_refused(tmp_path, capsys):
    assert mist("evaluate", smooth(tmp_path / "a.png")) == 1
    assert "PROTECTED" in capsys.readouterr().err


def test_modes_may_differ_and_that_is_told(tmp_path):
    before = smooth(tmp_path / "a.png")
    after = protected(before, tmp_path / "b.png")
    Image.open(before).convert("RGBA").save(before)
    assert mist("evaluate", before, after) == 0
    assert "transparency was left out" in str(found()["pairs"][0]["notices"]) and "transparency was left out" in page()


def test_a_grey_picture_against_one_in_colours_is_told(tmp_path):
    before = smooth(tmp_path / "a.png")
    after = tmp_path / "b.png"
    Image.open(protected(before, after)).convert("L").save(after)
    assert mist("evaluate", before, after) == 0
    told = "the protected picture is grey and the original in colours: that difference counts too"
    assert told in found()["pairs"][0]["notices"] and told in page() and told in sentences(found())


def test_what_is_too_small_for_a_figure_is_not_measured_and_never_filled_in(tmp_path):
    """A latent or two: noise may move them by nothing."""
    before = smooth(tmp_path / "a.png", (8, 8))
    levels = np.asarray(Image.open(before)).copy()
    levels[0, 0] ^= 1
    Image.fromarray(levels).save(tmp_path / "b.png")
    assert mist("evaluate", before, tmp_path / "b.png") == 0
    survival = found()["pairs"][0]["models"][0]["views"]["whole"]["survival"]
    unknown = [name for name in SUITE if survival[name]["over_noise"] is None]
    assert (
        unknown and "worst" not in survival and "nothing could be told against noise" in found()["verdicts"][0]["words"]
    )
    assert page().count("not measured") > len(unknown)


def test_a_plot_leaves_out_what_was_not_measured(pair):
    assert mist("evaluate", *pair) == 0
    (row,) = found()["pairs"]
    (model,) = row["models"]
    model["views"]["whole"]["survival"]["jpeg75"]["share_left"] = None
    drawn = plots(row, model, "x")["What is left after each change"]
    assert "JPEG, quality 85" in drawn and "JPEG, quality 75" not in drawn


def test_files_of_others_are_not_overwritten(pair, tmp_path, capsys):
    smooth(tmp_path / "evaluation" / "x.png")
    (tmp_path / "evaluation" / "results.csv").write_text("my own table")
    assert mist("evaluate", *pair) == 1
    assert "not overwritten" in capsys.readouterr().err
    assert files(tmp_path / "evaluation") == ["results.csv", "x.png"]


def test_a_result_is_never_an_input(pair, capsys):
    assert mist("evaluate", *pair, "--out", pair[1]) == 1
    assert "Choose another" in capsys.readouterr().err


def refused(*arguments):
    raise CheckpointError("there is no model")


def test_without_a_model_one_still_learns_what_one_sees(pair, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "find_checkpoint", refused)
    assert mist("evaluate", *pair) == 0
    assert "no model judges" in capsys.readouterr().err
    everything = found()
    assert everything["not_measured"]["effect"] == "there is no model" and everything["verdicts"] == []
    assert everything["pairs"][0]["models"] == [] and everything["pairs"][0]["visibility"]["linf_levels"] == 9
    assert "No model has judged: there is no model" in page()


@pytest.mark.parametrize("flag", ["--checkpoint", "--real"])
def test_a_model_that_was_named_must_be_one(flag, pair, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "find_checkpoint", refused)
    assert mist("evaluate", *pair, flag, "nothing") == 1
    assert "there is no model" in capsys.readouterr().err


def test_of_a_demo_model_every_page_says_so(pair, monkeypatch, capsys):
    class Demo(Model):
        is_demo = True

    monkeypatch.setattr(diffusers, "load", lambda *arguments: Demo())
    assert mist("evaluate", *pair) == 0
    assert page().count("Demo model: it was made to be easy") == 2 and found()["verdicts"][0]["is_demo"]
    assert "demo model" in capsys.readouterr().err


@pytest.mark.parametrize("module, told", [("matplotlib", "mist-protect[evaluate]"), ("cv2", "opencv")])
def test_without_an_optional_library_its_part_is_not_measured(module, told, pair, plotted, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert mist("evaluate", *pair) == 0
    assert told in html.unescape(page())
    assert ("<svg" in page()) == (module != "matplotlib")


def test_the_words():
    seen = {"linf_levels": 16, "ciede2000_mean": 2.4, "flat_share": 0.12, "flat_noise_levels": 4.0}
    assert short(seen, 2.43, 0.598) == (
        "Changed by at most 16 levels; hard to see except in flat areas (12% of it). The model's view of it moved 2.4 "
        "times as far as noise of that size would do. After halving 60% of that is left."
    )
    summary = {
        "model": "M", "pictures": 1, "changes": 15,
        "shift_over_noise": {"value": 2.4, "low": 2.2, "high": 2.6},
        "worst": {"name": "jpeg50", "share_left": {"value": 0.22, "low": 0.18, "high": 0.27}},
        "nearest_noise": {"name": "noise", "over_noise": {"value": 1.1, "low": 0.9, "high": 1.3}},
        "native_shift_over_noise": None,
    }  # fmt: skip
    assert verdict(summary) == (
        "Undone by one change: M sees the protected picture 2.4 (2.2 to 2.6) times as far from the original as random "
        "noise of the same size would put it. Of 15 changes, the worst (JPEG, quality 50) leaves 22% (18% to 27%) of "
        "that; against noise that went the same way, the worst (Gaussian noise, 5 %) leaves it 1.1 (0.9 to 1.3) times "
        "as far."
    )
    summary["native_shift_over_noise"] = {"value": 0.56, "low": 0.55, "high": 0.58}
    assert verdict(summary).endswith(
        " That is of the picture reduced; in crops at its own scale it is 0.56 (0.55 to 0.58) times as far: no "
        "protection of those beyond noise."
    )
    summary["native_shift_over_noise"] = {"value": 2.0, "low": 1.8, "high": 2.2}
    assert verdict(summary).endswith("in crops at its own scale it is 2.0 (1.8 to 2.2) times as far.")
    summary["worst"]["name"] = "noise"
    assert (
        "the worst (Gaussian noise, 5 %) leaves 22% (18% to 27%) of that, 1.1 (0.9 to 1.3) times as far as noise that "
        "went the same way." in verdict(summary)
    )
    summary["nearest_noise"]["over_noise"]["low"] = 1.05
    assert verdict(summary).startswith("Weak")
    summary["nearest_noise"]["over_noise"]["low"] = 2
    assert verdict(summary).startswith("Holds")
    summary["shift_over_noise"]["low"] = 0.9
    assert verdict(summary).startswith("No protection beyond noise")
