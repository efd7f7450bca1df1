"""The web UI's face on fakes of the host: what it writes, says, refuses and gives back."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import webui_face
from fakes.toy import ToySurrogate
from PIL import Image

from mist_attack.errors import CheckpointError, MistError, PictureError, SettingsError
from mist_attack.settings import Controls

ROOT = Path(__file__).parent.parent
NAMES = "always_on api controls extras folder gradio_versions infotext jobs options progress saving tab"
face = webui_face.face(*NAMES.split())
QUICK = {"steps": 2, "strength": 8}


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    """The host as it starts, with a small model loaded."""
    monkeypatch.setattr(face.jobs, "loaded_model", lambda **options: ToySurrogate())
    monkeypatch.setattr(face.options, "OUTPUT_FOLDER", str(tmp_path / "saved"))
    return webui_face.reset()


def painting(mode="RGB", size=(64, 64), seed=0):
    channels = len(mode)
    levels = np.random.default_rng(seed).integers(30, 220, (*size[::-1], channels), dtype=np.uint8)
    return Image.fromarray(levels)


def shift(image, expected):
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected))


def outcome_of(image=None, **values):
    return face.jobs.protect_picture(image or painting(), face.options.settings_from(QUICK | values))


def interrupt_at(shared, step):
    """The user interrupts when so many steps are done."""

    class Interrupted(webui_face.State):
        hit = False

        @property
        def interrupted(self):
            self.hit = self.hit or self.sampling_step >= step
            return self.hit

        @interrupted.setter
        def interrupted(self, _):
            pass

    shared.state = Interrupted()


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


def test_widgets_give_floats_and_api_users_names():
    values = face.controls.values_from(tuple(range(len(face.controls.NAMES))))
    assert list(values) == list(face.controls.NAMES)
    assert face.controls.values_from(({"steps": 3},)) == {"steps": 3}
    settings = face.options.settings_from({"steps": 20.0, "seed": -1})
    assert settings.steps == 20 and settings.seed >= 0
    with pytest.raises(SettingsError, match="Known controls"):
        face.options.settings_from({"strenght": 3})


# What is written


def test_infotext_follows_the_pictures_own_and_replaces_ours():
    keys = face.infotext.keys_of(outcome_of().report)
    first = face.infotext.appended("a cat\nSteps: 20, Seed: 5", keys | {"Mist note": "one, two: three"})
    assert first.startswith("a cat\nSteps: 20, Seed: 5, Mist: ") and "Mist strength: 8, Mist steps: 2" in first
    again = face.infotext.appended(first, keys)
    assert again.count("Mist steps") == 1 and "note" not in again and "Seed: 5" in again
    assert face.infotext.appended(None, keys) == face.infotext.line_of(keys)


def test_only_ours_is_taken_out_of_a_copys_infotext():
    text = 'a cat, Mist: of the sea\nSteps: 20, Mist: 0.1, Seed: 5, Mist note: "a, b: \\"c\\"", Size: 8x8, Mist seed: 3'
    lines = face.always_on.OURS.sub("", text).split("\n")
    assert lines[1] == "Steps: 20, Seed: 5, Size: 8x8"


@pytest.mark.parametrize(
    ("options", "size", "said"),
    [
        ({}, (64, 64), None),
        ({"samples_format": "webp", "webp_lossless": True}, (64, 64), None),
        ({"samples_format": "webp"}, (64, 64), "WebP"),
        ({"samples_format": "JPG"}, (64, 64), "JPEG"),
        ({"samples_format": "avif"}, (64, 64), "AVIF"),
        ({"export_for_4chan": True}, (64, 64), None),
        ({"export_for_4chan": True}, (5000, 8), "JPEG copy"),
        ({"export_for_4chan": True}, (2000, 2000), "JPEG copy"),
    ],
)
def test_lossy_saving_is_said(shared, options, size, said):
    vars(shared.opts).update(options)
    notices = face.infotext.lossy_notices(*size)
    assert (said in notices[0]) if said else notices == []


# The tab


def in_the_tab(canvas=None, *, source="", destination="", chosen=0, mask=None, mode=None, save=True, **values):
    mode = mode or face.tab.PAINTED
    common = (canvas, mode, mask, source, destination, None, 0, save)
    return face.tab._protect("task", chosen, *common, QUICK | values)


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
    assert "PSNR" in report and log == "" and shared.state.previews >= 1
    assert shared.state.current_latent == "a stale latent" and shared.state.sampling_steps == 0


def test_an_interrupted_picture_is_shown_and_not_saved(shared, tmp_path):
    interrupt_at(shared, 1)
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
    value = face.gradio_versions.Canvas().preprocess(sent)
    mask = Image.open(io.BytesIO(base64.b64decode(value["mask"].split(",")[1])))
    assert value["image"] == "data:picture" and mask.mode == "RGBA" and mask.getchannel("A").getextrema() == (0, 0)
    assert face.gradio_versions.Canvas().preprocess(None) is None


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
    interrupt_at(shared, 1)
    rows, last = face.folder.protect_folder(folder, tmp_path / "out", face.options.settings_from({"steps": 9}))
    assert [row.said for row in rows[:1]] == ["not written: interrupted"] and last is None
    assert not list(tmp_path.glob("out/**/*.png"))


def test_without_a_model_a_directory_is_not_tried_to_its_end(monkeypatch, tmp_path):
    def fail(**_):
        raise CheckpointError("no model")

    monkeypatch.setattr(face.jobs, "loaded_model", fail)
    assert "no model" in in_the_tab(chosen=1, source=str(gallery(tmp_path / "in")))[2]


# Always on


def generation(batch_size=2, n_iter=1):
    p = SimpleNamespace(iteration=0, batch_index=0, batch_size=batch_size, n_iter=n_iter, width=64, height=64)
    p.extra_generation_params, p.comments = {}, []
    p.comment = p.comments.append
    return p


def finish(p, index, *arguments, enabled=True):
    p.batch_index = index
    pp = SimpleNamespace(image=painting(seed=index))
    face.always_on.MistScript().postprocess_image_after_composite(p, pp, enabled, *(arguments or (QUICK,)))
    return pp.image


def infotext_of(p, index=0, **options):
    values = {key: value(p, index, **options) for key, value in p.extra_generation_params.items()}
    return {key: value for key, value in values.items() if value is not None}


def test_each_finished_image_has_its_own_infotext():
    p = generation()
    assert 0 < shift(finish(p, 0), painting(seed=0)).max() <= 8
    assert infotext_of(p, 0)["Mist steps"] == "2" and infotext_of(p, 1) == {}
    assert infotext_of(p, use_main_prompt=True) == {}  # a grid of which one image is not protected
    finish(p, 1)
    assert infotext_of(p, 1) and infotext_of(p, use_main_prompt=True)
    assert p.comments == []


def test_it_is_off_unless_asked_for():
    p = generation()
    assert shift(finish(p, 0, enabled=False), painting()).max() == 0
    assert p.extra_generation_params == {} and p.comments == []


@pytest.mark.parametrize(("step", "said"), [(0, "The generation was interrupted"), (1, "protection was interrupted")])
def test_an_interrupted_image_is_not_protected_and_that_is_said(shared, step, said):
    interrupt_at(shared, step)
    p = generation()
    assert shift(finish(p, 0, {"steps": 9}), painting()).max() == 0
    assert p.extra_generation_params == {} and "NOT protected: image 1." in p.comments[0] and said in p.comments[0]
    assert webui_face.said == p.comments


@pytest.mark.parametrize("error", [RuntimeError("odd"), MistError("ours")])
def test_what_goes_wrong_does_not_lose_the_image(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(face.jobs, "loaded_model", fail)
    p = generation()
    assert shift(finish(p, 0), painting()).max() == 0 and str(error) in p.comments[0]


def test_copies_do_not_say_that_they_are_protected():
    p = generation(batch_size=1)
    protected = finish(p, 0)
    text = f"a cat\nSeed: 5, {face.infotext.line_of(infotext_of(p))}"
    for image, expected in ((protected, text), (painting(), "a cat\nSeed: 5")):
        params = SimpleNamespace(p=p, image=image, pnginfo={"parameters": text})
        face.always_on.strip_from_copies(params)
        assert params.pnginfo["parameters"] == expected


# Extras


def postprocess(image, **values):
    pp = SimpleNamespace(image=image, info={})
    face.extras.MistPostprocessing().process(pp, **values)
    return pp


def test_extras_keeps_alpha_and_writes_what_it_did():
    pp = postprocess(painting("RGBA"), enable=True, **QUICK)
    moved = shift(pp.image, painting("RGBA"))
    assert 0 < moved.max() <= 8 and moved[..., 3].max() == 0 and pp.info["Mist steps"] == "2"


def test_extras_does_nothing_unless_asked_for():
    assert postprocess(painting(), enable=None).info == postprocess(painting()).info == {}


def test_extras_leaves_out_of_a_directory_what_it_could_not_protect(shared, monkeypatch):
    def fail(*_, **__):
        raise PictureError("odd picture")

    monkeypatch.setattr(face.extras, "protect_picture", fail)
    with pytest.raises(PictureError):
        postprocess(painting(), enable=True)
    shared.state.job_count = 3
    assert postprocess(painting(), enable=True).info == {} and shared.state.skipped
    assert "not protected and not saved" in webui_face.said[-1]


def test_extras_names_lossy_saving(shared):
    shared.opts.samples_format = "jpg"
    assert "lossy" in postprocess(painting(), enable=True, **QUICK).info["Mist note"]


# The API


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(**body):
    request = {"image": encoded(painting()), "settings": QUICK} | body
    return face.api.protect(face.api.ProtectRequest(**request))


def test_the_api_answers_with_a_lossless_picture_and_a_report(shared):
    answer = ask(image=f"data:image/png;base64,{encoded(painting())}", include_difference=True)
    written = Image.open(io.BytesIO(base64.b64decode(answer.image)))
    assert shift(written, painting()).max() == answer.report["budget_used_levels"] <= 8
    assert written.info["parameters"] == answer.infotext and answer.difference
    assert shared.state.job == "" and json.dumps(answer.report)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CheckpointError("no model"), 409),
        (PictureError("odd"), 400),
        (MemoryError("not enough memory"), 413),
        (RuntimeError("CUDA out of memory"), 413),
    ],
)
def test_errors_have_a_status_and_end_the_job(shared, monkeypatch, error, status):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(face.api, "protect_picture", fail)
    with pytest.raises(webui_face.HTTPException) as raised:
        ask()
    assert raised.value.status_code == status and shared.state.job == ""


@pytest.mark.parametrize("image", ["no picture", "http://127.0.0.1/a.png", ""])
def test_what_is_no_picture_is_refused_and_no_network_asked(image):
    with pytest.raises(webui_face.HTTPException) as raised:
        ask(image=image)
    assert raised.value.status_code == 400 and "expected a picture in base64" in raised.value.detail


def test_the_api_begins_with_the_settings_page(shared):
    shared.opts.mist_strength = 3
    assert ask(settings={"steps": 1}).report["budget_used_levels"] <= 3
    assert face.api.info().defaults["strength"] == 3


def test_users_of_the_api_are_asked_for_their_password(shared):
    shared.cmd_opts.api_auth = "me:secret,you:other:with colon"
    check = face.api._guard(face.api._users())
    for user, password, allowed in (
        ("me", "secret", True),
        ("you", "other:with colon", True),
        ("me", "wrong", False),
        ("nobody", "secret", False),
    ):
        credentials = SimpleNamespace(username=user, password=password)
        if allowed:
            assert check(credentials)
        else:
            with pytest.raises(webui_face.HTTPException) as raised:
                check(credentials)
            assert raised.value.status_code == 401


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
    assert set(translated) == texts_of_the_page() | {"Output directory of the Mist tab"}
    assert all(translated.values())
