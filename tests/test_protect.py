"""The promises of the whole flow, on a toy model: budget, mask, size, determinism, tone, cost."""

import json
import math
import weakref
from functools import partial
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from fakes.toy import ToySurrogate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mist_attack import attack, budget
from mist_attack.budget import CappedL2, Linf, to_levels, to_unit
from mist_attack.errors import BudgetError, PictureError, SettingsError, Stop
from mist_attack.needs import NEEDS, Objective, possible
from mist_attack.protection import protect
from mist_attack.settings import Direction, Gradient, Settings, ViewKind, preset_names, resolve
from mist_attack.views import plan

TOY = ToySurrogate()
SHAPES = [Linf, partial(CappedL2, rms=3 / 255)]


def picture(height=48, width=40, seed=0):
    """Smooth, with detail and clipped regions; on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, height // 16 + 2, width // 16 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = 0.05 * torch.randn(1, 3, height, width, generator=generator)
    return (0.5 + 0.3 * smooth + noise).clamp(0, 1).mul(255).round() / 255


def quick(**changes):
    return Settings(**{"steps": 3, "step_size": 8 / 255, "working_size": 64} | changes)


def moved_levels(before, after):
    return after.mul(255).round() - before.mul(255).round()


@settings(max_examples=40)
@given(
    height=st.integers(1, 100),
    width=st.integers(1, 100),
    levels=st.floats(0, 64),
    objective=st.sampled_from(get_args(Objective)),
    gradient=st.sampled_from(get_args(Gradient)),
    direction=st.sampled_from(get_args(Direction)),
    momentum=st.sampled_from([0.0, 0.5, 0.99]),
    step_decay=st.booleans(),
    shape=st.sampled_from(SHAPES),
    view=st.sampled_from(get_args(ViewKind)),
    keep_tone=st.booleans(),
    random_start=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_budget_mask_size_and_grid_hold_for_every_request(height, width, levels, shape, seed, **changes):
    image = picture(height, width, seed)
    mask = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed)).mul(4).round() / 4
    request = quick(epsilon=levels / 255, seed=seed, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "Linf", shape)
        result = protect(image, TOY, request, mask=mask)
    assert result.images.shape == image.shape and result.images.dtype == torch.float32
    assert torch.equal(result.images.mul(255).round() / 255, result.images)
    moved = moved_levels(image, result.images).abs()
    assert float((moved - levels * mask).max()) <= 1e-3
    assert torch.equal(result.images[(mask == 0).expand_as(image)], image[(mask == 0).expand_as(image)])
    assert result.reports[0].budget_used_levels == int(moved.max())


@pytest.mark.parametrize("more", [1, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_a_result_that_breaks_its_budget_is_not_given_out(monkeypatch, more, masked):
    """By a level more than was asked for, or anywhere that the mask forbids it."""
    real = Linf.quantize

    def broken(self, x):
        levels = real(self, x)
        levels[0, 0, 0, 0] = 100 + (16 + more) * (not masked) + more * masked
        return levels

    image, mask = picture(), torch.ones(1, 1, 48, 40)
    image[0, 0, 0, 0] = 100 / 255
    protect(image, TOY, quick(), mask=mask)
    monkeypatch.setattr(Linf, "quantize", broken)
    if masked:
        own = SimpleNamespace(**vars(torch) | {"where": lambda condition, ours, theirs: ours})
        monkeypatch.setattr(attack, "torch", own)
        mask[0, 0, 0, 0] = 0
    with pytest.raises(BudgetError, match=f"{more if masked else 16 + more} levels"):
        protect(image, TOY, quick(step_size=0.01 / 255, random_start=False) if masked else quick(), mask=mask)


@pytest.mark.parametrize("objective", NEEDS)
def test_an_objective_reports_what_it_says_and_asks_for_what_it_says(objective):
    counting = Counting()
    report = protect(picture(), counting, quick(objective=objective)).reports[0]
    needs = NEEDS[objective]
    assert set(report.before) == set(report.after) == set(needs.figures)
    assert (report.target is not None) == needs.target
    assert (counting.counts["prompts"] > 0) == (counting.counts["denoiser"] > 0) == needs.denoiser
    assert (report.gradient_ratio is not None) == needs.semantic_weight
    assert set(NEEDS) == set(get_args(Objective)) == set(possible(denoiser=True))
    assert (objective in possible(denoiser=False)) == (not needs.denoiser)


@pytest.mark.parametrize("objective", ["textural", "semantic", "fused"])
def test_same_request_same_bytes_whatever_the_batch(objective):
    a, b = picture(seed=1), picture(seed=2)
    request = quick(objective=objective)
    alone = protect(a, TOY, request).images
    assert torch.equal(alone, protect(a, TOY, request).images)
    together = protect(torch.cat([b, a]), TOY, request)
    assert torch.equal(together.images[1:], alone)
    assert len(together.reports) == 2
    assert not torch.equal(alone, protect(a, TOY, quick(objective=objective, seed=24)).images)


def test_the_inputs_and_the_global_generator_are_left_alone():
    image, mask, target = picture(), torch.rand(1, 1, 48, 40), picture(30, 30)
    kept = [x.clone() for x in (image, mask, target)]
    state = torch.get_rng_state()
    protect(image, TOY, quick(), mask=mask, target=target)
    assert all(torch.equal(x, y) for x, y in zip((image, mask, target), kept, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "mist"])
@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_no_preset_but_mist_darkens_or_tints(preset, direction):
    image = picture(96, 96)
    report = protect(image, TOY, resolve(preset, {"strength": 16, "steps": 20, "direction": direction})).reports[0]
    assert max(abs(shift) for shift in report.mean_shift_levels) <= 0.5


def quantized(x, original, strength):
    everywhere = torch.ones(1, 1, *x.shape[2:])
    return Linf(to_unit(original), strength / 255, everywhere, keep_tone=False).quantize(x)


def test_rounding_keeps_the_budget_and_adds_no_bias():
    generator = torch.Generator().manual_seed(0)
    original = torch.randint(16, 240, (1, 3, 400, 400), generator=generator, dtype=torch.uint8)
    shift = torch.rand(1, 3, 400, 400, generator=generator) * 32 - 16
    x = (original + shift) / 255
    result = quantized(x, original, 16)
    assert (result.int() - original.int()).abs().max() == 16
    assert abs(float((result.float() - x * 255).mean())) < 0.02
    fractional = quantized(x, original, 12.5)
    assert (fractional.int() - original.int()).abs().max() == 12


@given(st.integers(0, 255), st.integers(-300, 300))
def test_quantize_is_exact_on_the_grid(level, shift):
    original = torch.full((1, 3, 1, 1), level, dtype=torch.uint8)
    x = torch.full((1, 3, 1, 1), (level + shift) / 255).clamp(0, 1)
    result = quantized(x, original, 16)
    assert int(result[0, 0]) - level == max(-min(16, level), min(min(16, 255 - level), shift))


def test_off_grid_inputs_are_counted_from_the_nearest_level_and_pass_where_masked():
    image = (picture() + 0.4 / 255).clamp(0, 1)
    mask = torch.zeros(1, 1, 48, 40)
    mask[:, :, :20] = 1
    result = protect(image, TOY, quick(), mask=mask).images
    assert torch.equal(result[:, :, 20:], image[:, :, 20:])
    assert moved_levels(image, result).abs().max() <= 16
    assert torch.equal(to_levels(result[:, :, :20]) / 255, result[:, :, :20])


@pytest.mark.parametrize("request_", [{"epsilon": 0.0}, {}])
def test_nothing_to_do_is_the_identity(request_):
    image = picture()
    mask = torch.ones(1, 1, 48, 40) if request_ else torch.zeros(1, 1, 48, 40)
    result = protect(image, TOY, quick(**request_), mask=mask)
    assert torch.equal(result.images, image)
    report = result.reports[0]
    assert report.psnr_db is None and report.steps_done == 0 and not report.stopped


@pytest.mark.parametrize("objective, figure", [("textural", "target_distance"), ("semantic", "denoising_loss")])
def test_the_objective_moves_as_it_should(objective, figure):
    report = protect(picture(), TOY, Settings(objective=objective, steps=40)).reports[0]
    before, after = report.before[figure], report.after[figure]
    assert after < before if objective == "textural" else after > before


def test_a_users_target_is_what_the_latents_approach():
    image, target = picture(seed=1), picture(30, 70, seed=5)
    report = protect(image, TOY, Settings(objective="textural", steps=40), target=target).reports[0]
    assert report.target == "picture"
    assert report.after["target_distance"] < 0.9 * report.before["target_distance"]
    assert protect(image, TOY, quick(objective="textural")).reports[0].target == "lattice"


def test_stop_keeps_what_is_reached_and_progress_is_told():
    told = []

    def on_step(progress):
        told.append((progress.step, progress.steps, tuple(progress.preview().shape), progress.loss.requires_grad))
        if progress.step == 2:
            raise Stop

    image = picture()
    result = protect(image, TOY, quick(steps=50), on_step=on_step)
    assert told == [(1, 50, (1, 3, 48, 40), False), (2, 50, (1, 3, 48, 40), False)]
    report = result.reports[0]
    assert report.stopped and report.steps_done == 2
    assert 0 < moved_levels(image, result.images).abs().max() <= 16


def test_an_exception_of_on_step_passes_and_the_model_is_given_back():
    surrogate = ToySurrogate()

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protect(picture(), surrogate, quick(), on_step=interrupt)
    assert all(p.requires_grad for module in surrogate.modules for p in module.parameters())


@pytest.mark.parametrize("view", ["whole", "both"])
def test_the_report_says_how_far_the_models_view_moved_and_how_far_by_noise(view):
    image, side = picture(96, 80), 64
    result = protect(image, TOY, quick(view=view, working_size=side, seed=5))
    (report,) = result.reports
    views = plan(96, 80, view, side, 16)
    signs = torch.randint(2, image.shape, generator=torch.Generator().manual_seed(5)) * 2 - 1
    noisy = (image + (result.images - image).abs() * signs).clamp(0, 1)

    def latents(x):
        with torch.no_grad():
            return torch.cat([TOY.encode(view.look(view.region(x))).flatten() for view in views])

    first, last, by_noise = (latents(x) for x in (image, result.images, noisy))
    assert report.latent_shift == pytest.approx(float((last - first).square().mean().sqrt()), rel=1e-4)
    assert report.latent_shift_of_noise == pytest.approx(float((by_noise - first).square().mean().sqrt()), rel=1e-4)
    assert report.shift_over_noise == report.latent_shift / report.latent_shift_of_noise
    assert f"moved {report.shift_over_noise:.2g} times as far as noise" in report.words()


def test_it_runs_inside_a_hosts_inference_mode():
    expected = protect(picture(), TOY, quick()).images
    with torch.inference_mode():
        image, mask, target = picture(), torch.ones(1, 1, 48, 40), picture(30, 30)
        assert image.is_inference()
        assert torch.equal(protect(image, TOY, quick(), mask=mask).images, expected)
        protect(image, TOY, quick(), target=target)


class Counting(ToySurrogate):
    def __init__(self):
        super().__init__()
        self.counts = {"encoder": 0, "denoiser": 0, "encoder backward": 0, "denoiser backward": 0, "prompts": 0}
        for name in ("encoder", "denoiser"):
            module = getattr(self, name)
            module.register_forward_hook(lambda *_, name=name: self.count(name))
            module.register_full_backward_hook(lambda *_, name=name: self.count(f"{name} backward"))

    def count(self, name):
        self.counts[name] += 1

    def conditioning(self, prompt):
        self.counts["prompts"] += 1
        return super().conditioning(prompt)


def cost_of_a_step(**changes):
    def total(steps):
        surrogate = Counting()
        protect(picture(), surrogate, quick(steps=steps, **changes))
        return surrogate.counts

    few, many = total(2), total(7)
    assert few["prompts"] == many["prompts"] <= 1
    return {name: (many[name] - few[name]) / 5 for name in few if name != "prompts"}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"objective": "textural"}, (1, 0, 1, 0)),
        ({"objective": "semantic"}, (1, 1, 1, 1)),
        ({"objective": "fused"}, (1, 1, 1, 1)),
        ({"objective": "fused", "gradient": "sds"}, (1, 1, 1, 0)),
    ],
)
def test_what_a_step_costs(changes, expected):
    names = ("encoder", "denoiser", "encoder backward", "denoiser backward")
    assert cost_of_a_step(**changes) == dict(zip(names, expected, strict=True))


def test_low_vram_recomputes_each_module_at_most_once_more_and_changes_nothing():
    cost = cost_of_a_step(low_vram=True)
    assert cost["encoder"] <= 2 and cost["denoiser"] <= 2
    image = picture()
    plain, low = (protect(image, TOY, quick(low_vram=flag, seed=4)).images for flag in (False, True))
    assert (plain != low).float().mean() < 0.01


@pytest.mark.parametrize("view, encodings", [("whole", 1), ("tiles", 1), ("both", 1)])
def test_a_pattern_is_encoded_once_per_shape_and_a_picture_once_per_crop(view, encodings):
    image = picture(128, 128)
    count = len(plan(128, 128, view, 64, 16))

    def encodings_of(target):
        seen = Counting()
        protect(image, seen, quick(view=view, steps=1), target=target)
        return seen.counts["encoder"] - 4 * count  # one step, and the figures before, after and of noise

    assert encodings_of(None) == encodings
    assert encodings_of(picture(40, 40)) == count


def test_the_gradient_ratio_is_reported_for_fused_alone():
    assert protect(picture(), TOY, quick()).reports[0].gradient_ratio > 0
    assert protect(picture(), TOY, quick(objective="textural")).reports[0].gradient_ratio is None


def test_the_report_is_json_without_surprises():
    report = json.loads(protect(picture(), TOY, quick()).reports[0].as_json())
    assert report["model"] == TOY.name
    assert report["settings"]["steps"] == 3
    assert math.isfinite(report["psnr_db"]) and report["ssim"] <= 1
    assert report["width"] == 40 and report["height"] == 48


def test_tiles_leave_no_seams():
    """The perturbation's own gradient energy across tile borders compared with elsewhere."""
    image = picture(160, 160)
    request = Settings(objective="textural", view="tiles", working_size=64, steps=12, step_size=2 / 255)
    delta = moved_levels(image, protect(image, TOY, request).images)
    energy = delta.diff(dim=3).square().mean(dim=(0, 1, 2))
    starts = {view.left for view in plan(160, 160, "tiles", 64, 8)}
    edges = sorted(({s - 1 for s in starts} | {s + 63 for s in starts}) & set(range(len(energy))))
    inside = [i for i in range(len(energy)) if i not in edges and i % 8 == 7]  # the encoder's own 8 px grid
    assert len(edges) >= 4
    assert energy[edges].mean() <= 1.15 * energy[inside].mean()


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (513, 771), (2, 3)])
@pytest.mark.parametrize("view", ["whole", "tiles", "both"])
def test_any_size_in_same_size_out(size, view):
    image = picture(*size)
    result = protect(image, TOY, quick(view=view, steps=1)).images
    assert result.shape == image.shape
    assert moved_levels(image, result).abs().max() <= 16


