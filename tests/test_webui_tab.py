"""The web UI's tab on fakes of the host: its controls, what it saves, says and refuses, and its languages."""

import base64
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import webui_face
from fakes.webui_face import QUICK, face, interrupt_at, painting, protect_in_tab, shift
from PIL import Image

from mist_attack.controls import DEFAULTS, settings_from
from mist_attack.errors import CheckpointError, SettingsError
from mist_attack.pictures.reading import read_mask
from mist_attack.settings import Controls, Settings, preset_controls, preset_names, resolve

ROOT = Path(__file__).parent.parent
NEW = ("budget", "rms", "hiding", "chroma", "transforms")
"""The controls of November 2026."""


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    return webui_face.start(monkeypatch, tmp_path)


# What is asked for


def test_every_control_is_a_widget_and_has_one_place():
    names = list(Controls.__dataclass_fields__)
    assert sorted(face.controls.NAMES) == sorted(face.options.WIDGETS) == sorted(names)
    assert set(face.options.HINTS) <= set(names)


def test_a_preset_sets_what_it_names_and_the_rest_to_defaults(shared):
    shared.opts.mist_steps = 30
    default, mist, gentle = (
        dict(zip(face.controls.NAMES, face.controls._values_of_preset(name), strict=True))
        for name in ("default", "mist", "gentle")
    )
    assert default["steps"] == 30 and mist["steps"] == 100 and not mist["keep_tone"] and gentle["strength"] == 8


@pytest.mark.parametrize("preset", preset_names())
def test_the_numbers_of_a_preset_are_on_its_sliders(preset):
    for name, value in preset_controls(preset).items():
        grid = face.options.WIDGETS[name][2]
        if "step" in grid:
            steps = (value - grid["minimum"]) / grid["step"]
            assert grid["minimum"] <= value <= grid["maximum"] and steps == pytest.approx(round(steps)), name


def test_widgets_give_floats_and_api_users_names():
    values = [getattr(Controls(), name) for name in face.controls.NAMES]
    assert face.controls.settings_from(tuple(values)) == Settings()
    assert face.controls.settings_from(()) == resolve()
    assert face.controls.settings_from(({"steps": 3},)) == resolve("default", {"steps": 3})


def test_a_list_of_values_from_before_there_was_a_budget_means_what_it_meant():
    old = face.controls.NAMES[: face.controls.NAMES.index("budget")]
    values = [getattr(Controls(), name) for name in old]
    assert face.controls.settings_from(tuple(values)) == Settings()


def test_a_settings_page_that_someone_changed_before_there_was_a_budget_keeps_mists(shared):
    added = {}
    shared.opts.add_option = lambda name, info: added.update({name: info.default})
    saved = {f"mist_{name}": value for name, value in DEFAULTS.items() if name not in NEW}
    for changed, expected in (({}, resolve()), ({"mist_strength": 8}, Settings(epsilon=8 / 255))):
        shared.opts.data = saved | changed
        face.options.on_ui_settings()
        page = {name: (added | shared.opts.data)[f"mist_{name}"] for name in DEFAULTS}
        assert settings_from(page) == expected
    shared.opts.data = saved | {f"mist_{name}": DEFAULTS[name] for name in NEW}  # Mist's numbers, chosen since
    face.options.on_ui_settings()
    assert settings_from({name: shared.opts.data[f"mist_{name}"] for name in DEFAULTS}) == Settings()


def test_an_unknown_control_is_refused_and_a_seed_drawn():
    settings = face.options.settings_from({"steps": 20.0, "seed": -1})
    assert settings.steps == 20 and settings.seed >= 0
    for unknown in ({"strenght": 3}, {"strenght": None}):
        with pytest.raises(SettingsError, match="Unknown control 'strenght'"):
            face.options.settings_from(unknown)


# The tab


def in_the_tab(
    canvas=None, *, source="", destination="", chosen=0, mask=None, mode=None, save=True, deep=True, **values
):
    named = {"source": source, "destination": destination, "deep": deep, "mask": mask, "mode": mode, "save": save}
    return protect_in_tab(canvas, None, QUICK | values, chosen=chosen, **named)[1:]


