"""What the nodes promise, on fakes of both hosts and a toy model; real hosts are in tests/host/comfyui/."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from fakes import comfyui_pack
from fakes.toy import ToySurrogate
from PIL import Image

from mist_attack.controls import BY_NAME, CONTROLS
from mist_attack.protection import protect
from mist_attack.settings import Controls, Settings, preset_controls, preset_names, resolve
from mist_attack.targets import target_names

WIDGETS = {"preset": "default", "mode": "fused", "strength": 16.0, "steps": 3, "fusion_weight": 1.0, "seed": 23}
WHOLE = {"vae": "VAE", "model": "MODEL", "clip": "CLIP"}


class HostModel(ToySurrogate):
    """In the adapter's place: the toy, which keeps what it was made from."""

    made = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, vae, model=None, clip=None, positive=None):
        with torch.inference_mode(False):
            super().__init__(vae_only=model is None)
        self.given = {"vae": vae, "model": model, "clip": clip, "positive": positive}
        self.prompts = []
        HostModel.made.append(self)

    def conditioning(self, prompt):
        self.prompts.append(prompt)
        return super().conditioning(prompt)


@pytest.fixture(params=["old", "new"])
def host(request, monkeypatch, tmp_path):
    """The pack loaded as that host does: `nodes` by id, `errors`, the host's `switch`."""
    switch = comfyui_pack.install(monkeypatch, tmp_path, request.param)
    module, nodes = comfyui_pack.load(monkeypatch)
    adapter = ModuleType(f"{module.__name__}.mist_attack.hosts.comfyui.adapter")
    adapter.ComfySurrogate = HostModel
    HostModel.made.clear()
    monkeypatch.setitem(sys.modules, adapter.__name__, adapter)
    errors = sys.modules[f"{module.__name__}.mist_attack.errors"]
    with torch.inference_mode():  # the host runs every node in it
        yield SimpleNamespace(kind=request.param, module=module, nodes=nodes, errors=errors, switch=switch)


