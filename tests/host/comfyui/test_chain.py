"""Protection in the middle of a graph leaves every other node's result bit-identical."""

import numpy as np
import pytest

from .client import Comfy
from .comparing import latents, shown
from .pictures import write_picture
from .prompts import Drawing

MODES = ["fused", "textural", "semantic"]
KINDS = {"plain": {}, "lora": {"lora": True}, "v-prediction": {"v_prediction": True}}
FLAGS = ["--force-fp32", "--fp16-unet --fp16-vae", "--bf16-unet --bf16-vae", "--fp8_e4m3fn-unet"]
FLAGS += ["--fp16-intermediates"]  # pictures in half precision, of newer hosts


@pytest.fixture(scope="session")
def picture(base):
    return write_picture(base.path / "input" / "picture.png", 64, 64)


def assert_unchanged(comfy, picture, mode, **kind):
    """Sample; protect, save, encode, sample, decode; sample again in one prompt, and once more in another."""
    drawing = Drawing(**kind)
    before = drawing.sample(drawing.after(drawing.empty_latent()))
    image = drawing.after(drawing.load(picture)[0], before[0])
    protected = drawing.protect(image, mode)
    drawing.add("MistSaveImage", image=protected[0], **drawing.saving("chain"))
    encoded = drawing.add("VAEEncode", pixels=protected[0], vae=drawing.vae)
    varied = drawing.sample(encoded[0], denoise=0.5)
    drawing.show(varied, "varied")
    after = drawing.sample(drawing.after(drawing.empty_latent(), varied[0]))
    pictures = [drawing.show(before, "before"), drawing.show(after, "after")]
    history = assert_agree(comfy, drawing, before, after, **kind)
    assert np.array_equal(*(shown(history, node) for node in pictures))


def assert_latents_unchanged(comfy, picture, mode, **kind):
    """The same without reading or showing a picture by the host: its own half precision takes minutes on a CPU."""
    drawing = Drawing(**kind)
    before = drawing.sample(drawing.after(drawing.empty_latent()))
    protected = drawing.protect(drawing.after(drawing.load(picture)[0], before[0]), mode)
    after = drawing.sample(drawing.after(drawing.empty_latent(), protected[0]))
    assert_agree(comfy, drawing, before, after, **kind)


def assert_agree(comfy, drawing, before, after, **kind):
    files = [drawing.save(before, "before"), drawing.save(after, "after")]
    history = comfy.run(drawing)
    assert not history.cached & {before.id, after.id}
    first, second = (latents(history, node) for node in files)
    assert np.array_equal(first, second)
    assert np.array_equal(first, sample(comfy, **kind))
    return history


def sample(comfy, **kind):
    """The latents that the host's own nodes give now."""
    drawing = Drawing(**kind)
    sampler = drawing.sample(drawing.after(drawing.empty_latent()))
    file = drawing.save(sampler, "alone")
    history = comfy.run(drawing)
    assert sampler.id not in history.cached
    return latents(history, file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_samplers_before_and_after_agree(comfy, picture, mode, kind):
    assert_unchanged(comfy, picture, mode, **KINDS[kind])


@pytest.mark.parametrize("flags", FLAGS)
def test_samplers_agree_in_every_precision(base, picture, flags):
    known = (base.host.folder / "comfy" / "cli_args.py").read_text()
    if not all(flag in known for flag in flags.split()):
        pytest.skip("this host does not know the flag")
    with Comfy(base, *flags.split()) as server:
        assert_unchanged(server, picture, "fused")
        for mode in ("textural", "semantic"):
            assert_latents_unchanged(server, picture, mode)


@pytest.mark.parametrize("checkpoint", ["sd1-fp8", "sd1-int8"])
def test_samplers_agree_on_quantised_checkpoints(comfy, base, picture, checkpoint):
    if not (base.host.folder / "comfy" / "quant_ops.py").is_file():
        pytest.skip("this ComfyUI knows no quantised checkpoints")
    base.need(checkpoint)
    for mode in MODES:
        assert_unchanged(comfy, picture, mode, checkpoint=checkpoint)


@pytest.mark.slow
def test_samplers_agree_on_a_checkpoint_of_full_size(comfy, base, picture):
    base.need("full")
    for mode in MODES:
        assert_unchanged(comfy, picture, mode, checkpoint="full")


def long_run(picture, mode):
    drawing = Drawing()
    protected = drawing.protect(drawing.after(drawing.load(picture)[0]), mode, steps=500)
    drawing.add("MistSaveImage", image=protected[0], **drawing.saving("never"))
    return drawing, protected


@pytest.mark.parametrize("mode", MODES)
def test_a_cancel_in_mid_loop_stops_at_once_and_changes_nothing(comfy, base, picture, mode):
    expected = sample(comfy)
    drawing, protected = long_run(picture, mode)
    steps, previews, last = [], 0, None
    for kind, data in comfy.events(drawing):
        if kind == "progress" and data["node"] == protected.id:
            steps.append(data["value"])
            if steps[-1] == 3:
                comfy.post("/interrupt")
        previews += kind == "binary"
        last = kind
    assert last == "execution_interrupted"
    assert 3 <= max(steps) <= 5  # the request may meet a step that has just begun
    assert previews >= 1
    assert not list((base.path / "output").glob("never*"))
    assert np.array_equal(expected, sample(comfy))
    assert_unchanged(comfy, picture, mode)


@pytest.mark.parametrize("mode", MODES)
def test_an_error_in_mid_loop_is_told_and_changes_nothing(comfy, base, picture, mode):
    expected = sample(comfy)
    drawing = Drawing()
    protected = drawing.protect(drawing.load(picture)[0], mode, steps=40, **drawing.failing(mode, "error", at=25))
    drawing.add("MistSaveImage", image=protected[0], **drawing.saving("never"))
    messages = list(comfy.events(drawing))
    steps = [data["value"] for kind, data in messages if kind == "progress" and data["node"] == protected.id]
    assert 0 < max(steps) < 40
    kind, data = messages[-1]
    assert kind == "execution_error" and data["node_type"] == "MistProtect"
    assert "made to fail by a test" in data["exception_message"]
    assert not list((base.path / "output").glob("never*"))
    assert np.array_equal(expected, sample(comfy))
    assert_unchanged(comfy, picture, mode)
