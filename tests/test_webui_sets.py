"""A set in the web UI, on fakes of the host: the tab's folder and the API, what they keep, leave, say and refuse."""

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import webui_face
from fakes.command import files
from fakes.toy import ToySurrogate
from fakes.webui_face import face, interrupt_at, painting, parsed, protect_in_tab, shift
from fastapi import HTTPException
from PIL import Image

from mist_attack.errors import CheckpointError, PictureError
from mist_attack.sets.settings import SET_CONTROLS, SetSettings

QUICK = {"steps": 4, "strength": 8, "working_size": 64, "objective": "fused"}
OF_SET = {"rounds": 2, "lora_steps": 3, "lora_rank": 2}
LEARNING, SHARE = OF_SET["lora_steps"], QUICK["steps"] // OF_SET["rounds"]
"""Of a round: the LoRA's steps, and each picture's."""
SIZES = ((64, 64), (96, 64), (64, 80))


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    return webui_face.start(monkeypatch, tmp_path)


def loaded(monkeypatch, model):
    """The model that the host has, from now on."""
    monkeypatch.setattr(face.jobs, "loaded_model", lambda **options: model)
    return model


def pictures():
    return [painting(size=size, seed=seed) for seed, size in enumerate(SIZES)]


def gallery(folder):
    (folder / "deep").mkdir(parents=True)
    for name, picture in zip(("a", "b", "deep/c"), pictures(), strict=True):
        picture.save(folder / f"{name}.png")
    (folder / "a.prompt.txt").write_text("a drawing", encoding="utf-8")
    return folder


def as_a_set(folder, of_set=OF_SET, **named):
    """The gallery, the report and the log."""
    values = [of_set.get(name) for name in face.controls.SET_NAMES]
    asked = QUICK | named.pop("values", {})
    where = {"source": str(folder), "deep": True, "together": True}
    return protect_in_tab(None, None, asked, chosen=1, of_set=values, **where | named)[1:]


def levels(folder):
    return {name: np.asarray(Image.open(folder / name)).tolist() for name in files(folder)}


# The folder


def test_a_folder_is_protected_as_one_set_with_a_row_for_each(shared, tmp_path):
    folder = gallery(tmp_path / "in")
    shown, report, log = as_a_set(folder)
    assert log == "" and report.startswith("<p>3 of 3 protected.</p>") and shown == [str(folder / "mist/deep/c.png")]
    assert files(folder / "mist") == ["a.png", "b.png", "deep/c.png"]
    assert report.count("as one of a set of 3: 2 rounds, in each 3 steps of a LoRA of rank 2") == 3
    assert "no caption (STEM.prompt.txt) beside 2 of 3, so &#x27;a painting&#x27;: b.png, c.png" in report
    for name in files(folder / "mist"):
        made, before = Image.open(folder / "mist" / name), Image.open(folder / name)
        assert 0 < shift(made, before).max() <= 8 and face.made.is_ours(made)
        told = parsed(made.info["parameters"])
        assert told["Mist prompt"] == ("a drawing" if name == "a.png" else "a painting")
        assert [told[f"Mist {name}"] for name in ("steps", "rounds", "lora steps", "lora rank")] == ["4", "2", "3", "2"]


def test_progress_goes_over_all_rounds_and_says_which(shared, tmp_path, monkeypatch):
    seen = []

    class Watched(webui_face.State):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "sampling_steps":
                seen.append((getattr(self, "textinfo", None), self.sampling_step, value))

    webui_face.webui.modules["shared"].state = state = Watched()
    as_a_set(gallery(tmp_path / "in"))
    total = 2 * LEARNING + 3 * 4
    steps = [(step, of) for text, step, of in seen if of and "round" in text]
    assert steps == [(step, total) for step in range(1, total + 1)]
    words = [text for text, *_ in seen if text]
    assert "Mist: round 1 of 2, the LoRA learns" in words and "Mist: round 2 of 2, deep/c.png" in words
    assert state.previews >= 1 and state.textinfo is None and state.sampling_steps == 0