def picture(batch=1, height=40, width=48, channels=3, seed=0):
    """(B, H, W, C) on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, height, width, channels), generator=generator).float() / 255


def run(host, node="MistProtect", **inputs):
    return host.nodes[node].execute(**inputs).args


def protected(host, image, **changes):
    return run(host, image=image, **(WHOLE | WIDGETS | changes))[0]


def schema(host, node):
    return host.nodes[node].GET_SCHEMA()


def test_ids_and_inputs_are_a_public_api(host):
    inputs = {node: [x.id for x in schema(host, node).inputs] for node in host.nodes}
    model = ["model", "clip", "conditioning"]
    assert inputs == {
        "MistProtect": ["image", "vae", *WIDGETS, *model, "mask", "alpha", "target", "options"],
        "MistProtectSet": [
            *("images", "vae", *WIDGETS, "rounds", "lora_steps", "lora_rank", "lora_rate", "lora_states"),
            *(*model, "captions", "masks", "target", "options", "set_direction"),
        ],
        "MistTarget": ["image", "pattern", "fit", "working_size", "picture"],
        "MistOptions": [
            *("gradient", "direction", "step", "step_decay", "view", "working_size"),
            *("output_size", "low_vram", "keep_tone", "prompt", "momentum"),
            *("budget", "rms", "hiding", "chroma", "transforms"),
        ],
        "MistEvaluate": ["before", "after", "vae", "mode", "seed", *model, "target", "options"],
        "MistSaveImage": ["image", "filename_prefix", "format", "data_mining", "embed_workflow", "alpha"],
    }


def test_every_input_and_output_explains_itself(host):
    for node in host.nodes:
        found = schema(host, node)
        assert found.description and found.display_name.startswith("Mist ")
        for x in [*found.inputs, *(found.outputs or [])]:
            assert x.tooltip and x.tooltip.isascii(), f"{node}.{x.id}"
        assert all(x.display_name == x.id for x in found.outputs or []), "0.3.64 would show the type instead"


def test_search_finds_the_node_where_the_host_can(host):
    aliases = getattr(schema(host, "MistProtect"), "search_aliases", None)
    assert (aliases is None) == (host.kind == "old")
    assert host.kind == "old" or {"glaze", "anti-ai", "cloak"} <= set(aliases)


def test_widgets_start_at_mists_numbers_and_offer_what_the_engine_knows(host):
    words = {"mode": "objective"}
    defaults = asdict(Controls())
    for node in ("MistProtect", "MistOptions"):
        for x in schema(host, node).inputs:
            if "default" in x.keywords and x.id not in ("preset", "output_size"):
                assert x.keywords["default"] == defaults[words.get(x.id, x.id)], x.id
    offered = {(node, x.id): x.keywords.get("options") for node in host.nodes for x in schema(host, node).inputs}
    presets = offered["MistProtect", "preset"]
    assert presets[0] == "balanced" and set(presets) == {"balanced", *preset_names()}
    assert offered["MistTarget", "pattern"] == target_names()
    for choice in offered["MistOptions", "view"]:
        resolve("default", {"view": choice})


def test_widgets_have_the_tables_range_and_say_what_a_preset_fills(host):
    inputs = {x.id: x for node in ("MistProtect", "MistOptions") for x in schema(host, node).inputs}
    for control in CONTROLS:
        if control.limits:
            found = inputs[control.widget_name].keywords
            assert (found["min"], found["max"]) == control.limits
            assert type(found["min"]) is type(found["max"]) is control.kind
    for name in preset_names():  # what is the default elsewhere is filled by "balanced"
        for filled, value in preset_controls(name).items():
            assert f"{BY_NAME[filled].label.lower()} {BY_NAME[filled].shown(value)}" in inputs["preset"].tooltip


@pytest.mark.parametrize("preset", ["balanced", *preset_names()])
def test_a_saved_workflow_with_a_preset_and_untouched_widgets_does_what_the_preset_says(host, preset):
    """Where it says "default" it has been saved before there was a budget to choose: Mist's numbers, as ever."""
    expected = {"balanced": resolve("default"), "default": Settings()}.get(preset) or resolve(preset)
    saved = {"preset": preset, "mode": "fused", "strength": 16.0, "steps": 100, "fusion_weight": 1.0, "seed": 23}
    options = {"gradient": "exact", "direction": "ascent", "step": 1.0, "step_decay": False, "view": "whole"}
    options |= {"working_size": 512, "output_size": "keep", "low_vram": False, "keep_tone": True}
    options |= {"prompt": "a painting", "momentum": 0.0}  # as the nodes of 2026 have saved them
    (asked,) = host.nodes["MistOptions"].execute(**options).args
    request = sys.modules[host.nodes["MistOptions"].__module__.replace(".options", ".request")]
    widgets = {"objective" if name == "mode" else name: value for name, value in saved.items() if name != "preset"}
    for given in (None, asked):
        assert request.settings_of(preset, widgets, given).as_dict() == expected.as_dict()


def test_an_input_that_is_no_widget_is_refused(host):
    with pytest.raises(Exception, match="Unknown control 'strenght'"):
        done(host, strenght=3)


def test_a_seed_stays_fixed_so_that_a_second_run_is_cached(host):
    seed = next(x for x in schema(host, "MistProtect").inputs if x.id == "seed")
    control = seed.keywords["control_after_generate"]
    assert control is True if host.kind == "old" else control.value == "fixed"
    for node in host.nodes.values():
        assert not node.GET_SCHEMA().not_idempotent
        assert not {"fingerprint_inputs", "IS_CHANGED"} & set(vars(node))


@pytest.mark.parametrize("mode", ["textural", "semantic", "fused"])
def test_the_result_is_the_engines_own(host, mode):
    image = picture(batch=2)
    result = protected(host, image, mode=mode)
    with torch.inference_mode(False):
        planes = image.movedim(-1, 1).clone()
        expected = protect(planes, ToySurrogate(), Settings(objective=mode, steps=3)).images
    assert torch.equal(result, expected.movedim(1, -1))
    assert not torch.equal(result, image)
    assert torch.equal(result, protected(host, image, mode=mode))


def test_a_result_that_breaks_its_budget_is_refused(host, monkeypatch):
    engine = importlib.import_module(f"{host.module.__name__}.mist_attack.budget")
    monkeypatch.setattr(engine.Linf, "quantize", lambda self, x: 255 - (self.x0 * 255).round().byte())
    with pytest.raises(Exception, match="a value moves by"):
        protected(host, picture())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_changed_values_lie_on_the_grid_and_the_budget_counts_from_the_rounded_picture(host, dtype):
    image = (picture() + 0.4 / 255).clamp(0, 1).to(dtype)
    result = protected(host, image, strength=6.0, steps=12)
    levels = result * 255
    assert result.dtype == torch.float32 and float((levels - levels.round()).abs().max()) < 1e-4
    assert int((levels.round() - (image.float() * 255).round()).abs().max()) == 6


