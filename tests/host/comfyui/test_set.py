"""A set in the middle of a graph: pictures of different sizes, and every other node's result bit-identical."""

import json

import numpy as np
import pytest
from PIL import Image

from .pictures import write_picture
from .prompts import Drawing
from .test_chain import assert_agree, sample

SIZES = (64, 64), (128, 64)


@pytest.fixture(scope="session")
def pictures(base):
    sides = enumerate(SIZES)
    return [write_picture(base.path / "input" / f"set{n}.png", *side, seed=n) for n, side in sides]


def as_set(drawing, pictures, mode="fused", after=None, **more):
    first, second = (drawing.load(name)[0] for name in pictures)
    images = drawing.add("TestList", first=drawing.after(first, after), second=second)
    widgets = {"strength": 8.0, "steps": 2, "mode": mode, "fusion_weight": 1.0, "seed": 23, "preset": "default"}
    widgets |= {
        "rounds": 2,
        "lora_steps": 2,
        "lora_rank": 2,
        "lora_rate": 0.0,
        "lora_states": 2,
        "captions": "one\ntwo",
    }
    ends = {"images": images[0], "vae": drawing.vae, "model": drawing.model, "clip": drawing.clip}
    return drawing.add("MistProtectSet", **ends | widgets | more)


def moved(history, saved, base, pictures):
    """By picture, in grey levels."""
    files = history.files(saved)
    assert len(files) == len(pictures)
    for path, name in zip(files, pictures, strict=True):
        own = np.asarray(Image.open(base.path / "input" / name).convert("RGB")).astype(int)
        yield np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - own).max()


@pytest.mark.parametrize("mode", ["fused", "lunet"])
def test_a_set_changes_its_pictures_and_nothing_else(comfy, base, pictures, mode):
    drawing = Drawing(lora=True)
    before = drawing.sample(drawing.after(drawing.empty_latent()))
    made = as_set(drawing, pictures, mode, before[0])
    saved = drawing.add("MistSaveImage", image=made[0], **drawing.saving(f"set-{mode}"))
    told = drawing.add("PreviewAny", source=made[1])
    after = drawing.sample(drawing.after(drawing.empty_latent(), made[1]))
    history = assert_agree(comfy, drawing, before, after, lora=True)
    assert all(0 < levels <= 8 for levels in moved(history, saved, base, pictures))
    rows = json.loads(history.text(told))
    assert [row["settings"]["prompt"] for row in rows] == ["one", "two"]
    assert [(row["width"], row["height"]) for row in rows] == [*SIZES]


def test_a_cancel_keeps_what_is_reached_and_changes_nothing(comfy, base, pictures):
    expected = sample(comfy)
    drawing = Drawing()
    made = as_set(drawing, pictures, steps=300)
    saved = drawing.add("MistSaveImage", image=made[0], **drawing.saving("stopped"))
    steps, files, last = [], [], None
    for kind, data in comfy.events(drawing):
        if kind == "progress" and data["node"] == made.id:
            steps.append(data["value"])
            if steps[-1] == 5:
                comfy.post("/interrupt")
        if kind == "executed" and data["node"] == saved.id:
            files = data["output"]["images"]
        last = kind
    assert last == "execution_success" and max(steps) < 20 and len(files) == 1  # the other had no step yet
    assert np.array_equal(expected, sample(comfy))


def test_an_error_in_a_round_leaves_out_a_picture_and_changes_nothing(comfy, base, pictures):
    expected = sample(comfy)
    drawing = Drawing()
    failing = drawing.add("TestFailingModel", model=drawing.after(drawing.model), at=4, kind="error")
    made = as_set(drawing, pictures, model=failing[0])
    told = drawing.add("PreviewAny", source=made[2])
    history = comfy.run(drawing)
    assert "failed, and left out: RuntimeError: made to fail by a test" in history.text(told)
    assert np.array_equal(expected, sample(comfy))