def test_the_tab_and_the_api_give_the_same_pictures(tmp_path):
    as_a_set(gallery(tmp_path / "in"))
    captions = ["a drawing", "a painting", "a painting"]
    for name, one in zip(("a", "b", "deep/c"), ask(captions=captions).pictures, strict=True):
        assert shift(Image.open(tmp_path / f"in/mist/{name}.png"), decoded(one.image)).max() == 0


def test_masks_targets_and_an_output_size_are_as_for_single_pictures(tmp_path):
    folder = gallery(tmp_path / "in")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    mask.save(folder / "b.mask.png")
    half = Image.open(folder / "b.png").resize((48, 32), Image.Resampling.LANCZOS)
    _, report, _ = as_a_set(folder, target=painting(seed=9), size=48, destination=str(tmp_path / "out"))
    made = Image.open(tmp_path / "out/b.png")
    moved = shift(made, half)
    assert moved[:, :24].max() > 0 and moved[:, 25:].max() == 0 and made.size == (48, 32)  # a reduced edge is soft
    assert parsed(made.info["parameters"])["Mist target"] == "picture" and "3 of 3" in report
    _, again, _ = as_a_set(folder, target=painting(seed=9), size=64, destination=str(tmp_path / "out"))
    assert "protected already" not in again and Image.open(tmp_path / "out/b.png").size == (64, 43)


def test_transparency_and_generation_parameters_stay(tmp_path):
    folder = gallery(tmp_path / "in")
    clear = painting("RGBA", seed=5)
    info = face.pictures.PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nSeed: 5")
    clear.save(folder / "a.png", pnginfo=info)
    as_a_set(folder)
    made = Image.open(folder / "mist/a.png")
    assert 0 < shift(made, clear)[..., :3].max() <= 8 and shift(made, clear)[..., 3].max() == 0
    assert made.info["parameters"].startswith("a cat\nSeed: 5, Mist: ")


def test_what_is_done_is_not_done_again_until_the_set_is_another(tmp_path):
    folder = gallery(tmp_path / "in")
    as_a_set(folder)
    before = levels(folder / "mist")
    shown, report, log = as_a_set(folder)
    assert report.count("protected already") == 3 and report.startswith("<p>3 of 3 protected.</p>") and log == ""
    assert shown and levels(folder / "mist") == before
    assert "protected already" not in as_a_set(folder, OF_SET | {"lora_rank": 1})[1]
    assert "protected already" not in as_a_set(folder, OF_SET | {"lora_rank": 1}, values={"strength": 4})[1]
    for seed in range(2):
        assert "protected already" not in as_a_set(folder, target=painting(seed=seed))[1]
    painting(seed=8).save(folder / "d.png")
    assert "4 of 4 protected" in as_a_set(folder)[1] and levels(folder / "mist")["a.png"] != before["a.png"]


@pytest.mark.parametrize("other", ["checkpoint", "vae"])
def test_of_another_model_of_that_name_nothing_is_done_yet(shared, monkeypatch, tmp_path, other):
    def choose(file, vae):
        info = SimpleNamespace(sd_checkpoint_info=SimpleNamespace(hash=file))
        monkeypatch.setattr(shared, "sd_model", info), monkeypatch.setattr(shared.opts, "sd_vae", vae, raising=False)

    folder = gallery(tmp_path / "in")
    choose("1234", "Automatic")
    as_a_set(folder)
    assert as_a_set(folder)[1].count("protected already") == 3
    choose(*("5678", "Automatic") if other == "checkpoint" else ("1234", "mse.safetensors"))
    assert "protected already" not in as_a_set(folder)[1]


def test_a_picture_that_is_taken_away_at_the_end_takes_nothing_with_it(monkeypatch, tmp_path):
    folder, real = gallery(tmp_path / "in"), face.sets._Table.tell

    def taking(self, row):
        (folder / "mist" / "deep" / "c.png").unlink(missing_ok=True)
        real(self, row)

    monkeypatch.setattr(face.sets._Table, "tell", taking)
    shown, report, log = as_a_set(folder)
    assert shown is None and "3 of 3 protected" in report and log == ""