def test_where_the_mask_is_black_not_a_bit_moves(host):
    image = (picture(batch=2) + 0.3 / 255).clamp(0, 1)
    mask = torch.zeros(2, 40, 48)
    mask[0, :, :24] = 1
    mask[1, :20] = 1
    result = protected(host, image, mask=mask)
    assert torch.equal(result[mask == 0], image[mask == 0])
    assert all((result[i] != image[i])[mask[i] == 1].any() for i in range(2))


def test_one_mask_serves_all_pictures_in_any_of_the_hosts_shapes(host):
    image, mask = picture(batch=2), torch.zeros(40, 48)
    mask[:, :24] = 1
    results = [protected(host, image, mask=m) for m in (mask, mask[None], mask[None, None], mask.expand(2, 40, 48))]
    assert all(torch.equal(results[0], other) for other in results[1:])
    assert torch.equal(results[0][:, :, 24:], image[:, :, 24:])


def test_a_grey_mask_is_a_softer_budget(host):
    image = picture() * 0.8 + 0.1
    result = protected(host, image, mask=torch.full((1, 40, 48), 0.5), steps=20)
    assert int((result - (image * 255).round() / 255).mul(255).round().abs().max()) == 8


def test_a_mask_of_another_size_is_resized_as_core_nodes_do(host):
    image, small = picture(), torch.zeros(1, 10, 12)
    small[:, :5] = 1
    fitted = torch.nn.functional.interpolate(small[None], (40, 48), mode="bilinear")[0]
    assert torch.equal(protected(host, image, mask=small), protected(host, image, mask=fitted))


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (2, 64, 64)])
def test_load_images_placeholder_is_no_mask(host, shape):
    image = picture(batch=2)
    whole = protected(host, image)
    assert torch.equal(protected(host, image, mask=torch.zeros(shape)), whole)
    assert torch.equal(protected(host, image, alpha=torch.zeros(shape)), whole)


def test_a_black_mask_of_the_pictures_size_protects_nothing(host):
    image = picture()
    assert torch.equal(protected(host, image, mask=torch.zeros(1, 40, 48)), image)


@pytest.mark.parametrize("name", ["mask", "alpha"])
@pytest.mark.parametrize("wrong", [torch.full((1, 40, 48), torch.nan), torch.full((1, 40, 48), torch.inf)])
def test_masks_that_are_not_numbers_are_refused(host, name, wrong):
    with pytest.raises(host.errors.PictureError, match=f"{name}.*not finite"):
        protected(host, picture(), **{name: wrong})


def test_masks_for_another_number_of_pictures_are_refused(host):
    with pytest.raises(host.errors.PictureError, match="each of 2 pictures; got 3"):
        protected(host, picture(batch=2), mask=torch.ones(3, 40, 48))


@pytest.mark.parametrize("image", [torch.rand(1, 40, 48, 2), torch.rand(40, 48, 3), torch.rand(1, 0, 48, 3)])
def test_what_is_no_picture_is_refused(host, image):
    with pytest.raises(host.errors.PictureError, match="3 or 4 channels"):
        protected(host, image)


def test_a_picture_of_not_a_number_is_refused(host):
    with pytest.raises(host.errors.PictureError, match="nan"):
        protected(host, picture() * torch.nan)


def test_alpha_is_kept_and_protects_nothing_from_change(host):
    image, mask = picture(batch=2), torch.rand(2, 40, 48)
    result = protected(host, image, alpha=mask)
    assert result.shape == (2, 40, 48, 4)
    assert torch.equal(result[..., 3], 1 - mask)  # LoadImage gives 1 - alpha
    assert torch.equal(result[..., :3], protected(host, image))


def test_a_fourth_channel_passes_unless_an_alpha_is_wired(host):
    image = picture(channels=4)
    result = protected(host, image)
    assert torch.equal(result[..., 3], image[..., 3])
    assert torch.equal(result[..., :3], protected(host, image[..., :3]))
    assert float(protected(host, image, alpha=torch.ones(1, 40, 48))[..., 3].max()) == 0


