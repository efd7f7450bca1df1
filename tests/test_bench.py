"""The benchmark's parts: what it compares with is what it says, and what it measures it measures."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from fakes.toy import ToySurrogate

from bench import readme_figures
from mist_attack.bench import baseline, command, gallery, machines, meters, quality, tiles
from mist_attack.bench.asked import Asked
from mist_attack.bench.balance import taken_off
from mist_attack.bench.baseline import MistV1, MistV1Fixed, MistV1Once, as_published, mist_v1
from mist_attack.bench.cost import Variant, bare_step, our_cycle, our_step, seconds
from mist_attack.bench.evidence.tables import page_section
from mist_attack.bench.halving import LADDER, One, by_steps
from mist_attack.bench.ways import MIST
from mist_attack.budget import to_levels
from mist_attack.command.main import main
from mist_attack.evaluation.transforms import transformed
from mist_attack.hosts.headless import diffusers
from mist_attack.hosts.headless.checkpoints import find_checkpoint
from mist_attack.objectives import ESTIMATES
from mist_attack.settings import Settings
from mist_attack.targets import pattern

SIDE = 64
ASKED = Asked(device=torch.device("cpu"), rounds=2)


@pytest.fixture(scope="module")
def demo():
    return diffusers.load(find_checkpoint("demo"), torch.device("cpu"))


def image(seed=0):
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def mist(demo, objective="fused"):
    prompt = demo.conditioning("a painting")
    return MistV1(demo, pattern("lattice", SIDE, SIDE) * 2 - 1, lambda: prompt, objective)


def counted(demo, monkeypatch):
    """Calls of the encoder, the UNet and the prompt."""
    calls = {"vae": 0, "unet": 0, "prompt": 0}

    def count(name, function):
        def counting(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counting

    monkeypatch.setattr(demo.vae, "encode", count("vae", demo.vae.encode))
    monkeypatch.setattr(demo.unet, "forward", count("unet", demo.unet.forward))
    loss = mist(demo)
    loss.prompt = count("prompt", loss.prompt)
    return loss, calls


def test_the_baselines_step_is_mists(demo, monkeypatch):
    """Three encodings, three prompts, one UNet; the UNet's weights get gradients."""
    loss, calls = counted(demo, monkeypatch)

    def job(_):
        with as_published(demo):
            loss.gradient(image())
            return [parameter.grad is not None for parameter in demo.unet.parameters()]

    graded = demo.run(job, 1, SIDE, SIDE)
    assert calls == {"vae": 3, "unet": 1, "prompt": 3}
    assert all(graded)


def test_the_baselines_gradient_is_its_losss_slope(demo):
    def job(_):
        loss, x = mist(demo), image()
        torch.manual_seed(1)
        slope = loss.gradient(x)
        direction, h = slope / slope.norm(), 0.02
        values = []
        for sign in (1, -1):
            torch.manual_seed(1)
            with torch.no_grad():
                values.append(float(loss.loss(x + sign * h * direction)))
        return (values[0] - values[1]) / (2 * h), float(slope.norm())

    difference, norm = demo.run(job, 1, SIDE, SIDE)
    assert difference == pytest.approx(norm, rel=0.01)