@pytest.mark.parametrize(
    "image, mask, target, said",
    [
        (torch.rand(3, 8, 8), None, None, "shape"),
        (torch.rand(1, 4, 8, 8), None, None, "shape"),
        (torch.rand(1, 3, 0, 8), None, None, "shape"),
        (torch.rand(1, 3, 8, 8) + 1, None, None, r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), torch.nan), None, None, "nan"),
        (torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 9), None, "as large as the picture"),
        (torch.rand(1, 3, 8, 8), torch.rand(2, 1, 8, 8), None, "mask"),
        (torch.rand(1, 3, 8, 8), torch.full((1, 1, 8, 8), torch.nan), None, "mask"),
        (torch.rand(1, 3, 8, 8), torch.full((1, 1, 8, 8), 255.0), None, "mask"),
        (torch.rand(1, 3, 8, 8), None, torch.rand(1, 1, 8, 8), "target"),
    ],
)
def test_what_cannot_be_protected_is_refused(image, mask, target, said):
    with pytest.raises(PictureError, match=said):
        protect(image, TOY, quick(), mask=mask, target=target)


def test_an_unknown_target_lists_the_known():
    with pytest.raises(SettingsError, match="lattice"):
        protect(picture(), TOY, quick(target="MIST"))


def test_one_mask_serves_a_batch_or_each_has_its_own():
    images = torch.cat([picture(seed=1), picture(seed=2)])
    masks = torch.zeros(2, 1, 48, 40)
    masks[0] = 1
    moved = moved_levels(images, protect(images, TOY, quick(), mask=masks).images).abs()
    assert moved[0].max() > 0 == moved[1].max()
    assert moved_levels(images, protect(images, TOY, quick(), mask=masks[:1]).images).abs()[1].max() > 0