def test_the_difference_is_eight_times_the_change_around_grey(host):
    image = picture()
    result, difference, *_ = run(host, image=image, **WHOLE, **WIDGETS)
    assert torch.allclose(difference, ((result - image) * 8 + 0.5).clamp(0, 1))


def test_the_report_says_what_was_done(host):
    *_, report, words = run(host, image=picture(batch=2), **WHOLE, **WIDGETS | {"strength": 5.0})
    rows = json.loads(report)
    assert len(rows) == 2
    for i, (row, told) in enumerate(zip(rows, words.split("\n\n"), strict=True)):
        first, second, *_ = told.splitlines()
        assert first == f"Picture {i + 1}: {row['words']}" and second == row["summary"]
        assert first.startswith(f"Picture {i + 1}: Changed by at most") and "times as far as noise" in first
        assert row["budget_used_levels"] <= 5 and row["steps_done"] == 3 and "at most" in row["summary"]
        assert {"target_distance", "denoising_loss"} == set(row["after"])


LACKING = [
    ("fused", {}, "model and clip (or a conditioning)"),
    ("semantic", {"model": "MODEL"}, "connect clip (or a conditioning)"),
    ("fused", {"clip": "CLIP"}, "connect model of"),
    ("fused", {"conditioning": "CONDITIONING"}, "connect model of"),
]


@pytest.mark.parametrize(("mode", "wired", "message"), LACKING)
@pytest.mark.parametrize("node", ["MistProtect", "MistEvaluate"])
def test_what_a_mode_lacks_is_said_before_anything_runs(host, node, mode, wired, message):
    links = dict.fromkeys(wired)  # the host validates with None for a link, and without what is not linked
    said = host.nodes[node].validate_inputs(mode=mode, **links)
    assert message in said and "textural" in said
    pictures = {"image": picture()} if node == "MistProtect" else {"before": picture(), "after": picture()}
    widgets = WIDGETS if node == "MistProtect" else {"seed": 1}
    with pytest.raises(host.errors.CheckpointError) as refused:
        run(host, node, **pictures, vae="VAE", **widgets | {"mode": mode}, **wired)
    assert str(refused.value) == said
    assert not HostModel.made


@pytest.mark.parametrize("node", ["MistProtect", "MistEvaluate"])
def test_what_is_complete_passes_the_hosts_validation(host, node):
    validate = host.nodes[node].validate_inputs
    assert validate(mode="textural") is True
    assert validate(mode="fused", model=None, clip=None) is True
    assert validate(mode="semantic", model=None, conditioning=None) is True
    assert validate(mode=None) is True  # linked: not known yet
    assert "textual" in validate(mode="textual")


def test_the_adapter_gets_what_the_mode_needs(host):
    protected(host, picture(), mode="textural")
    protected(host, picture(), conditioning=torch.ones(1, 6))
    textural, fused = (model.given for model in HostModel.made)
    assert textural == {"vae": "VAE", "model": None, "clip": None, "positive": None}
    assert fused["model"] == "MODEL" and torch.equal(fused["positive"], torch.ones(1, 6))
    assert HostModel.made[1].prompts == []


def test_the_prompt_is_mists_unless_an_option_or_a_conditioning_says_otherwise(host):
    options = default_options(host)
    a = protected(host, picture(), mode="semantic", steps=8)
    b = protected(host, picture(), mode="semantic", steps=8, options=options | {"prompt": ""})
    c = protected(host, picture(), mode="semantic", steps=8, conditioning=torch.ones(1, 6) * 9)
    assert [model.prompts for model in HostModel.made] == [["a painting"], [""], []]
    assert not torch.equal(a, b) and not torch.equal(a, c)


def default_options(host):
    widgets = {x.id: x.keywords["default"] for x in schema(host, "MistOptions").inputs}
    return run(host, "MistOptions", **widgets)[0]


def test_options_that_nobody_touched_change_nothing(host):
    assert torch.equal(protected(host, picture(), options=default_options(host)), protected(host, picture()))


def done(host, **changes):
    """The settings that a run reports."""
    return json.loads(run(host, image=picture(), **WHOLE | WIDGETS | changes)[2])[0]["settings"]