@pytest.mark.parametrize("objective", ["fused", "textural"])
def test_the_baseline_in_fewer_passes_takes_the_same_steps(demo, monkeypatch, objective):
    def gradients(kind):
        loss = kind(demo, image(seed=3), lambda: demo.conditioning("a painting"), objective)
        torch.manual_seed(1)
        return [loss.gradient(image(seed=seed)) for seed in (0, 1)]

    def job(_):
        whole = gradients(MistV1)
        _, calls = counted(demo, monkeypatch)
        return whole, gradients(MistV1Once), calls

    whole, once, calls = demo.run(job, 1, SIDE, SIDE)
    for expected, found in zip(whole, once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert calls["vae"] == 3  # the target's, and one of each step


@pytest.mark.parametrize("objective", ["fused", "textural"])
def test_the_baseline_without_a_posterior_takes_mists_steps_at_its_mean(demo, monkeypatch, objective):
    monkeypatch.setattr(
        MistV1, "_posterior", lambda self, x: SimpleNamespace(sample=lambda: self.vae.encode(x)[0].mean)
    )

    def gradients(kind):
        loss = kind(demo, image(seed=3), lambda: demo.conditioning("a painting"), objective)
        torch.manual_seed(1)
        return [loss.gradient(image(seed=seed)) for seed in (0, 1)]

    for expected, found in demo.run(
        lambda _: zip(gradients(MistV1), gradients(MistV1Fixed), strict=True), 1, SIDE, SIDE
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_steps_are_judged_on_every_kind_and_summed_up_by_medians(monkeypatch):
    """A picture of value v has the figure v: v * 16 / steps for ours and v * v for Mist's, so the ratios are known."""

    class Judge:
        def __init__(self, model, objective):
            pass

        def figures(self, picture):
            return {"target_distance": float(picture)}

    def protected(image, model, settings):
        return SimpleNamespace(images=image * 16 / settings.steps)

    monkeypatch.setattr(quality, "Judge", Judge)
    monkeypatch.setattr(quality, "published", lambda model, image, objective: image * image)
    monkeypatch.setattr(quality, "protect", protected)
    images = {"drawing": [torch.tensor(1.0), torch.tensor(2.0)], "photograph": [torch.tensor(1.25)]}
    found = quality.steps_to_match(None, images, "quick", "textural")
    assert found.steps == 15 and list(found.strength) == [5, 8, 10, 15]
    for steps, values in found.strength.items():  # of 1, 1 / 2 and 1 / 1.25
        assert values == {"target_distance": pytest.approx(16 / steps / 1.25)}
    assert found.kinds["drawing"] == {"target_distance": pytest.approx(16 / 15 * 0.75)}
    assert found.kinds["photograph"] == {"target_distance": pytest.approx(16 / 15 / 1.25)}
    assert quality.steps_to_match(None, {"drawing": [torch.tensor(0.1)]}, "quick", "textural").steps is None


def test_as_published_gives_back_what_it_takes(demo):
    def state():
        return [
            [(p.requires_grad, p.grad is None) for p in demo.unet.parameters()],
            [type(x) for m in (demo.vae, demo.unet) for x in m.attn_processors.values()],
            ["forward" in vars(layer) for layer in demo.unet.modules()],
            ["forward" in vars(layer) for layer in demo.vae.modules()],
            ["get_attention_scores" in vars(layer) for layer in demo.unet.modules()],
        ]

    def job(_):
        before = state()
        with pytest.raises(KeyboardInterrupt), as_published(demo):
            assert all(one != other for one, other in zip(state(), before, strict=True))
            raise KeyboardInterrupt
        assert state() == before

    demo.run(job, 1, SIDE, SIDE)


@pytest.mark.parametrize("kept", [torch.channels_last, torch.contiguous_format])  # a CPU's and a card's
def test_after_the_published_modules_memory_is_laid_out_as_the_device_wants_it(demo, monkeypatch, kept):
    for module in diffusers, baseline:
        monkeypatch.setattr(module, "fastest_format", lambda device: kept)

    def job(_):
        with as_published(demo):
            pass
        return demo.unet.conv_in.weight.is_contiguous(memory_format=kept)

    assert demo.run(job, 1, SIDE, SIDE)


def test_the_published_modules_compute_the_same(demo):
    x, z, t = image(), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])

    def outputs():
        with torch.no_grad():
            prompt = demo.conditioning("a painting")
            return demo.vae.encode(x).latent_dist.mean, demo.unet(z, t, prompt).sample

    def job(_):
        with as_published(demo):
            published = outputs()
        return published, outputs()

    for published, ours in zip(*demo.run(job, 1, SIDE, SIDE), strict=True):
        assert not torch.equal(published, ours)
        torch.testing.assert_close(published, ours, rtol=1e-3, atol=1e-4)


def test_the_baseline_keeps_its_budget_and_uses_it(demo):
    x0 = image() * 0.5
    reached = demo.run(lambda _: mist_v1(mist(demo, "textural"), x0, epsilon=4, steps=6), 1, SIDE, SIDE)
    levels = (reached - x0).abs() * 255 / 2
    assert 3.9 < float(levels.max()) <= 4.001


@pytest.mark.parametrize("exact", [True, False])
def test_the_bare_modules_run_as_often_as_in_a_step(demo, monkeypatch, exact):
    _, calls = counted(demo, monkeypatch)

    def job(ready):
        bare = bare_step(demo, SIDE, exact=exact)
        ours = our_step(ready, SIDE, Settings(working_size=64, gradient="exact" if exact else "sds"))
        calls.update(vae=0, unet=0)
        bare()
        once = dict(calls)
        ours()
        return once, calls

    once, both = demo.run(job, 1, SIDE, SIDE)
    assert once["vae"] == once["unet"] == 1
    assert both["vae"] == both["unet"] == 2