def test_the_tab_saves_a_protected_png_with_infotext(shared, tmp_path):
    picture = painting("RGBA")
    picture.info["parameters"] = "a cat\nSteps: 20, Seed: 5"
    (protected, difference), report, log = in_the_tab({"image": picture, "mask": None})
    (path,) = (tmp_path / "saved").iterdir()
    written = Image.open(path)
    assert path.name == "00007.png" and protected.already_saved_as == str(path)
    assert written.info["parameters"].startswith("a cat") and "Mist strength: 8" in written.info["parameters"]
    moved = shift(written, picture)
    assert 0 < moved.max() <= 8 and moved[..., 3].max() == 0 and difference.size == picture.size
    assert report.startswith(f"<p>Changed by at most {moved.max()} levels; ") and report.count("<details>") == 1
    assert (
        "PSNR" in report.split("</p>")[2]
        and "budget_used_levels" in report.split("<details>")[1]
        and log == ""
        and shared.state.previews >= 1
    )
    assert shared.state.current_latent == "a stale latent" and shared.state.sampling_steps == 0


def test_a_picture_that_breaks_its_budget_is_neither_shown_nor_saved(shared, tmp_path, monkeypatch):
    real = face.jobs.to_u8
    monkeypatch.setattr(face.jobs, "to_u8", lambda images: real(images) ^ 64)
    gallery, _, log = in_the_tab(painting())
    assert gallery is None and "a value moves by" in log
    assert not list((tmp_path / "saved").glob("*"))


@pytest.mark.parametrize(("mode", "size"), [("LA", (64, 64)), ("LA", (16, 16)), ("L", (32, 96)), ("RGBA", (256, 256))])
def test_a_mask_means_the_same_in_the_tab_and_as_a_file(tmp_path, monkeypatch, mode, size):
    """Alone, and with a painted one over it that allows all."""
    seen = []
    real = face.jobs.protect
    monkeypatch.setattr(face.jobs, "protect", lambda *args, mask, **more: seen.append(mask) or real(*args, **more))
    mask = Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (*size[::-1], len(mode)), np.uint8).squeeze(), mode
    )
    mask.save(tmp_path / "mask.png")
    in_the_tab(painting(), mask=mask, save=False)
    in_the_tab({"image": painting(), "mask": Image.new("RGBA", (64, 64), "white")}, mask=mask, save=False)
    expected, _ = read_mask(tmp_path / "mask.png", 64, 64)
    assert torch.equal(seen[0], expected)
    assert torch.equal(seen[1], expected.mul(255).round() / 255)  # painted masks have 8 bits


def test_an_interrupted_picture_is_shown_and_not_saved(shared, tmp_path):
    interrupt_at(1)
    gallery, report, _ = in_the_tab(painting(), steps=50)
    assert len(gallery) == 2 and "Interrupted after 1 of 50 steps" in report
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(("mode", "painted_changes"), [("PAINTED", True), ("NOT_PAINTED", False)])
def test_painting_says_where(mode, painted_changes):
    picture, drawn = painting(), Image.new("RGBA", (64, 64), "black")
    drawn.paste("white", (0, 0, 32, 64))
    canvas = {"image": picture, "mask": drawn}
    (protected, _), _, _ = in_the_tab(canvas, mode=getattr(face.tab, mode), save=False)
    moved = shift(protected, picture)
    inside, outside = moved[:, :32].max(), moved[:, 32:].max()
    assert (inside > 0) == painted_changes and (outside > 0) != painted_changes


@pytest.mark.parametrize("sent", ["data:picture", {"image": "data:picture", "mask": None}])
def test_a_picture_chosen_a_moment_ago_has_nothing_painted_on_it(monkeypatch, sent):
    monkeypatch.setattr(webui_face.Component, "preprocess", lambda _, value: value, raising=False)
    value = face.gradio3_canvas.Canvas().preprocess(sent)
    mask = Image.open(io.BytesIO(base64.b64decode(value["mask"].split(",")[1])))
    assert value["image"] == "data:picture" and mask.mode == "RGBA" and mask.getchannel("A").getextrema() == (0, 0)
    assert face.gradio3_canvas.Canvas().preprocess(None) is None


def test_no_component_is_defined_where_gradio_4_would_write_a_file_beside_it():
    defined = [value for value in vars(face.gradio_versions).values() if isinstance(value, type)]
    assert not [value for value in defined if issubclass(value, webui_face.Component)]