def test_a_preset_wins_where_it_speaks_and_the_widgets_elsewhere(host):
    settings = done(host, preset="gentle", strength=30.0, seed=5)
    assert settings["epsilon"] == pytest.approx(8 / 255) and settings["seed"] == 5 and settings["steps"] == 3
    quick = done(host, preset="quick", options=default_options(host), strength=30.0)
    assert (quick["steps"], quick["gradient"]) == (15, "amortised") and quick["epsilon"] == pytest.approx(30 / 255)
    assert done(host, preset="mist", options=default_options(host))["keep_tone"] is False


def test_options_reach_the_engine(host):
    wanted = {"gradient": "sds", "direction": "descent", "step": 2.5, "step_decay": True, "view": "both"}
    wanted |= {"working_size": 64, "low_vram": True, "keep_tone": False, "prompt": "x"}
    settings = done(host, options=default_options(host) | wanted)
    assert settings["step_size"] == pytest.approx(2.5 / 255)
    assert {name: settings[name] for name in wanted if name != "step"} == {
        k: v for k, v in wanted.items() if k != "step"
    }


def test_a_setting_out_of_range_is_refused_in_plain_words(host):
    with pytest.raises(host.errors.SettingsError, match="steps between 1"):
        protected(host, picture(), steps=0)


def test_the_size_changes_only_when_asked_and_mask_and_alpha_go_with_it(host):
    image, options = picture(height=80, width=160), default_options(host) | {"working_size": 64}
    mask = torch.zeros(1, 80, 160)
    mask[:, :, :80] = 1
    assert protected(host, image, options=options).shape == (1, 80, 160, 3)
    result, difference, report, _ = run(
        host, image=image, mask=mask, alpha=mask, **WHOLE, **WIDGETS, options=options | {"output_size": "working size"}
    )
    assert result.shape == (1, 48, 96, 4) and difference.shape == (1, 48, 96, 3)
    assert json.loads(report)[0]["width"] == 96
    assert torch.equal(difference[:, :, 60:], torch.full((1, 48, 36, 3), 0.5))
    assert float(result[:, :, 60:, 3].min()) == pytest.approx(1) and float(result[:, :, :36, 3].max()) == 0
    small = picture(height=24, width=40)
    assert protected(host, small, options=options | {"output_size": "working size"}).shape == (1, 24, 40, 3)


def bar():
    (made,) = comfyui_pack.Bar.made
    return made


def clock(host, monkeypatch, times):
    progress = sys.modules[f"{host.module.__name__}.nodes.progress"]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(times)))


def test_one_bar_runs_over_the_batch_with_a_picture_at_most_twice_a_second(host, monkeypatch):
    clock(host, monkeypatch, iter([10.0, 10.4, 10.5, 10.6, 11.1, 11.2]))
    image = picture(batch=2)
    protected(host, image)
    assert [value for value, _, _ in bar().updates] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in bar().updates} == {bar().total} == {6}
    previews = [preview for _, _, preview in bar().updates]
    assert [preview is not None for preview in previews] == [True, False, True, False, True, False]
    kind, shown, side = previews[0]
    assert (kind, side, shown.size) == ("JPEG", 512, (48, 40))
    moved = np.abs(np.asarray(shown).astype(int) - (image[0] * 255).round().numpy())
    assert 0 < moved.max() <= 17


def test_a_cancel_passes_through_at_the_next_step(host):
    host.switch.interrupt_at = 2
    with pytest.raises(comfyui_pack.Interrupted):
        protected(host, picture(batch=2), steps=100)
    assert host.switch.asked == 2 and len(bar().updates) == 1


def test_nothing_runs_when_one_picture_of_a_batch_cannot(host):
    image = picture(batch=2)
    image[1] = torch.nan
    with pytest.raises(host.errors.PictureError):
        protected(host, image)
    assert host.switch.asked == 0


@pytest.mark.parametrize("size", [(40, 48), (90, 160)])
def test_a_pattern_from_the_target_node_is_the_engines_pattern(host, size):
    image = picture(height=size[0], width=size[1])
    (target,) = run(host, "MistTarget", image=image, pattern="rings", fit="crop", working_size=64)
    options = default_options(host) | {"working_size": 64}
    wired = protected(host, image, mode="textural", target=target, options=options)
    assert not torch.equal(wired, protected(host, image, mode="textural", options=options))
    if size == (40, 48):  # no padding and no reduction: the very same target
        with torch.inference_mode(False):
            named = Settings(objective="textural", steps=3, target="rings", working_size=64)
            expected = protect(image.movedim(-1, 1).clone(), ToySurrogate(), named).images
        assert torch.equal(wired, expected.movedim(1, -1))
    else:  # drawn at the scale at which the model looks: 48 x 85 rounded to 64 x 64 or more
        assert target.shape[1] % 64 == 0 and target.shape[2] % 64 == 0


