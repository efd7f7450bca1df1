"""The evidence: figures under names, tables from them, and nothing filled in."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from statistics import median

import pytest
import torch
from fakes.toy import ToyFlow, ToySurrogate

from mist_attack.bench import balance, fused, judges
from mist_attack.bench.asked import Asked
from mist_attack.bench.evidence import __main__ as evidence
from mist_attack.bench.evidence import collecting, flat, tables
from mist_attack.bench.evidence.page import page
from mist_attack.bench.reach import Reach
from mist_attack.bench.ways import LADDER, MIST, PRESETS, at_psnr
from mist_attack.budget import to_levels
from mist_attack.errors import CheckpointError
from mist_attack.evaluation.transforms import transformed
from mist_attack.evaluation.words import REACHED

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
ASKED = Asked(device=CPU)


def measured(psnr_db, off, names=collecting.EVERYTHING):
    seen = {"psnr_db": psnr_db, "ssim": 0.9, "ciede2000_mean": 2.0}
    return balance.Measured(seen, dict.fromkeys(names, off), Reach(1 - off, 2.0, None))


def rows(count=3):
    """Mist's loop takes off 0.1 for each 2 dB; the presets half as much again, at 31 dB."""
    ladder = {f"mist {levels}": measured(40 - 2 * i, 0.1 * (i + 1)) for i, levels in enumerate(LADDER)}
    return [ladder | {name: measured(37.0, 0.375 + 0.01 * number) for name in PRESETS} for number in range(count)]


def test_between_two_strengths_and_beyond_the_last_a_line_is_drawn():
    ladder = [(40.0, 0.1), (36.0, 0.3), (32.0, 0.7)]
    assert at_psnr(ladder, 38) == pytest.approx(0.2)
    assert at_psnr(ladder, 33) == pytest.approx(0.6)
    assert at_psnr(ladder, 42) == pytest.approx(0.0)
    assert at_psnr(ladder, 30) == pytest.approx(0.9)


def test_a_preset_is_compared_with_mists_loop_where_that_is_as_visible():
    found = collecting._textural(rows(), "taef2")
    assert found["default.taken_off.taef2"] == pytest.approx(0.385)
    assert found["default.taken_off_over_mist_at_equal_psnr.taef2"] == pytest.approx(0.385 / 0.25)
    assert found["mist.taken_off.taef2"] == pytest.approx(0.4), "at 16 levels"
    assert not any(name.startswith("mist.") and "over_mist" in name for name in found)


def test_each_figure_has_its_interval_and_is_the_median_of_the_pictures():
    found = flat.medians("robust", "demo0", [{"psnr_db": value} for value in (20.0, 30.0, 25.0)])
    assert found == {
        "robust.psnr_db.demo0": median((20, 30, 25)),
        "robust.psnr_db.demo0_low": 20,
        "robust.psnr_db.demo0_high": 30,
    }
    assert flat.read(found, "robust", "psnr_db", "demo0") == (25, 20, 30)
    assert flat.read(found, "robust", "ssim", "demo0") is None
    assert flat.models({**found, "about": {}}, "psnr_db") == ["demo0"]


def test_the_worst_transform_is_the_least_of_the_suite():
    one = rows()
    for row in one:
        row["default"].off["blur"] = 0.05
    assert collecting._textural(one, "m")["default.taken_off_after_worst.m"] == pytest.approx(0.05)


def test_a_transform_of_the_suite_has_its_row_and_tables_leave_out_what_was_not_measured():
    found = collecting._textural(rows(), "taef2")
    text = tables.page_section(found)
    assert all(balance.SUITE[name].words in text for name in balance.SURVIVED)
    assert "reconstruction" not in text, "there was no decoder"
    assert "denoising" not in text and "LoRA" not in text
    assert tables.page_section(found | {"about": {"not_measured": ["x", "y"]}}).endswith("in this run: x; y.\n")
    assert tables.first_table({}) == "Not measured.\n" == tables.page_section({})
    assert "| taken off | 40 % (40 to 40) | 38 % (38 to 40) |" in tables.first_table(found)


def test_every_table_says_whose_model_it_is_of_and_the_real_one_comes_first():
    found = collecting._textural(rows(), "demo0") | collecting._textural(rows(), "taef2")
    who = [section.who for section in tables.sections(found) if section.part.startswith("Textural")]
    assert "strangers" in who[0] and "attackable" in who[1]


@pytest.mark.parametrize(("high", "imitated"), [(REACHED - 0.01, True), (REACHED, False)])
def test_a_lora_that_learned_nothing_is_no_imitation(high, imitated):
    figures = {"style_distance_over_model": {"median": 0.5, "low": 0.4, "high": high}}
    found = flat.told("originals", "demo0", figures)
    found |= flat.told("mist", "demo0", {"style_distance_over_originals": {"median": 2, "low": 1.5, "high": 3}})
    (section,) = tables.sections(found)
    assert ("no imitation" not in section.note) == imitated
    assert section.lines[1][1] == "2.00 times (1.50 to 3.00)"


