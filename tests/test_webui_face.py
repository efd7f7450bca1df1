"""The web UI's other faces on fakes of the host: infotext, the always-on script, Extras and the API."""

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import webui_face
from fakes.webui_face import QUICK, face, interrupt_at, painting, shift
from fastapi import HTTPException
from PIL import Image

from mist_attack.controls import CONTROLS
from mist_attack.errors import CheckpointError, MistError, PictureError
from mist_attack.presets import DEFAULT, preset_controls
from mist_attack.settings import preset_names, resolve


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    return webui_face.start(monkeypatch, tmp_path)


def outcome_of(image=None, **values):
    return face.jobs.protect_picture(image or painting(), face.options.settings_from(QUICK | values))


# Settings


def test_the_settings_page_shows_the_machine_without_asking_it_for_anything(shared, monkeypatch):
    def computes(*_, **__):
        raise AssertionError("a page that computes is slow to open")

    monkeypatch.setattr(face.options.doctor, "examine", computes)
    monkeypatch.setattr(face.options.doctor, "available_bytes", computes)
    monkeypatch.setattr(face.options.doctor, "described_safely", lambda device: "cuda:0 (<b>NVIDIA</b>)")
    monkeypatch.setattr(face.options.doctor, "all_devices", lambda: [torch.device("cuda", 0)])
    added = {}
    shared.opts.add_option = added.__setitem__
    face.options.on_ui_settings()
    line = added["mist_machine"]
    assert line.section == face.options.SECTION and "python -m mist_attack doctor" in line.default
    assert f"torch {torch.__version__}" in line.default and "cuda:0 (&lt;b&gt;NVIDIA" in line.default


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
    expected = "a cat, Mist: of the sea\nSteps: 20, Seed: 5, Size: 8x8"
    assert face.infotext.without(face.infotext.OURS, text) == expected
    failed = f"{expected}, Mist error: no model"
    assert face.infotext.without(face.infotext.CLAIMS, f"{failed}, Mist seed: 3") == failed


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
        ({"stealth_pnginfo_option": "Alpha"}, (64, 64), None),
        ({"stealth_pnginfo_option": "RGB"}, (64, 64), "one grey level more"),
    ],
)
def test_lossy_saving_is_said(shared, options, size, said):
    vars(shared.opts).update(options)
    notices = face.infotext.lossy_notices(*size)
    assert (said in notices[0]) if said else notices == []


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
    assert [words[:34] for words in p.comments] == [f"Mist: image {i}. Changed by at most " for i in (1, 2)]
    assert all("times as far as noise" in words for words in p.comments) and webui_face.said == []


def test_it_is_off_unless_asked_for():
    p = generation()
    assert shift(finish(p, 0, enabled=False), painting()).max() == 0
    assert p.extra_generation_params == {} and p.comments == []


@pytest.mark.parametrize(("step", "said"), [(0, "The generation was interrupted"), (1, "protection was interrupted")])
def test_an_interrupted_image_is_not_protected_and_that_is_said(shared, step, said):
    interrupt_at(step)
    p = generation()
    assert shift(finish(p, 0, {"steps": 9}), painting()).max() == 0
    assert "NOT protected: image 1." in p.comments[0] and said in p.comments[0]
    assert list(infotext_of(p)) == ["Mist error"] and said in infotext_of(p)["Mist error"]
    assert webui_face.said == p.comments * 2  # the console and the page