def test_a_target_picture_is_scaled_to_the_picture(host):
    own = torch.zeros(1, 100, 100, 3)
    own[:, 30:70] = 1
    shown = {"image": picture(height=20, width=50), "pattern": "lattice", "working_size": 512, "picture": own}
    (crop,) = run(host, "MistTarget", fit="crop", **shown)
    (stretch,) = run(host, "MistTarget", fit="stretch", **shown)
    assert crop.shape == stretch.shape == (1, 20, 50, 3)
    assert float(crop.min()) > 0.99  # the middle 40 rows of 100
    assert float(stretch[:, :5].max()) < 0.01 and float(stretch[:, 8:12].min()) > 0.99


def test_evaluate_measures_both_pictures_through_the_same_model(host):
    before = picture(batch=2)
    after = protected(host, before, steps=20, mode="textural")
    sheet, text, told = run(host, "MistEvaluate", before=before, after=after, mode="fused", seed=3, **WHOLE)
    assert sheet.shape == (2, 4 * 48, 96, 3)  # left before, right after, padded to the model's multiple
    found = json.loads(told)
    for pair in found["pairs"]:
        effect = pair["models"][0]["views"]["whole"]["effect"]
        assert effect["target_distance_after"] < effect["target_distance_before"]
        assert effect["shift_over_noise"]["value"] > 2
        assert pair["words"] in text
    assert text.startswith(found["verdicts"][0]["words"])
    sheet, text, _ = run(host, "MistEvaluate", before=before, after=after, mode="textural", seed=3, vae="V")
    assert sheet.shape == (2, 40, 2 * 48, 3) and "img2img at strength 0.1: share left not measured" in text
    with pytest.raises(host.errors.PictureError, match="equal"):
        run(host, "MistEvaluate", before=before, after=before, mode="textural", seed=3, vae="V")


def test_evaluate_refuses_pictures_of_two_sizes(host):
    with pytest.raises(host.errors.PictureError, match="one size"):
        run(host, "MistEvaluate", before=picture(), after=picture(height=41), mode="textural", seed=1, vae="VAE")


def save(host, image, **changes):
    widgets = {"filename_prefix": "mist/p", "format": "png", "data_mining": "off", "embed_workflow": False}
    node = host.nodes["MistSaveImage"]
    node.hidden = SimpleNamespace(prompt={"1": "secret/folder"}, extra_pnginfo={"workflow": {"note": "secr\u00e9t"}})
    shown = node.execute(image=image, **widgets | changes).ui["images"]
    folder = comfyui_folder()
    return shown, [folder / row["subfolder"] / row["filename"] for row in shown]


