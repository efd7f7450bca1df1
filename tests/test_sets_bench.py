"""What judges sets: each cell once, whatever interrupts; costs are counted; tables say only what was measured."""

import json
from types import SimpleNamespace

import pytest
import torch

from bench import readme_figures, sets, sets_styles
from bench.sets import Bench, Passes, counted
from mist_attack.bench import sets_table
from mist_attack.bench.judges import demos, whole
from mist_attack.bench.sets_table import CLEAN, MIXED, OTHER, PLAIN, SET, SHARED, SINGLE, V2
from mist_attack.budget import to_levels
from mist_attack.evaluation.imitating import UNTAUGHT, Training

CPU = torch.device("cpu")
BRIEF = Training(rank=2, steps=1, batch=1, pictures=1, sampling_steps=1, seeds=(1,))


@pytest.fixture(scope="module")
def demo():
    return whole(demos()[0], CPU)


@pytest.fixture
def style():
    pictures = [torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(n)) for n in range(5)]
    return sets_styles.Style("noise", "a drawing", pictures)


def bench(demo, style, tmp_path, **ways):
    return Bench(
        {"demo0": demo},
        {"noise": style},
        tmp_path / "results.json",
        tmp_path / "work",
        say=lambda words: None,
        training=BRIEF,
        ways=ways,
    )


def nudged(calls, levels=8):
    """A way that adds as many levels, or its strength's."""

    def way(model, style, pictures, strength):
        calls.append((len(pictures), strength))
        return [(x + (strength or levels) / 255).clamp(0, 1) for x in pictures]

    return way


def test_the_sets_are_twelve_pictures_each_and_none_is_tuned_on():
    judged = sets_styles.styles()
    assert len(judged) == 3
    every = [picture for style in [*judged.values(), sets_styles.tuning()] for picture in style.pictures]
    assert {tuple(x.shape) for x in every} == {(1, 3, 128, 128)} and len({x.numpy().tobytes() for x in every}) == 48


def test_a_cell_is_measured_once_and_a_run_goes_on(demo, style, tmp_path):
    calls = []
    first = bench(demo, style, tmp_path, **{SINGLE: nudged(calls)})
    first.cell("demo0", "noise", CLEAN, PLAIN, 1)
    first.cell("demo0", "noise", SINGLE, PLAIN, 1)
    written = json.loads(first.out.read_text("utf-8"))
    cells = {f"demo0/noise/{way}/plain/1" for way in (UNTAUGHT, CLEAN, SINGLE)}
    assert written["distances"].keys() == cells and len(calls) == 1
    again = bench(demo, style, tmp_path, **{SINGLE: nudged(calls)})
    again.cell("demo0", "noise", SINGLE, PLAIN, 1)
    again.protected("demo0", "noise", SINGLE)
    assert len(calls) == 1 and again.results["distances"] == written["distances"]


def test_figures_of_another_training_are_not_mixed(demo, style, tmp_path):
    first = bench(demo, style, tmp_path)
    first.keep_peaks({SINGLE: 1, SET: 1})
    asked = first.results["about"]["asked"]["training"]
    first.results["about"]["asked"]["training"] = asked | {"steps": asked["steps"] + 1}
    first.keep_peaks({SINGLE: 1, SET: 1})
    with pytest.raises(SystemExit, match="another"):
        bench(demo, style, tmp_path)


def test_the_baselines_are_as_visible_as_single_pictures(demo, style, tmp_path):
    calls = []
    found = bench(demo, style, tmp_path, **{SINGLE: nudged([], 3), V2: nudged(calls)})
    found.protected("demo0", "noise", V2)
    single, v2 = (found.results["protections"][f"demo0/noise/{way}"] for way in (SINGLE, V2))
    assert calls[0] == (2, sets.TRIED) and calls[1][0] == 5
    assert v2["psnr_db"] == pytest.approx(single["psnr_db"], abs=0.3) and v2["strength"] == pytest.approx(3, rel=0.05)