def test_in_forge_the_picture_stays_itself_and_a_small_copy_is_painted_on(monkeypatch):
    made = SimpleNamespace(background=object(), foreground=object())
    canvas = SimpleNamespace(ForgeCanvas=lambda **options: made)
    for name, module in {"modules_forge": canvas, "modules_forge.forge_canvas": canvas}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "modules_forge.forge_canvas.canvas", canvas)
    monkeypatch.setattr(face.gradio_versions, "MAJOR", 4)
    chosen, foreground = face.gradio_versions.canvas(elem_id="mist_picture", height=420)
    assert foreground is made.foreground and chosen.options["sources"] == ["upload", "clipboard"]
    small, nothing = face.gradio_versions._on_easel(Image.new("RGBA", (4096, 2048)))
    assert small.size == (1024, 512) and nothing is None
    assert face.gradio_versions._on_easel(None) == (None, None)


def test_in_forge_painting_is_what_is_opaque_and_may_have_another_size():
    picture, drawn = painting(), Image.new("RGBA", (32, 32))
    drawn.paste((255, 255, 255, 204), (0, 0, 16, 32))
    assert face.gradio_versions.painted(picture, Image.new("RGBA", (32, 32))) == (picture, None)
    _, (protected, _), _, _ = protect_in_tab(picture, drawn, QUICK)
    moved = shift(protected, picture)
    assert moved[:, :32].max() > 0 and moved[:, 32:].max() == 0


def test_a_mask_picture_and_painting_both_count():
    drawn, mask = Image.new("L", (64, 64)), Image.new("L", (8, 8), 255)
    drawn.paste(255, (0, 0, 32, 64))
    mask.paste(0, (0, 0, 8, 4))
    both = np.asarray(face.tab._combined(mask, drawn, face.tab.PAINTED, (64, 64)))
    assert both[40:, :32].min() == 255 and both[:24].max() == 0 and both[:, 32:].max() == 0


def test_the_tab_says_what_is_missing(shared):
    assert "Choose a picture first" in in_the_tab(None)[2]
    assert "Name a directory" in in_the_tab(chosen=1)[2]
    assert "between 0 and 255" in in_the_tab(painting(), strength=900)[2]
    shared.cmd_opts.hide_ui_dir_config = True
    assert "--hide-ui-dir-config" in in_the_tab(chosen=1, source="/")[2]