def comfyui_folder():
    return Path(sys.modules["folder_paths"].get_output_directory())


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_saving_is_lossless_rounded_and_counted_as_cores(host, suffix):
    image = (picture(batch=2) - 0.4 / 255).clamp(0, 1)  # truncation would lose a level
    save(host, image, format=suffix)
    shown, paths = save(host, image, format=suffix)
    assert shown[0] == {"filename": f"p_00003_.{suffix}", "subfolder": "mist", "type": "output"}
    assert [path.name for path in paths] == [f"p_00003_.{suffix}", f"p_00004_.{suffix}"]
    for path, expected in zip(paths, image, strict=True):
        with Image.open(path) as found:
            assert found.format == suffix.upper() and found.mode == "RGB"
            assert np.array_equal(np.asarray(found), (expected * 255).round().numpy().astype(np.uint8))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_saved_whole_with_the_colours_under_it(host, suffix):
    levels = torch.randint(0, 256, (1, 40, 48))
    levels[:, :20] = 0
    _, (path,) = save(host, picture(), format=suffix, alpha=1 - levels / 255)
    with Image.open(path) as found:
        assert np.array_equal(np.asarray(found)[..., 3], levels[0].numpy())
        assert np.array_equal(np.asarray(found)[..., :3], (picture()[0] * 255).numpy().astype(np.uint8))
    _, (path,) = save(host, torch.cat([picture(), levels[..., None] / 255], dim=-1), format=suffix)
    with Image.open(path) as found:
        assert np.array_equal(np.asarray(found)[..., 3], levels[0].numpy())


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_the_workflow_is_written_only_when_asked_and_allowed(host, suffix):
    _, (bare,) = save(host, picture(), format=suffix)
    assert b"secr" not in bare.read_bytes()
    _, (asked,) = save(host, picture(), format=suffix, embed_workflow=True)
    with Image.open(asked) as found:
        if suffix == "png":
            found_prompt, found_workflow = found.text["prompt"], found.text["workflow"]
        else:  # core's own place, which the page reads
            found_prompt = found.getexif()[0x0110].removeprefix("prompt:")
            found_workflow = found.getexif()[0x010F].removeprefix("workflow:")
    assert json.loads(found_prompt) == {"1": "secret/folder"}
    assert json.loads(found_workflow) == {"note": "secr\u00e9t"}
    host.switch.disable_metadata = True
    _, (refused,) = save(host, picture(), format=suffix, embed_workflow=True)
    assert b"secr" not in refused.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize(
    ("choice", "term"), [("allowed", "DMI-ALLOWED"), ("prohibited", "DMI-PROHIBITED-AIMLTRAINING")]
)
def test_rights_are_written_as_iptc_says(host, suffix, choice, term):
    _, (path,) = save(host, picture(), format=suffix, data_mining=choice)
    with Image.open(path) as found:
        xmp = found.info.get("xmp") or found.info["XML:com.adobe.xmp"]
    xmp = xmp.decode() if isinstance(xmp, bytes) else xmp
    tree = ElementTree.fromstring(xmp[xmp.index("<x:xmpmeta") : xmp.index("<?xpacket end")])
    (value,) = tree.iter("{http://ns.useplus.org/ldf/xmp/1.0/}DataMining")
    assert value.text == f"http://ns.useplus.org/ldf/vocab/{term}"
    _, (bare,) = save(host, picture(), format=suffix)
    assert b"useplus" not in bare.read_bytes()


def test_a_missing_package_is_named_with_the_command_that_installs_it(host, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(host.module.__name__) and "settings" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    with pytest.raises(host.errors.MistError, match=r"omegaconf.*-m pip install -r .*requirements\.txt"):
        protected(host, picture())


# Mist Protect Set: every input is a list


def test_a_prompt_that_was_saved_before_the_sets_direction_still_runs(host):
    required = [made.id for made in schema(host, "MistProtectSet").inputs if not made.optional]
    assert required == ["images", "vae", *WIDGETS, *(name for name in SET if name != "set_direction")]
    images = [torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3)]
    rows = json.loads(together(host, images, set_direction=None)[1])
    assert {row["settings"]["direction"] for row in rows} == {"descent"}


SET = {"rounds": 2, "lora_steps": 3, "lora_rank": 2, "lora_rate": 0.0, "lora_states": 2, "set_direction": "ascent"}


def together(host, images, **changes):
    options = default_options(host) | {"working_size": 64, "gradient": "sds", "step": 2.0}
    given = WHOLE | WIDGETS | SET | {"steps": 4, "options": options} | changes
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    return host.nodes["MistProtectSet"].execute(images=images, **lists).args


def test_a_batch_and_a_list_of_sizes_are_one_set_in_order(host):
    images = [picture(batch=2), picture(height=56, width=40, seed=1)]
    made, report, words = together(host, images, captions="one\ntwo\n\nthree")
    assert [tuple(image.shape) for image in made] == [(1, 40, 48, 3), (1, 40, 48, 3), (1, 56, 40, 3)]
    rows = json.loads(report)
    assert [row["picture"] for row in rows] == ["Picture 1", "Picture 2", "Picture 3"]
    assert [row["settings"]["prompt"] for row in rows] == ["one", "two", "three"]
    assert all(0 < row["budget_used_levels"] <= 16 and row["steps_done"] == 4 for row in rows)
    assert "set of 3: 2 rounds" in words and "Picture 3: Changed by" in words
    for image, found in zip([images[0][:1], images[0][1:], images[1]], made, strict=True):
        assert 0 < (found - image).abs().max() <= 16.01 / 255
    assert all(map(torch.equal, made, together(host, images, captions="one\ntwo\n\nthree")[0]))