@pytest.mark.parametrize("error", [RuntimeError("odd"), MistError("ours")])
def test_what_goes_wrong_does_not_lose_the_image(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(face.jobs, "loaded_model", fail)
    p = generation()
    assert shift(finish(p, 0), painting()).max() == 0 and str(error) in p.comments[0]
    mark = infotext_of(p, 0)["Mist error"]
    assert mark.startswith("not protected: ") and (str(error) in mark) == isinstance(error, MistError)
    finish(p, 1, enabled=False)
    assert infotext_of(p, 1) == {} and infotext_of(p, use_main_prompt=True).keys() == {"Mist error"}


@pytest.mark.parametrize(
    "bad", [{"strenght": 8}, {"strength": 900}, {"preset": "none"}, {"preset": ["mist"]}, [8], "x"]
)
def test_settings_that_will_not_do_are_marked_in_the_answer(bad):
    p = generation()
    assert shift(finish(p, 0, bad), painting()).max() == 0
    assert "Mist error" in infotext_of(p, 0) and webui_face.said[0].startswith("Mist: NOT protected: image 1.")


@pytest.mark.parametrize("arguments", [(), ({},), ({"steps": None},), ({"preset": "default"},)])
def test_what_is_not_named_is_as_the_settings_page_has_it(shared, arguments):
    shared.opts.mist_steps, shared.opts.mist_strength = 2, 3
    p = generation()
    p.batch_index, pp = 0, SimpleNamespace(image=painting())
    face.always_on.MistScript().postprocess_image_after_composite(p, pp, True, *arguments)
    assert 0 < shift(pp.image, painting()).max() <= 3 and infotext_of(p, 0)["Mist steps"] == "2"


def test_a_strength_below_one_level_is_told_to_change_nothing():
    outcome = outcome_of(strength=0.4)
    assert shift(outcome.image, painting()).max() == 0 and outcome.report.steps_done == 0
    assert not face.made.is_ours(painting())  # nor may its file claim anything
    assert outcome.report.notices == ["strength 0.4 changes nothing: the pixels are the original's"]


def test_a_program_may_name_a_preset(shared):
    shared.opts.mist_strength = 3
    settings = face.controls.settings_from(({"preset": "gentle", "steps": 2},))
    assert settings.strength_levels == 8 and settings.steps == 2


def saved(image, text, p=None, section="parameters"):
    """What the web UI writes into the file of an image."""
    params = SimpleNamespace(p=p, image=image, pnginfo={section: text})
    face.always_on.strip_from_copies(params)
    return params.pnginfo[section]


def claim(p):
    return f"a cat\nSeed: 5, {face.infotext.line_of(infotext_of(p))}"


def test_copies_do_not_say_that_they_are_protected():
    p = generation(batch_size=1)
    protected = finish(p, 0)
    assert saved(protected, claim(p), p) == claim(p)
    mask, larger = Image.new("L", (64, 64), 255), painting(size=(256, 256))
    nudged = np.array(protected)
    nudged[0, 0, 0] ^= 4
    for copy in (painting(), mask, larger, painting("RGBA"), protected.resize((128, 128)), Image.fromarray(nudged)):
        for section in face.always_on.SECTIONS:
            assert saved(copy, claim(p), p, section) == saved(copy, claim(p), None, section) == "a cat\nSeed: 5"


def test_it_is_the_pixels_that_count_and_not_who_saves_them():
    p = generation(batch_size=1)
    again = Image.fromarray(np.array(finish(p, 0)))
    again.putalpha(7)  # as Forge hides the infotext
    assert saved(again, claim(p)) == claim(p)


def test_what_could_not_be_protected_keeps_its_mark(monkeypatch):
    p = generation(batch_size=1)
    image = finish(p, 0, {"strength": 900})
    assert saved(image, claim(p), p) == claim(p) and "Mist error" in claim(p)


def test_a_grid_says_so_where_all_of_its_images_are():
    p = generation()
    parts = [finish(p, 0)]
    grid = lambda images: Image.fromarray(np.hstack([np.asarray(x) for x in images]))  # noqa: E731
    assert saved(grid([*parts, painting()]), claim(p), p) == "a cat\nSeed: 5"
    parts.append(finish(p, 1))
    assert saved(grid([*parts, painting()]), claim(p), p) == "a cat\nSeed: 5"  # a mask among them
    assert saved(grid(parts), claim(p), p) == claim(p)


def test_forge_may_have_moved_the_lowest_bits(shared):
    shared.opts.stealth_pnginfo_option = "RGB"
    p = generation(batch_size=1)
    hidden = Image.fromarray(np.array(finish(p, 0)) ^ 1)
    assert saved(hidden, claim(p), p) == claim(p) and saved(painting(), claim(p), p) == "a cat\nSeed: 5"


@pytest.mark.parametrize("enabled", [True, False])
def test_nor_does_what_forge_hides_in_their_pixels(shared, monkeypatch, enabled):
    hidden = []
    hide = lambda params: hidden.append(params.pnginfo["parameters"])  # noqa: E731
    monkeypatch.setattr(face.always_on, "HIDDEN", SimpleNamespace(add_stealth_pnginfo=hide))
    shared.opts.enable_pnginfo = enabled
    p = generation(batch_size=1)
    finish(p, 0)
    text = f"Seed: 5, {face.infotext.line_of(infotext_of(p))}"
    face.always_on.strip_from_copies(SimpleNamespace(p=p, image=painting(), pnginfo={"parameters": text}))
    assert hidden == (["Seed: 5"] if enabled else [])


# Extras


def postprocess(image, **values):
    pp = SimpleNamespace(image=image, info={})
    face.extras.MistPostprocessing().process(pp, **values)
    return pp


def test_extras_keeps_alpha_and_writes_what_it_did():
    pp = postprocess(painting("RGBA"), enable=True, **QUICK)
    moved = shift(pp.image, painting("RGBA"))
    assert 0 < moved.max() <= 8 and moved[..., 3].max() == 0 and pp.info["Mist steps"] == "2"
    assert pp.info["Mist report"].startswith(f"Changed by at most {moved.max()} levels; ")
    line = face.infotext.line_of(pp.info)
    assert webui_face.parsed(line)["Mist report"] == pp.info["Mist report"]
    assert face.infotext.without(face.infotext.OURS, line) == ""


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


def test_the_api_gives_out_no_picture_that_breaks_its_budget(monkeypatch):
    real = face.jobs.to_u8
    monkeypatch.setattr(face.jobs, "to_u8", lambda images: real(images) ^ 64)
    with pytest.raises(HTTPException) as raised:
        ask()
    assert raised.value.status_code == 500 and "a value moves by" in raised.value.detail


def test_the_api_answers_with_a_lossless_picture_and_a_report(shared):
    answer = ask(image=f"data:image/png;base64,{encoded(painting())}", include_difference=True)
    written = Image.open(io.BytesIO(base64.b64decode(answer.image)))
    assert shift(written, painting()).max() == answer.report["budget_used_levels"] <= 8
    assert written.info["parameters"] == answer.infotext and answer.difference
    assert shared.state.job == "" and json.dumps(answer.report)
    assert answer.words.startswith(f"Changed by at most {answer.report['budget_used_levels']} levels; ")


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


# Doing it again


@pytest.mark.parametrize("objective", ["textural", "semantic", "fused"])
@pytest.mark.parametrize("preset", preset_names())
def test_infotext_holds_all_that_is_needed_to_do_it_again(objective, preset):
    values = {
        "strength": 7.3,
        "steps": 1,
        "prompt": 'a "cat", {sitting: there',
        "direction": "descent",
        "target": "rings",
    }
    asked = face.options.settings_from({**values, "objective": objective}, preset)
    line = face.infotext.line_of(face.infotext.keys_of(face.jobs.protect_picture(painting(), asked).report))
    read = webui_face.parsed(f"a cat\nSeed: 5, {line}")
    used = [control for control in CONTROLS if objective in control.uses and control.changes_picture]
    again = resolve("default", {control.name: read[f"Mist {control.label.lower()}"] for control in used})
    assert [getattr(again, control.setting) for control in used] == [getattr(asked, c.setting) for c in used]
    assert face.infotext.without(face.infotext.OURS, f"a cat\nSeed: 5, {line}") == "a cat\nSeed: 5"


KEYS_OF_2026 = ["Mist", "Mist mode", "Mist strength", "Mist steps", "Mist step size", "Mist view", "Mist working size"]
KEYS_OF_2026 += ["Mist seed", "Mist model", "Mist fusion weight", "Mist target"]


def test_the_first_keys_of_infotext_stay():
    keys = face.infotext.keys_of(outcome_of(objective="fused", strength=7.5, seed=9).report)
    assert set(KEYS_OF_2026) <= keys.keys()
    found = [
        keys[name] for name in ("Mist strength", "Mist steps", "Mist step size", "Mist fusion weight", "Mist seed")
    ]
    default = preset_controls(DEFAULT)
    assert found == ["7.5", "2", f"{default['step']:g}", f"{default['fusion_weight']:g}", "9"]
    assert {"Mist budget", "Mist rms", "Mist hiding", "Mist colour", "Mist transforms"} <= keys.keys()


@pytest.mark.parametrize(
    "prompt", ['"quoted" first', 'all "quoted"', '"', "", " ", "Mist error: none, Mist seed: 3", 'a\nb\\"']
)
def test_a_prompt_is_one_value_in_infotext_and_goes_with_the_others(prompt):
    keys = face.infotext.keys_of(outcome_of(objective="semantic", prompt=prompt).report)
    text = face.infotext.appended("a cat\nSeed: 5", keys)
    assert webui_face.parsed(text)["Mist prompt"] == prompt and "Mist error" not in webui_face.parsed(text)
    assert face.infotext.without(face.infotext.OURS, text) == "a cat\nSeed: 5"


def judged(**body):
    moved = Image.fromarray(np.asarray(painting()) ^ 4)
    request = {"original": encoded(painting()), "protected": encoded(moved)} | body
    return face.api.evaluate(face.api.EvaluateRequest(**request))


def test_the_api_evaluates_by_the_loaded_model(shared):
    answer = judged(include_page=True)
    (pair,) = answer.results["pairs"]
    assert pair["visibility"]["linf_levels"] == 4 and answer.results["verdicts"][0]["words"] in answer.words
    assert pair["models"][0]["views"]["whole"]["survival"]["half"]["share_left"]["value"] > 0
    assert answer.page.startswith("<!DOCTYPE html>") and shared.state.job == "" and json.dumps(answer.results)
    assert judged().page == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"protected": "http://127.0.0.1/a.png"}, "base64"),
        ({"protected": encoded(painting())}, "equal"),
        ({"protected": encoded(painting().resize((40, 40)))}, "one size"),
        ({"settings": {"strenght": 1}}, "Unknown control"),
        ({"strength": 1}, "Unknown field"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(shared, body, words):
    with pytest.raises(webui_face.HTTPException) as raised:
        judged(**body)
    assert raised.value.status_code == 400 and words in raised.value.detail and shared.state.job == ""


def test_an_evaluation_that_is_interrupted_judges_nothing(shared):
    shared.state.interrupted = True
    with pytest.raises(webui_face.HTTPException) as raised:
        judged()
    assert raised.value.status_code == 409 and "interrupted" in raised.value.detail