def test_results_beside_their_pictures_are_no_pictures(tmp_path):
    for seed in range(2):
        painting(seed=seed).save(tmp_path / f"{seed}.jpg")
    for said in ("as one of a set of 2", "protected already"):
        _, report, log = as_a_set(tmp_path, destination=str(tmp_path))
        assert log == "" and report.count(said) == 2
    assert files(tmp_path) == ["0.jpg", "0.png", "1.jpg", "1.png"]
    assert face.tab._counted(str(tmp_path), str(tmp_path), False).startswith("2 pictures")


def test_a_bad_file_is_named_and_the_rest_is_a_set(tmp_path):
    folder = gallery(tmp_path / "in")
    (folder / "broken.png").write_bytes(b"no picture")
    shown, report, log = as_a_set(folder)
    assert "3 of 4 protected" in report and "<td>broken.png</td><td>failed: " in report and shown and log == ""
    assert report.count("as one of a set of 3") == 3


class Fails(ToySurrogate):
    """Its denoiser fails from its n-th call on, and so often; where it learns, of the calls that it learns by."""

    def __init__(self, at, error, times=1, *, learning=False):
        super().__init__()
        self.calls, self.at, self.error, self.times, self.learning = 0, at, error, times, learning

    def denoise(self, noised_latents, *given):
        self.calls += noised_latents.requires_grad or not self.learning
        if self.at <= self.calls < self.at + self.times:
            raise self.error
        return super().denoise(noised_latents, *given)


def state_of(model):
    tensors = [tensor.clone() for module in model.modules for tensor in module.state_dict().values()]
    layers = [layer for module in model.modules for layer in module.modules()]
    flags = [p.requires_grad for module in model.modules for p in module.parameters()]
    return tensors, [(len(layer._forward_hooks), layer.training, sorted(vars(layer))) for layer in layers], flags


def assert_as_before(model, before):
    tensors, layers, flags = state_of(model)
    assert all((a == b).all() for a, b in zip(tensors, before[0], strict=True)) and (layers, flags) == before[1:]


def test_a_picture_that_fails_in_a_round_is_named_the_rest_goes_on_and_the_model_is_as_it_was(monkeypatch, tmp_path):
    model = loaded(monkeypatch, Fails(LEARNING + 1, RuntimeError("a driver")))
    before = state_of(model)
    shown, report, log = as_a_set(gallery(tmp_path / "in"))
    assert "2 of 3 protected" in report and "failed: RuntimeError: a driver" in report and shown and log == ""
    assert files(tmp_path / "in/mist") == ["b.png", "deep/c.png"]
    assert_as_before(model, before)


def test_an_error_in_the_learning_leaves_the_model_as_it_was_and_the_rounds_before_it(monkeypatch, tmp_path):
    whole = levels_of_whole(tmp_path)
    model = loaded(monkeypatch, Fails(LEARNING + 2, RuntimeError("in the second round"), learning=True))
    before = state_of(model)
    with pytest.raises(RuntimeError, match="second round"):  # the host shows it
        as_a_set(gallery(tmp_path / "in"))
    assert_as_before(model, before)
    assert not list((tmp_path / "in").glob("mist/**/*.png")) and list((tmp_path / "in/mist/.mist/sets").rglob("lora-*"))
    as_a_set(tmp_path / "in")
    assert levels(tmp_path / "in/mist") == whole


def levels_of_whole(tmp_path):
    """Of a set that nothing stopped."""
    as_a_set(gallery(tmp_path / "whole"))
    return levels(tmp_path / "whole/mist")