def test_one_caption_serves_all_and_none_is_mists_prompt(host):
    for captions, prompt in (("one", "one"), ("", "a painting"), ([], "a painting")):
        together(host, [picture(batch=2)], captions=captions)
        assert set(HostModel.made[-1].prompts) == {prompt}


def test_masks_and_alpha_go_with_their_pictures(host):
    mask = torch.zeros(1, 40, 48)
    mask[..., :24] = 1
    image = torch.cat([picture(channels=4), picture(channels=4, seed=2)])
    made, *_ = together(host, [image], masks=[mask])
    for found, own in zip(made, image, strict=True):
        assert found.shape[-1] == 4 and torch.equal(found[0, ..., 3], own[..., 3])
        moved = (found[0, ..., :3] - own[..., :3]).abs().amax(-1)
        assert moved[:, 24:].max() == 0 < moved[:, :24].max()


@pytest.mark.parametrize(
    "changes, batch, words",
    [
        ({}, 1, "2 pictures or more"),
        ({"captions": "one\ntwo"}, 3, "one for each of 3 pictures; got 2"),
        ({"masks": [torch.ones(2, 40, 48)]}, 3, "one for each of 3 pictures; got 2"),
        ({"rounds": 0}, 2, "rounds between"),
        ({"mode": "textural"}, 2, "no LoRA changes"),
        ({"model": []}, 2, "connect model"),
        ({"steps": 1}, 2, "a step or more for each round"),
    ],
)
def test_what_is_no_set_is_refused_in_plain_words(host, changes, batch, words):
    with pytest.raises(host.errors.MistError, match=words):
        together(host, [picture(batch=batch)], **changes)
    assert host.switch.asked == 0


def test_links_are_checked_before_anything_runs(host):
    check = host.nodes["MistProtectSet"].validate_inputs
    assert check(mode=["fused"], model=None, clip=None) is True
    assert "connect model" in check(mode=["lunet"])
    modes = next(x for x in schema(host, "MistProtectSet").inputs if x.id == "mode").keywords["options"]
    assert modes == ["fused", "semantic", "lunet"] and schema(host, "MistProtectSet").is_input_list


def test_one_bar_runs_over_the_rounds(host):
    together(host, [picture(batch=2)])
    assert [value for value, _, _ in bar().updates] == list(range(1, 15))
    assert {total for _, total, _ in bar().updates} == {bar().total} == {14}
    assert any(preview is not None for _, _, preview in bar().updates)


NOT_BEGUN = {"picture": "Picture 2", "error": "cancelled before its first step"}


@pytest.mark.parametrize("at", [2, 5, 12])
def test_a_cancel_of_a_set_keeps_what_is_reached(host, at):
    image, host.switch.interrupt_at = picture(batch=2), at
    if at <= 3:  # the LoRA learns, and no picture has begun
        with pytest.raises(comfyui_pack.Interrupted):
            together(host, [image])
        return
    made, report, _ = together(host, [image])
    first, second = json.loads(report)
    assert (first["steps_done"], host.switch.asked) == ({5: 2, 12: 4}[at], at)
    if at == 5:  # nothing unprotected goes on
        assert first["stopped"] and second == NOT_BEGUN
        image = image[:1]
    else:
        assert second["stopped"] and second["steps_done"] == 2
    assert all((found - own).abs().max() > 1e-3 for found, own in zip(made, image, strict=True))


def test_a_cancel_that_the_hosts_own_bar_sees_keeps_it_too(host, monkeypatch):
    real = comfyui_pack.Bar.update_absolute

    def update(self, value, total=None, preview=None):
        real(self, value, total, preview)
        if value == 5:
            raise comfyui_pack.Interrupted

    monkeypatch.setattr(comfyui_pack.Bar, "update_absolute", update)
    made, report, _ = together(host, [picture(batch=2)])
    first, second = json.loads(report)
    assert len(made) == 1 and first["steps_done"] == 2 and second == NOT_BEGUN


def test_a_picture_of_a_set_that_cannot_be_used_is_left_out_and_named(host):
    image = picture(batch=3)
    image[1] = torch.nan
    made, report, words = together(host, [image])
    assert len(made) == 2 and "Picture 2: failed, and left out: Expected pictures with values in [0, 1]" in words
    assert [row["picture"] for row in json.loads(report) if "error" in row] == ["Picture 2"]
    assert all(torch.isfinite(found).all() for found in made)