class Arrays(TorchDispatchMode):
    """The most bytes that tensors of the picture's order of size held at once."""

    def __init__(self, least):
        super().__init__()
        self.least, self.live, self.peak = least, {}, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.least:
                self.live.setdefault(tensor.untyped_storage().data_ptr(), []).append(weakref.ref(tensor))
        self.live = {
            at: alive for at, refs in self.live.items() if (alive := [ref for ref in refs if ref() is not None])
        }
        self.peak = max(self.peak, sum(refs[-1]().untyped_storage().nbytes() for refs in self.live.values()))
        return result


@pytest.mark.parametrize("view", ["whole", "tiles", "both"])
@pytest.mark.parametrize("objective", ["textural", "fused"])
def test_a_pictures_own_arrays_are_at_most_six_float_copies(objective, view):
    image = torch.rand(1, 3, 1024, 1024)
    with Arrays(least=1_000_000) as arrays:
        protect(image, TOY, quick(objective=objective, view=view, working_size=256, steps=2))
    assert arrays.peak <= 6 * image.numel() * 4


def test_the_models_memory_does_not_grow_with_the_picture():
    shapes = []

    class Watched(ToySurrogate):
        def encode(self, images):
            shapes.append(images.numel())
            return super().encode(images)

    for view in ("whole", "tiles", "both"):
        protect(picture(700, 900), Watched(), quick(view=view, working_size=128, steps=1))
    assert max(shapes) <= 3 * (128 + 16) ** 2