@pytest.mark.parametrize("at", [LEARNING + 1, LEARNING + SHARE, LEARNING + 2 * SHARE + 1, 2 * LEARNING + 3 * SHARE + 1])
def test_an_interrupt_keeps_what_is_reached_and_protect_goes_on_from_it(monkeypatch, tmp_path, at):
    whole, model = levels_of_whole(tmp_path), loaded(monkeypatch, ToySurrogate())
    before, folder = state_of(model), gallery(tmp_path / "in")
    interrupt_at(at)
    shown, report, log = as_a_set(folder)
    assert log == "" and face.sets.GOES_ON in report and "interrupted after " in report and shown
    assert report.startswith("<p>0 of 3 protected.</p>")
    begun = min(3, -(-(at - LEARNING) // SHARE))
    assert len(files(folder / "mist")) == begun and report.count("not done: interrupted") == 3 - begun
    for name in files(folder / "mist"):
        made = Image.open(folder / "mist" / name)
        assert 0 < shift(made, Image.open(folder / name)).max() <= 8 and not face.made.is_ours(made)
        assert int(parsed(made.info["parameters"])["Mist steps"]) < 4
    assert_as_before(model, before)
    webui_face.reset()
    _, report, _ = as_a_set(folder)
    assert report.startswith("<p>3 of 3 protected.</p>") and len(files(folder / "mist")) == 3
    assert ("going on in round 2 of 2" in report) == (at > 2 * LEARNING + 3 * SHARE)
    assert levels(folder / "mist") == whole
    assert as_a_set(folder)[1].count("protected already") == 3


def test_an_interrupt_before_a_picture_is_changed_writes_nothing(tmp_path):
    interrupt_at(2)
    shown, _, log = as_a_set(gallery(tmp_path / "in"))
    assert shown is None and "interrupted before a picture was changed" in log
    assert not list((tmp_path / "in").glob("mist/**/*.png"))


def test_the_last_of_a_set_is_evaluated_as_it_was_made(monkeypatch, tmp_path):
    judged, real = [], face.evaluating.judge
    monkeypatch.setattr(face.evaluating, "judge", lambda *args, **more: judged.append(args[3]) or real(*args, **more))
    folder = gallery(tmp_path / "in")
    (folder / "deep/c.prompt.txt").write_text("a cat")
    values = [OF_SET.get(name) for name in face.controls.SET_NAMES]
    where = {"source": str(folder), "deep": True, "together": True}
    last, *_ = protect_in_tab(None, None, QUICK, chosen=1, of_set=values, **where)
    before, after, gallery_shown, report, log = face.tab._evaluate_last("task", face.tab.EVALUATED, last)
    assert log == "" and gallery_shown and report and judged[0].prompt == "a cat"
    assert shift(before, pictures()[2]).max() == 0 and shift(after, Image.open(folder / "mist/deep/c.png")).max() == 0


def without_a_denoiser(monkeypatch):
    loaded(monkeypatch, ToySurrogate(vae_only=True))


def without_a_model(monkeypatch):
    def fail(**_):
        raise CheckpointError("no model is loaded")

    monkeypatch.setattr(face.jobs, "loaded_model", fail)


@pytest.mark.parametrize(
    ("change", "of_set", "values", "words"),
    [
        (without_a_denoiser, {}, {}, "nothing to fine-tune"),
        (without_a_model, {}, {}, "no model is loaded"),
        (None, {}, {"objective": "textural"}, "no LoRA changes. Choose semantic, lunet, fused"),
        (None, {"rounds": 5}, {}, "a step or more for each round; got 4 for 5"),
        (None, {"rounds": 0}, {}, "rounds between 1 and 100; got 0"),
        (None, {"rounds": "many"}, {}, "rounds to be a whole number; got &#x27;many&#x27;"),
        (None, {}, {"strength": 900}, "between 0 and 255"),
    ],
)
def test_what_cannot_be_a_set_is_refused_and_nothing_is_written(monkeypatch, tmp_path, change, of_set, values, words):
    if change is not None:
        change(monkeypatch)
    shown, _, log = as_a_set(gallery(tmp_path / "in"), OF_SET | of_set, values=values)
    assert shown is None and words in log and files(tmp_path / "in/mist") == []


def test_one_picture_is_no_set(tmp_path):
    painting().save(tmp_path / "a.png")
    shown, _, log = as_a_set(tmp_path)
    assert shown is None and "2 pictures or more of one style; got 1. Protect one by itself." in log


def test_that_the_small_autoencoder_is_not_taken_is_said(tmp_path):
    assert (
        "autoencoder small is for the textural mode alone"
        in as_a_set(gallery(tmp_path / "in"), values={"autoencoder": "small"})[1]
    )


def test_not_as_one_set_is_as_before(tmp_path):
    folder = gallery(tmp_path / "in")
    _, report, _ = as_a_set(folder, together=False)
    assert "3 of 3 protected" in report and "one of a set" not in report and not (folder / "mist/.mist").exists()


def test_the_sets_widgets_are_those_of_the_table():
    webui_face.reset()
    face.tab.on_ui_tabs()
    made = {component.options.get("elem_id"): component for component in webui_face.shown}
    assert list(face.controls.SET_NAMES) == [known.name for known in SET_CONTROLS]
    for known in SET_CONTROLS:
        options = made[f"mist_set_{known.name}"].options
        assert (options["label"], options["info"], options["value"]) == (known.label, known.hint, known.default)
        assert (options.get("minimum"), options.get("maximum")) in ((None, None), known.limits)
    assert made["mist_folder_set"].value is None and made["mist_folder_set"].arguments == (False,)


# The API


def decoded(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(**body):
    request = {"images": [encoded(picture) for picture in pictures()], "settings": QUICK, "set": OF_SET} | body
    return face.api.protect_set(face.api.ProtectSetRequest(**request))


def refused(**body):
    with pytest.raises(HTTPException) as raised:
        ask(**body)
    return raised.value.status_code, raised.value.detail


def test_the_api_answers_with_each_picture_in_its_place(shared):
    clear = painting("RGBA", seed=7)
    images = [encoded(clear), *map(encoded, pictures()[1:])]
    answer = ask(images=images, captions=["one", "two", ""], include_difference=True)
    assert answer.words == "3 of 3 protected, as one set." and not answer.stopped and shared.state.job == ""
    for one, before, caption in zip(answer.pictures, [clear, *pictures()[1:]], ("one", "two", ""), strict=True):
        made = decoded(one.image)
        moved = shift(made, before)
        assert 0 < moved[..., :3].max() == one.report["budget_used_levels"] <= 8 and moved[..., 3:].sum() == 0
        assert one.report["settings"]["prompt"] == caption and made.info["parameters"] == one.infotext
        assert parsed(one.infotext)["Mist rounds"] == "2" and parsed(one.infotext)["Mist prompt"] == caption
        assert decoded(one.difference).size == made.size and face.made.is_ours(made) and one.error == ""
        assert one.words.startswith("Changed by at most ") and json.dumps(one.report)


@pytest.mark.parametrize("captions", [[], ["a cat"]])
def test_captions_are_none_or_one_for_all(captions):
    expected = captions or ["a dog"]
    answer = ask(captions=captions, settings=QUICK | {"prompt": "a dog"})
    assert [one.report["settings"]["prompt"] for one in answer.pictures] == expected * 3


def test_a_mask_counts_for_all_or_each_for_its_own():
    left = Image.new("L", (8, 8))
    left.paste(255, (0, 0, 4, 8))
    for masks, masked in (([encoded(left)], (0, 1, 2)), (["", encoded(left), ""], (1,))):
        for number, (one, before) in enumerate(zip(ask(masks=masks).pictures, pictures(), strict=True)):
            moved = shift(decoded(one.image), before)
            assert (moved[:, before.width // 2 + 8 :].max() == 0) == (number in masked) and moved.max() > 0


def test_an_output_size_is_the_longer_side_of_each():
    assert [max(decoded(one.image).size) for one in ask(output_size=32).pictures] == [32] * 3


def test_the_api_says_which_picture_failed_and_protects_the_rest(monkeypatch):
    model = loaded(monkeypatch, Fails(LEARNING + 1, RuntimeError("a driver")))
    before = state_of(model)
    answer = ask()
    assert answer.words == "2 of 3 protected, as one set."
    assert [one.error for one in answer.pictures] == ["RuntimeError: a driver", "", ""]
    assert [bool(one.image) for one in answer.pictures] == [False, True, True]
    assert_as_before(model, before)


def test_an_interrupt_answers_with_what_is_reached(monkeypatch):
    model = loaded(monkeypatch, ToySurrogate())
    before = state_of(model)
    interrupt_at(LEARNING + SHARE + 1)
    answer = ask()
    assert answer.stopped and answer.words.startswith("2 of 3 protected, as one set. Interrupted: ")
    assert [one.report.get("steps_done") for one in answer.pictures] == [2, 1, None]
    assert answer.pictures[2].error == "cancelled before its first step"
    assert not any(face.made.is_ours(decoded(one.image)) for one in answer.pictures[:2])
    assert_as_before(model, before)


def test_an_interrupt_before_a_picture_is_changed_is_a_conflict(shared):
    interrupt_at(1)
    status, detail = refused()
    assert status == 409 and "interrupted before a picture was changed" in detail


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"images": []}, "images: expected 2 to 100 pictures of one style; got 0."),
        ({"images": ["x"]}, "images: expected 2 to 100 pictures of one style; got 1."),
        ({"images": ["x"] * 101}, "images: expected 2 to 100 pictures of one style; got 101."),
        ({"images": [encoded(painting()), "no picture"]}, "images[1]: expected a picture in base64"),
        ({"images": ["http://127.0.0.1/a.png"] * 2}, "images[0]: expected a picture in base64"),
        ({"captions": ["one", "two"]}, "captions: expected none, one for all, or one for each of 3 images; got 2."),
        ({"captions": ["x" * 6000]}, "captions[0]: Expected prompt of at most 5000 characters"),
        ({"captions": ["a", "b", "\ud800"]}, "captions[2]: Expected prompt of Unicode characters"),
        ({"masks": ["x", "y"]}, "masks: expected none, one for all, or one for each of 3 images; got 2."),
        ({"masks": ["", "", "y"]}, "masks[2]: expected a picture"),
        ({"masks": ["y"]}, "masks[0]: expected a picture"),
        ({"target": "no picture"}, "target: expected a picture"),
        ({"set": {"rounds": 101}}, "set: Expected rounds between 1 and 100; got 101."),
        ({"set": {"ronds": 1}}, "set: Unknown control 'ronds'. Did you mean rounds?"),
        ({"set": {"steps": 1}}, "set: Unknown control 'steps'."),
        ({"settings": {"rounds": 1}}, "Unknown control 'rounds'"),
        ({"settings": {"objective": "textural"}}, "no LoRA changes"),
        ({"settings": {"steps": 1}}, "a step or more for each round; got 1 for 2"),
        ({"output_size": 5}, "output size"),
        ({"rounds": 3}, "Unknown field 'rounds'"),
        ({"force_task_id": "x" * 201}, "force_task_id"),
    ],
)
def test_bad_requests_are_refused_by_the_fields_name(shared, body, words):
    status, detail = refused(**body)
    assert status == 400 and words in detail and shared.state.job == ""


def test_all_pictures_of_a_request_have_a_bound_together(monkeypatch):
    monkeypatch.setattr(face.set_requests, "MAX_PIXELS", 64 * 64 + 96 * 64)
    status, detail = refused()
    assert status == 400 and detail.startswith("images: expected at most 10240 pixels in all of them")
    monkeypatch.setattr(face.set_requests, "MAX_PIXELS", sum(width * height for width, height in SIZES))
    ask()
    assert refused(output_size=256)[0] == 400


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        (ToySurrogate(vae_only=True), 409, "nothing to fine-tune"),
        (Fails(1, RuntimeError("CUDA out of memory"), times=1_000_000), 413, "Memory ran out"),
        (Fails(LEARNING + 1, PictureError("odd"), times=1_000_000), 400, "odd"),
    ],
)
def test_a_model_that_cannot_do_it_has_a_status_and_is_left_as_it_was(shared, monkeypatch, model, status, words):
    before = state_of(loaded(monkeypatch, model))
    found, detail = refused()
    assert found == status and words in detail and shared.state.job == ""
    assert_as_before(model, before)


def test_info_names_the_controls_of_a_set():
    assert face.api.info().set_defaults == SetSettings().as_dict()