def test_what_the_imitator_has(demo, style, tmp_path):
    found = bench(demo, style, tmp_path, **{SINGLE: nudged([])})
    originals = [to_levels(x) for x in style.pictures]
    protected = found.shown("demo0", "noise", SINGLE, PLAIN)
    mixed = found.shown("demo0", "noise", SINGLE, MIXED)
    assert [torch.equal(a, b) for a, b in zip(mixed, originals, strict=True)] == [False, True, False, True, False]
    assert all(torch.equal(a, b) for a, b in zip(mixed[::2], protected[::2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found.shown("demo0", "noise", CLEAN, PLAIN), originals, strict=True))
    shared = found.shown("demo0", "noise", CLEAN, SHARED)
    assert not any(torch.equal(a, b) for a, b in zip(shared, originals, strict=True))


def test_passes_of_the_denoiser_are_counted_both_ways_and_the_hook_goes(demo):
    latents = torch.zeros(2, 4, 16, 16, requires_grad=True)
    prompt = demo.conditioning("a drawing")
    with counted(demo) as passes:
        demo.denoise(latents, demo.sigmas[[5, 6]], prompt).sum().backward()
        with torch.no_grad():
            demo.denoise(latents[:1], demo.sigmas[[5]], prompt)
    assert passes == Passes(forward=3, backward=2)
    assert not demo.unet._forward_hooks


def test_mist_v2s_steps_and_its_step_size(monkeypatch, style):
    asked = {}
    monkeypatch.setattr(
        sets,
        "SetProtection",
        lambda members, model, settings, chosen: asked.update(vars(settings)) or SimpleNamespace(run=list),
    )
    sets.mist_v2(None, style, style.pictures, 4.0)
    assert (asked["objective"], asked["gradient"], asked["steps"]) == ("lunet", "exact", 150)
    assert asked["epsilon"] * 255 == pytest.approx(4) and asked["step_size"] * 255 == pytest.approx(0.6375)


# The tables


def results(**more):
    distances = {}
    for seed, clean in ((1, 2.0), (2, 4.0)):
        for way, times in ((UNTAUGHT, 5.0), (CLEAN, 1.0), (SINGLE, 1.5), (SET, 3.0)):
            distances[f"demo0/noise/{way}/plain/{seed}"] = clean * times
    cost = {"psnr_db": 31.52, "strength": None, "seconds": 24.0, "forward": 36, "backward": 12, "pictures": 12}
    return {"distances": distances, "protections": {f"demo0/noise/{way}": cost for way in (SINGLE, SET)}} | more


def test_a_row_is_over_the_clean_ones_of_the_same_set_and_seed_and_over_single_pictures():
    lines = sets_table.section(results()).splitlines()
    assert "0.20 (0.20 to 0.20) the distance of the model without one." in lines[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert rows[2][1:3] == ["1.50 (1.50 to 1.50)", ""]
    assert rows[3][1:] == ["3.00 (3.00 to 3.00)", "2.00 (2.00 to 2.00)", "2, 1", "31.5", "4", "2.0"]
    assert len(rows) == 4, "ways that were not measured have no row"


def test_what_a_set_costs_beside_mist_v2_is_of_the_same_pictures():
    assert "over Mist v2's" not in sets_table.section(results())
    found = results()
    cost = found["protections"][f"demo0/noise/{SET}"]
    found["protections"][f"demo0/noise/{V2}"] = cost | {"forward": 100, "backward": 92, "seconds": 48.0}
    found["protections"][f"demo0/other/{V2}"] = cost
    shown = sets_table.section(found)
    assert "A set over Mist v2's recipe: 0.25 times its passes, 0.50 times its time." in shown
    found["distances"][f"demo0/noise/{SET}/{MIXED}/1"] = 3.0
    shown = sets_table.section(found)
    assert sets_table.VARIANTS[MIXED] in shown and shown.count("over Mist v2's recipe") == 1


def test_what_was_not_measured_is_not_told():
    assert sets_table.section({}) == "Not measured.\n"
    assert "Memory" not in sets_table.section(results())
    shown = sets_table.section(results(peaks={"side": 256, SINGLE: 2**30, SET: 5 * 2**28}))
    assert "1.25 GiB, of single pictures 1.00: 1.25 times" in shown


def test_a_table_without_imitation_says_so():
    found = results()
    for seed, clean in ((1, 2.0), (2, 4.0)):
        found["distances"][f"demo0/noise/{UNTAUGHT}/plain/{seed}"] = clean
    assert "That is no imitation" in sets_table.section(found)


@pytest.mark.parametrize("variant, base", [(MIXED, PLAIN), (OTHER, OTHER), (SHARED, SHARED)])
def test_a_change_on_the_way_is_compared_with_clean_pictures_that_went_the_same_way(variant, base):
    found = results()
    for seed, way, value in ((1, SET, 8.0), (1, CLEAN, 4.0), (1, UNTAUGHT, 40.0)):
        if way == SET or base != PLAIN:
            found["distances"][f"demo0/noise/{way}/{variant}/{seed}"] = value
    part = next(
        part for part in sets_table.section(found).split("Pictures protected") if sets_table.VARIANTS[variant] in part
    )
    assert ("| 4.00 (4.00 to 4.00) |" if base == PLAIN else "| 2.00 (2.00 to 2.00) |") in part


def test_the_page_shows_the_results():
    page = readme_figures.SETS_PAGE.read_text(encoding="utf-8")
    found = readme_figures.read(readme_figures.SETS) or {}
    assert page == readme_figures.between(readme_figures.SETS_MARKS, sets_table.section(found), page)