def test_fused_figures_are_over_the_untouched_pictures_and_over_mists(monkeypatch):
    loss = {"mist 5": 1.0, "mist 8": 2.0, "default": 3.0, None: 0.5}
    levels = {"mist 5": 10.0, "mist 8": 30.0, "default": 5.0}
    reduced = {"mist 5": 2.0, "mist 8": 4.0, "default": 6.0}
    seen = {"mist 5": 36.0, "mist 8": 32.0, "default": 34.0}

    class Judge:
        def __init__(self, *_):
            pass

        def figures(self, way):
            return {"denoising_loss": loss[way if isinstance(way, str) else None]}

    class Model:
        name = "model"

        def run(self, job, *_):
            return job(None)

    monkeypatch.setattr(judges, "whole", lambda *_: Model())
    monkeypatch.setattr(fused, "Judge", Judge)
    monkeypatch.setattr(fused, "by_mist", lambda *arguments: f"mist {arguments[-1]}")
    monkeypatch.setattr(fused, "by_preset", lambda *arguments: arguments[-1])
    monkeypatch.setattr(fused, "seen", lambda _, way: {"psnr_db": seen[way]})
    monkeypatch.setattr(fused, "halved", lambda way: way if isinstance(way, torch.Tensor) else f"{way} reduced")
    monkeypatch.setattr(
        fused,
        "apart",
        lambda _, __, made: {way: (reduced if x.endswith("reduced") else levels)[way] for way, x in made.items()},
    )
    ways = fused.fused(fused.Job("", CPU, "", torch.zeros(1, 3, 8, 8))).ways
    over = {"denoising_loss_over_equal": 2, f"{fused.APART}_over_equal": 5 / 20}
    over[f"{fused.APART_HALVED}_over_equal"] = 6 / 3
    assert ways["default"] == {"psnr_db": 34, "denoising_loss": 6, fused.APART: 5, fused.APART_HALVED: 6} | over


def test_a_picture_is_halved_as_the_survival_suite_does_it():
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fused.halved(picture) * 255, transformed("half", to_levels(picture)).float())


@pytest.mark.parametrize("surrogate", [ToySurrogate(), ToyFlow()])
def test_img2img_of_a_picture_lies_nowhere_from_itself_and_as_far_from_another_as_that_from_it(surrogate):
    one, other = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    there = fused.apart(surrogate, one, {"itself": one, "other": other})
    assert there["itself"] == 0 < there["other"] == fused.apart(surrogate, other, {"back": one})["back"]


def test_parts_are_written_one_by_one_and_what_was_measured_earlier_stays(tmp_path, monkeypatch):
    parts = {"textural": lambda *_: [collecting._textural(rows(), "demo0")], "fused": lambda *_: [{}], "mimicry": 1 / 2}
    monkeypatch.setattr(evidence, "PARTS", parts)
    evidence.measure(ASKED, tmp_path, ["textural"], print)
    found = evidence.measure(ASKED, tmp_path, ["fused"], print)
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert "default.taken_off.demo0" in found
    assert found["about"]["not_measured"] == ["fused", "mimicry", judges.NOT_MEASURED]
    html = (tmp_path / "index.html").read_text()
    assert "Not measured: fused; mimicry" in html and "<script" not in html and "http" not in html.split("</style>")[1]


def test_large_pictures_have_a_column_of_their_own_and_no_claim_at_equal_psnr(tmp_path, monkeypatch):
    asked = []
    plain = [{way: one for way, one in row.items() if way == "mist 16" or not way.startswith("mist")} for row in rows()]
    monkeypatch.setattr(balance, "judge_of", lambda *_: Path("taef2_encoder.pth"))
    monkeypatch.setattr(balance, "jobs_for", lambda *given, **more: asked.append((given, more)))
    monkeypatch.setattr(balance, "measured_on", lambda *_: plain)
    found = evidence.measure(ASKED, tmp_path, ["large"], print)
    [((given, *rest), each)] = asked
    assert given.side == 512 and rest[1:] == [balance.AFTER, (16,)] and each == {"each": 1}
    assert found["default.taken_off.taef2_512"] == pytest.approx(0.385)
    assert not any("over_mist" in name for name in found)
    assert "TAEF2 at 512 px" in tables.page_section(found)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("words, images", [(["evidence"], ""), (["evidence", "IMAGES=mine"], "--images mine")])
def test_make_judges_on_the_pictures_that_the_page_names_unless_others_are_given(words, images):
    clean = {name: value for name, value in os.environ.items() if name not in ("IMAGES", "MAKEFLAGS", "MAKEOVERRIDES")}
    told = subprocess.run(
        ["make", "-n", *words], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    ).stdout
    [line] = [line for line in told.splitlines() if "bench.evidence" in line]
    assert images in line and ("--images" in line) == bool(images)


def test_a_models_figures_are_written_before_the_next_ones_are_measured(tmp_path, monkeypatch):
    def part(*_):
        yield collecting._textural(rows(), "demo0")
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "PARTS", evidence.PARTS | {"textural": part})
    with pytest.raises(KeyboardInterrupt):
        evidence.measure(ASKED, tmp_path, ["textural"], print)
    assert "default.taken_off.demo0" in json.loads((tmp_path / "results.json").read_text())


def test_the_page_takes_what_it_shows_for_text(tmp_path):
    found = collecting._textural(rows(), "<b>x</b>")
    shown = page(found | {"about": {"mist": "<i>", "device": "", "torch": "", "pictures": 1, "side": 2}
                          | {"not_measured": []}})  # fmt: skip
    assert "<b>x" not in shown and "<i>" not in shown and "&lt;b&gt;x" in shown


def test_a_folder_without_an_encoder_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(SystemExit, match="found none in"):
        evidence.main(["--real", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError):
        judges.real_folder(tmp_path)


def test_the_set_to_imitate_is_of_one_kind_and_large_enough(tmp_path):
    assert len(collecting._style(ASKED)) == 12
    assert all(x.shape[2:] == (collecting.STYLE_SIDE,) * 2 for x in collecting._style(ASKED))
    assert MIST in collecting.WAYS and set(collecting.WAYS.values()) == set(flat.METHODS)