def gallery(folder):
    (folder / "deep").mkdir(parents=True)
    painting(seed=1).save(folder / "a.png")
    painting(seed=2).save(folder / "deep" / "b.png")
    Image.new("L", (64, 64)).save(folder / "deep" / "b.mask.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_directory_keeps_its_tree_and_has_a_row_for_each_file(tmp_path):
    folder = gallery(tmp_path / "in")
    shown, report, log = in_the_tab(chosen=1, source=f" {folder} ")
    assert "2 of 3 protected" in report and "failed: " in report and log == ""
    written = sorted(path.relative_to(folder / "mist").as_posix() for path in (folder / "mist").rglob("*.png"))
    assert written == ["a.png", "deep/b.png"] and shown == [str(folder / "mist" / "deep" / "b.png")]
    assert 0 < shift(Image.open(folder / "mist" / "a.png"), Image.open(folder / "a.png")).max() <= 8
    assert shift(Image.open(folder / "mist" / "deep" / "b.png"), Image.open(folder / "deep" / "b.png")).max() == 0
    assert "2 of 3 protected" in in_the_tab(chosen=1, source=str(folder))[1]  # its own results are no input


def test_an_interrupt_ends_a_directory_and_writes_nothing_half_done(shared, tmp_path):
    folder = gallery(tmp_path / "in")
    interrupt_at(1)
    works = face.folder.works_in(str(folder), str(tmp_path / "out"), deep=True)
    rows, last = face.folder.protect_works(works, face.options.settings_from({"steps": 9}))
    assert [row.said for row in rows[:1]] == ["not written: interrupted"] and last is None
    assert not list(tmp_path.glob("out/**/*.png"))


def test_without_a_model_a_directory_is_not_tried_to_its_end(monkeypatch, tmp_path):
    def fail(**_):
        raise CheckpointError("no model")

    monkeypatch.setattr(face.jobs, "loaded_model", fail)
    assert "no model" in in_the_tab(chosen=1, source=str(gallery(tmp_path / "in")))[2]


# Languages


HOSTS_OWN = {"Input directory", "Output directory", "Interrupt", "Mask", "Prompt", "Seed", "Steps"}
"""The web UI's own words, which general translations have, and Mist's name."""


def texts_of_the_page():
    webui_face.reset()
    face.tab.on_ui_tabs()
    face.always_on.MistScript().ui(is_img2img=False)
    words = {text for component in webui_face.shown for text in component.texts()}
    return {text for text in words if not text.startswith("Send to ")} - HOSTS_OWN - {"Mist"}


@pytest.mark.parametrize("language", ["zh_CN", "ja_JP"])
def test_every_text_of_the_page_is_translated(language):
    translated = json.loads((ROOT / "localizations" / f"{language}.json").read_text("utf-8"))
    assert set(translated) == texts_of_the_page() | {
        "Output directory of the Mist tab",
        "Paint a mask",
    }  # the latter in Forge
    assert all(translated.values())


# Evaluate


def evaluated(before, after):
    return face.tab._evaluate("task", 2, before, after, QUICK)


def test_the_tab_evaluates_two_pictures_in_words_first(shared):
    moved = Image.fromarray(np.asarray(painting()) ^ 4)
    gallery, report, log = evaluated(painting(), moved)
    assert log == "" and gallery[0].width == 2 * 64
    assert report.startswith("<p>") and "times as far from the original as random noise" in report.split("</p>")[0]
    assert "Changed by at most 4 levels" in report and "share_left" in report.split("<details>")[1]
    assert (
        "<p>Left from the original, right from the protected picture; from above: What the autoencoder keeps" in report
    )


def protected_then_evaluated(picture=None, values=QUICK, **named):
    last, *_ = protect_in_tab(picture, None, values, **named)
    return last, face.tab._evaluate_last("task", face.tab.EVALUATED, last)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_last_result_is_evaluated_as_it_is_and_as_it_was_made(monkeypatch, mode):
    """By the same settings and target, whatever is on the page by now; the pictures take their places."""
    judged, real = [], face.evaluating.judge
    monkeypatch.setattr(
        face.evaluating, "judge", lambda *args, **more: judged.append((args, more)) or real(*args, **more)
    )
    picture, target = painting(mode, size=(128, 64)), painting(seed=3)
    asked = QUICK | {"prompt": "a cat"}
    last, (before, after, gallery, report, log) = protected_then_evaluated(picture, asked, target=target, size=64)
    assert log == "" and gallery and "times as far from the original as random noise" in report
    assert before.size == after.size == (64, 32) and after is last.image
    (((_, first, second, settings), more),) = judged
    assert settings == last.settings and settings.prompt == "a cat" and more["target"].shape == (1, 3, 64, 64)
    for levels, image in ((first, before), (second, after)):
        assert np.array_equal(levels[0].permute(1, 2, 0).numpy(), np.asarray(image)[..., :3])


def test_of_a_directory_the_last_result_is_evaluated(tmp_path):
    painting(seed=4).save(tmp_path / "a.png")
    _, (before, after, _, report, log) = protected_then_evaluated(chosen=1, source=str(tmp_path))
    assert log == "" and report and np.array_equal(before, painting(seed=4))
    assert np.array_equal(after, Image.open(tmp_path / "mist" / "a.png"))


def test_without_a_result_there_is_nothing_to_evaluate():
    *_, log = face.tab._evaluate_last("task", 0, None)
    assert "Protect a picture first" in log
    last, (*_, log) = protected_then_evaluated()
    assert last is None and "Protect a picture first" in log
    _, (*_, log) = protected_then_evaluated(painting(), QUICK | {"strength": 0})
    assert "are equal" in log


def test_transparency_is_left_out_of_an_evaluation_and_that_is_told():
    clear = painting("RGBA")
    _, report, _ = evaluated(clear, Image.fromarray(np.asarray(painting()) ^ 4))
    assert "transparency was left out" in report.split("<pre")[0]
    opaque = painting("RGB").convert("RGBA")
    assert "transparency" not in evaluated(opaque, Image.fromarray(np.asarray(painting()) ^ 4))[1]


@pytest.mark.parametrize(("after", "words"), [(None, "two pictures first"), (painting(), "equal")])
def test_the_tab_says_what_it_cannot_evaluate(after, words):
    gallery, report, log = evaluated(painting(), after)
    assert gallery is None and report == "" and words in log


def test_protect_does_nothing_while_evaluate_is_chosen():
    gallery, _, log = in_the_tab(painting(), chosen=face.tab.EVALUATED)
    assert gallery is None and "Choose what to protect" in log