class Tight(ToySurrogate):
    """Runs out of memory `failures` times, as torch says it on the CPU, in mid-loop."""

    def __init__(self, failures, error=None):
        super().__init__()
        self.failures, self.ways = failures, []
        self.error = error or RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    def run(self, job, batch, height, width, *, low_vram=False):
        self.ways.append((low_vram, height))
        return super().run(job, batch, height, width, low_vram=low_vram)

    def denoise(self, noised_latents, sigma, conditioning):
        if len(self.ways) <= self.failures:
            raise self.error
        return super().denoise(noised_latents, sigma, conditioning)


def test_out_of_memory_is_met_by_thriftier_ways_and_said():
    image, request = picture(128, 128), quick(working_size=128)
    spared, tiled = Tight(1), Tight(2)
    (report,) = protect(image, spared, request).reports
    assert spared.ways == [(False, 128), (True, 128)]
    assert report.settings["low_vram"] and "low-VRAM" in report.notices[0]
    (report,) = protect(image, tiled, request).reports
    assert tiled.ways == [(False, 128), (True, 128), (True, 64)]
    assert report.settings["view"] == "tiles" and "tiles of 64 pixels" in report.notices[0]
    assert report.steps_done == 3


def test_a_thriftier_way_gives_what_asking_for_it_gives():
    image = picture(64, 64)
    forced = protect(image, Tight(1), quick()).images
    assert torch.equal(forced, protect(image, TOY, quick(low_vram=True)).images)


@pytest.mark.parametrize(
    ("failures", "error", "tries"),
    [(9, torch.cuda.OutOfMemoryError("CUDA out of memory."), 3), (9, RuntimeError("shape mismatch"), 1)],
    ids=["no way is thrifty enough", "another error"],
)
def test_what_thrift_cannot_cure_passes_through(failures, error, tries):
    surrogate = Tight(failures, error)
    with pytest.raises(type(error)) as caught:
        protect(picture(), surrogate, quick())
    assert caught.value is error and len(surrogate.ways) == tries