def test_each_round_counts_once_and_the_first_warms_up():
    class Ticks:
        def time(self, call):
            call()
            return len(log)

    log = []
    found = {"one": Variant(lambda: log.append("one")), "mist": Variant(lambda: log.append("mist"))}
    assert seconds(found, 2, Ticks()) == {"one": [2, 5], "mist": [3, 6]}
    assert log == ["one", "one", "mist"] * 2  # the first of a round finds memory given back: not counted


def test_a_step_of_amortised_is_a_third_of_a_cycle_with_the_unet_twice(demo, monkeypatch):
    def job(ready):
        _, calls = counted(demo, monkeypatch)
        cycle = our_cycle(ready, SIDE, "amortised")
        for _ in range(2):
            calls.update(vae=0, unet=0)
            cycle.step()
            assert (calls["vae"], calls["unet"], cycle.steps) == (3, 2, 3)

    demo.run(job, 1, SIDE, SIDE)
    clock = SimpleNamespace(time=lambda call: 6.0)
    assert seconds({"amortised": Variant(lambda: None, steps=3)}, 1, clock) == {"amortised": [2.0]}


@pytest.mark.skipif(not meters.CLEAR.exists(), reason="needs Linux's /proc")
def test_the_peak_is_what_a_call_held_at_once():
    size = 64 * 1024 * 1024

    def hold(numbers):
        def call():
            held = [torch.ones(size // 4) for _ in range(numbers)]
            return len(held)

        return call

    one, three = (meters.peak_bytes(torch.device("cpu"), hold(numbers)) for numbers in (1, 3))
    assert three - one == pytest.approx(2 * size, rel=0.1)


def test_the_time_to_equal_protection_follows_from_cost_and_steps():
    figures = {"steps_to_mist_100_fused": 15, "steps_to_mist_100_textural": 12, "step_ratio_amortised_512": 5.0}
    intervals = {
        f"{name}_over_modules_{side}_interval": [1.0, 1.01] for name in ("exact", "sds") for side in (256, 512)
    }
    found = command.together(figures | intervals | {"sds_over_modules_256_interval": [1.0, 1.04]})
    assert found == {
        "loop_over_modules": 1.04,
        "steps_to_mist_100": 15,
        "time_ratio_to_equal_protection": pytest.approx(5.0 * 100 / 15),
    }
    assert command.together({"steps_to_mist_100_fused": None, "steps_to_mist_100_textural": 12}) == {}


def test_the_time_to_equal_strength_after_a_halving_follows_from_cost_and_steps():
    figures = {"steps_to_mist_100_halved": 6, "step_ratio_amortised_512": 5.0}
    assert command.together(figures) == {"time_ratio_to_equal_halved": pytest.approx(5.0 * 100 / 6)}
    assert command.together(figures | {"steps_to_mist_100_halved": None}) == {}


def test_the_steps_that_are_enough_after_a_halving_are_as_strong_and_no_more_visible():
    """Of three pictures: the medians of the ratios and of the differences in PSNR."""

    def row(offs, psnr_db=27.0):
        ours = {str(n): One(psnr_db, off, off / 4) for n, off in zip(LADDER, offs, strict=True)}
        return {MIST: One(26.0, 0.5, 0.25)} | ours

    rows = [row((0.1, 0.45, 0.5)), row((0.2, 0.5, 0.55)), row((0.3, 0.4, 0.6))]
    found = by_steps(rows)
    assert found["steps_to_mist_100_halved"] == LADDER[2] and LADDER[2] % ESTIMATES["amortised"].steps == 0
    assert found["halved_by_steps"][str(LADDER[1])]["off_over_mist"]["median"] == pytest.approx(0.9)
    assert found["halved_by_steps"][str(LADDER[1])]["plainly_over_mist"]["median"] == pytest.approx(0.45)
    assert found["halved_by_steps"][str(LADDER[1])]["psnr_db_more"] == pytest.approx(1.0)
    assert by_steps([row((0.1, 0.2, 0.6), psnr_db=25.9)])["steps_to_mist_100_halved"] is None
    assert by_steps([row((0.1, 0.2, 0.45))])["steps_to_mist_100_halved"] is None


def test_what_is_taken_off_after_a_halving_is_measured_on_the_picture_as_it_is_published():
    picture = to_levels(image() / 2 + 0.5) / 255
    target = pattern("lattice", SIDE, SIDE)
    halfway = to_levels((picture + target) / 2) / 255
    pool = partial(torch.nn.functional.avg_pool2d, kernel_size=2)
    model = SimpleNamespace(device=picture.device, encode=pool)
    found = taken_off(
        model, picture, {"same": picture, "halfway": halfway}, dict.fromkeys(("same", "halfway"), ("plain", "half"))
    )
    whole, left = ((pool(x) - pool(target)).square().mean() for x in (picture, halfway))
    assert found["halfway"]["plain"] == pytest.approx(1 - float(left / whole), abs=1e-6)
    assert found["same"]["plain"] == pytest.approx(0, abs=1e-6)
    halved = transformed("half", to_levels(halfway)) / 255
    expected = 1 - float((pool(halved) - pool(target)).square().mean() / whole)
    assert found["halfway"]["half"] == pytest.approx(expected, abs=1e-6) != found["halfway"]["plain"]


def test_by_itself_the_bench_measures_what_protection_costs(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "run", lambda given, out, parts: asked.append(parts))
    assert main(["bench", "--out", str(tmp_path / "a.json")]) == 0
    main(["bench", "--out", str(tmp_path / "a.json"), "--only", "visibility", "survival"])
    assert asked[1] == ["visibility", "survival"]
    assert asked[0] == ["steps", "halving", "tiles", "gallery", "scaling", "costs512"]


@pytest.fixture
def made(monkeypatch):
    """What is done with processes, whose work is done in this one."""
    made = []

    class Processes:
        def __init__(self, workers, context):
            made.append((workers, context.get_start_method()))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            made.append("closed")

        def submit(self, call, *arguments):
            found = call(*arguments)
            return SimpleNamespace(result=lambda: found)

    monkeypatch.setattr(command, "ProcessPoolExecutor", Processes)
    return made


def test_each_part_has_a_process_of_its_own_and_joins_the_earlier_figures(tmp_path, monkeypatch, made):
    parts = {name: lambda asked, say, name=name: {name: asked.rounds} for name in ("one", "two")}
    monkeypatch.setattr(command, "PARTS", parts)
    out = tmp_path / "new" / "results.json"
    command.run(ASKED, out, ["one"])
    command.run(ASKED, out, ["two"])
    assert made == [(1, "spawn"), "closed"] * 2
    [figures] = machines.read(out)
    assert {"one": 2, "two": 2}.items() <= figures.items() and figures["machine"]["dtype"] == "float32"
    assert list(figures["measured"]) == ["one", "two"] and set(figures["measured"]["one"]) == {"on", "seconds"}


def test_what_followed_from_earlier_figures_goes_with_them(tmp_path, monkeypatch, made):
    answers = iter((15, None))
    enough = {f"steps_to_mist_100_{objective}": 15 for objective in ("fused", "textural")}
    monkeypatch.setattr(command, "PARTS", {"steps": lambda *_: enough | {"steps_to_mist_100_fused": next(answers)}})
    out = tmp_path / "results.json"
    for expected in (15, None):
        command.run(ASKED, out, ["steps"])
        assert machines.read(out)[0].get("steps_to_mist_100") == expected


def test_each_machine_has_its_own_figures(tmp_path, monkeypatch, made):
    monkeypatch.setattr(command, "PARTS", {"one": lambda asked, say: {"one": asked.rounds}})
    out = tmp_path / "results.json"
    command.run(ASKED, out, ["one"])
    monkeypatch.setattr(machines, "processor", lambda: "another")
    command.run(replace(ASKED, rounds=3), out, ["one"])
    command.run(replace(ASKED, rounds=4), out, ["one"])
    found = machines.read(out)
    assert [figures["one"] for figures in found] == [2, 4]
    assert [figures["machine"]["device"] == "cpu, another" for figures in found] == [False, True]


def test_what_the_table_claims_is_what_holds_on_every_machine():
    facts = {"device": "cpu, one", "threads": 2}
    fast = {"machine": facts, "step_ratio_exact_512": 4.4, "loop_over_modules": 1.01, "steps_to_mist_100": 15}
    slow = {"machine": facts | {"threads": 8}, "step_ratio_exact_512": 3.5, "loop_over_modules": 1.08}
    lines = readme_figures.table([fast, slow]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]
    assert cells[0] == ["claimed", "cpu, one; 2 threads", "cpu, one; 8 threads"]
    assert cells[2:] == [
        ["3.50 times", "4.40 times", "3.50 times"],
        ["1.08 times", "1.01 times", "1.08 times"],
        ["15", "15", ""],
    ]
    assert "claimed" not in readme_figures.table([fast])


def test_the_time_that_is_not_the_models_counts_what_others_take_from_it(monkeypatch):
    """Two pictures of three seconds with one in between; beside each other a tenth of one, and files take half of one
    of the processor's."""
    clocks = {"wall": 0.0, "processor": 0.0}

    def passes(wall, processor):
        clocks["wall"] += wall
        clocks["processor"] += processor

    def gallery_of(between, others):
        def pictures(request, timed):
            for _ in range(2):
                timed.run(lambda _: passes(3, 6))
                passes(between, others)

        return pictures

    monkeypatch.setattr(gallery.time, "perf_counter", lambda: clocks["wall"])
    monkeypatch.setattr(gallery.time, "process_time", lambda: clocks["processor"])
    monkeypatch.setattr(gallery, "_beside", gallery_of(0.1, 0.1))
    model = gallery.Timed(SimpleNamespace(run=lambda job: job(None)))
    spans, others = model.during(lambda: gallery_of(1, 0.25)(None, model))
    assert (gallery.busy(spans), gallery.wall(spans), others) == (6, 7, 2 * 0.25)
    assert gallery._beside_work(None, model, others) == pytest.approx(
        {"gallery_outside_model": (0.1 + 2 * 0.25) / 6.1, "gallery_waiting": 0.1 / 6.1}
    )


def test_the_gallery_of_the_bench_is_a_real_one(monkeypatch):
    """One picture that is not counted, two in turn, and two beside the other work in each round."""
    seen = []

    class Model(ToySurrogate):
        def run(self, job, *shape, **how):
            seen.append(shape)
            return super().run(job, *shape, **how)

    monkeypatch.setattr(gallery.diffusers, "load", lambda *_: Model())
    monkeypatch.setattr(gallery.unseen, "pictures", lambda each, side: {"drawings": [torch.rand(1, 3, 64, 64)] * 2})
    monkeypatch.setattr(gallery, "resolve", lambda *_: Settings(steps=1, working_size=64))
    found = gallery.figures(ASKED, lambda line: None)
    assert len(seen) == 1 + 2 + ASKED.rounds * 2
    assert all(0 < found[name] < 1 for name in ("gallery_waiting", "gallery_waiting_in_turn"))


@pytest.mark.parametrize(
    ("found", "strong"),
    [
        ({"target_distance": 0.9, "denoising_loss": 1.1}, True),
        ({"target_distance": 1.009, "denoising_loss": 0.991}, True),
        ({"target_distance": 1.011, "denoising_loss": 1.1}, False),
        ({"target_distance": 0.9, "denoising_loss": 0.989}, False),
        ({"target_distance": 1.1, "denoising_loss": 1.1}, False),
        ({"target_distance": 0.9, "denoising_loss": 0.9}, False),
        ({"target_distance": 0.9}, True),
    ],
)
def test_as_strong_is_in_every_figure(found, strong):
    assert quality.as_strong(found) is strong


def test_the_judge_gives_equal_pictures_equal_figures_and_sees_a_protection(demo):
    judge = quality.Judge(demo, "fused", side=SIDE)
    clean = (image() + 1) / 2
    moved = quality.published(demo, clean, "fused", steps=5)
    assert judge.figures(clean) == judge.figures(clean)
    assert judge.figures(moved)["target_distance"] < judge.figures(clean)["target_distance"]
    assert float((moved - clean).abs().max()) * 255 <= 16.5


@pytest.mark.parametrize(("second", "enough"), [(12, 12), (None, None)])
def test_the_steps_that_are_enough_are_so_on_every_demo_model(monkeypatch, made, second, enough):
    found = {"first": 8, "second": second}
    monkeypatch.setattr(command, "demo_models", lambda: list(found))
    monkeypatch.setattr(command, "find_checkpoint", lambda name: name)
    monkeypatch.setattr(command.diffusers, "load", lambda name, device: SimpleNamespace(name=name))
    strength, kinds = {8: {"target_distance": 0.9}}, {"drawing": {"target_distance": 0.8}}
    monkeypatch.setattr(
        quality, "steps_to_match", lambda model, *rest: quality.Matched(found[model.name], strength, kinds)
    )
    monkeypatch.setattr(command.unseen, "pictures", lambda each: {})
    monkeypatch.setattr(command.torch, "set_num_threads", lambda threads: None)
    figures = command.steps(ASKED, lambda line: None)
    assert made[0] == (2, "spawn")
    assert figures["steps_to_mist_100_fused"] == figures["steps_to_mist_100_textural"] == enough
    assert figures["strength_by_steps_fused"] == {"first": strength, "second": strength}
    assert figures["strength_by_kind_textural"] == {"first": kinds, "second": kinds}


def test_scaling_is_by_pixel_and_against_the_first_side(demo, monkeypatch):
    class Text:
        def drop(self):
            pass

    class Ticks:
        """A step of n pixels takes n ** 1.5 seconds."""

        def __init__(self, device):
            pass

        def time(self, call):
            return call() ** 1.5

    monkeypatch.setattr(command, "random_sd_v1", lambda *_: (demo, Text()))
    monkeypatch.setattr(command, "Clock", Ticks)
    monkeypatch.setattr(command, "_lacks_memory", lambda device, side, needed, say: False)
    monkeypatch.setattr(command.cost, "our_step", lambda ready, side, settings: lambda: side**2)
    found = command.scaling(ASKED, lambda line: None)
    assert found == {"cost_per_pixel_by_side": {"256": 1.0, "1024": pytest.approx(4.0)}}


def test_the_costs_have_the_names_that_the_table_reads(demo):
    class Text:
        def states(self):
            return demo.conditioning("a painting")

        def drop(self):
            pass

    def quietly(line):
        pass

    figures = command._costs(demo, SIDE, Text(), 2, quietly)
    assert {name for name in figures if name.startswith("peak")} == set(command._peaks(demo, SIDE, Text(), 2, quietly))
    wanted = [name for _, name, _ in readme_figures.ROWS if name.endswith("_512") and "2048" not in name]
    if not meters.CLEAR.exists():
        wanted = [name for name in wanted if not name.startswith("peak")]
    assert {name.replace("_512", f"_{SIDE}") for name in wanted} <= set(figures)
    timed = [name for name in wanted if not name.startswith("peak")]
    assert all(len(figures[name.replace("_512", f"_{SIDE}") + "_interval"]) == 2 for name in timed)
    assert f"exact_over_modules_{SIDE}_interval" in figures


def test_the_readmes_figures_are_the_results():
    readme = readme_figures.README.read_text(encoding="utf-8")
    card = readme_figures.read(readme_figures.CARD_RESULTS)
    evidence = readme_figures.read(readme_figures.EVIDENCE) or {}
    assert readme == readme_figures.written(readme, machines.read(readme_figures.RESULTS), card, evidence)
    assert card is not None or "has not run on a card" in readme


def test_the_readme_shows_the_last_card_or_says_that_there_was_none():
    facts = {"device": "cuda (NVIDIA L4)", "torch": "2.6", "cuda": "12.4", "dtype": "float16"}
    rows = [{"what": "exact, 512 px", "ms": 111.24, "busy": None}, {"what": "sds, 512 px", "error": "a | b"}]
    measured = {"machine": facts, "parts": {"cost": {"rows": rows, "seconds": 3.0}}}
    readme = readme_figures.README.read_text(encoding="utf-8")
    shown = readme_figures.written(readme, [], measured, {})
    assert "NVIDIA L4" in shown and "| exact, 512 px | 111.24 |  |  |" in shown and "a / b" in shown
    assert "has not run on a card" in readme_figures.written(shown, [], None, {})
    assert readme_figures.written(shown, [], None, {}) == readme_figures.written(readme, [], None, {})


def test_the_page_of_evidence_shows_the_results():
    page = readme_figures.EVIDENCE_PAGE.read_text(encoding="utf-8")
    evidence = readme_figures.read(readme_figures.EVIDENCE) or {}
    assert page == readme_figures.between(readme_figures.EVIDENCE_MARKS, page_section(evidence), page)


def test_the_table_tells_the_kinds_apart_by_model():
    kinds = {"drawing": {"target_distance": 0.5}, "painting": {"target_distance": 1.25}}
    cell = readme_figures.by_kind("target_distance")("strength")
    assert cell({"strength": {"one": kinds, "two": dict(reversed(kinds.items()))}}) == "0.50, 1.25; 1.25, 0.50"


def test_a_loss_without_a_model_costs_the_loop_its_arrays_alone():
    x = torch.rand(1, 3, 8, 8)
    value, gradient = tiles.NoModel().value_and_gradient(x)
    assert value == 0 and torch.equal(gradient, torch.ones_like(x))


def test_where_memory_is_short_the_large_part_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(command, "available_bytes", lambda _: 2**30)
    said = []
    assert command.costs(512)(ASKED, said.append) == {}
    assert "18 GiB" in said[0]
