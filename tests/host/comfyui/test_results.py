"""What the nodes give and save, against what they were given: budget, mask, alpha, batches, sizes, memory."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from .comparing import levels
from .pictures import drawing as new_picture
from .pictures import write_picture
from .prompts import Drawing

STRENGTH = 5
MODES = ["fused", "textural", "semantic"]


def protect(comfy, graph, image, mode, **more):
    """Saved files, and the report."""
    protected = graph.protect(image, mode, strength=float(STRENGTH), steps=6, **more)
    saved = graph.add("MistSaveImage", image=protected[0], **graph.saving("result"))
    shown, words = (graph.add("PreviewAny", source=protected[output]) for output in (2, 3))
    graph.add("TestSaveTensor", value=protected[0], name="protected")
    graph.add("TestSaveTensor", value=image, name="given")
    history = comfy.run(graph)
    reports = json.loads(history.text(shown))
    assert all(report["words"] in history.text(words) for report in reports)
    return [levels(file) for file in history.files(saved)], reports


def tensors(base):
    """What the protecting node was given, and what it gave: (B, H, W, C)."""
    return (torch.load(base.path / "output" / f"{name}.pt") for name in ("given", "protected"))


def shift(before, after):
    return np.abs(before.astype(int) - after.astype(int))


@pytest.mark.parametrize("mode", MODES)
def test_the_saved_file_keeps_the_budget_and_uses_it(comfy, base, mode):
    name = write_picture(base.path / "input" / "budget.png", 64, 64)
    graph = Drawing()
    (saved,), (report,) = protect(comfy, graph, graph.load(name)[0], mode)
    change = shift(new_picture(64, 64), saved)
    assert change.max() == STRENGTH == report["budget_used_levels"]
    assert (change > 0).mean() > 0.5
    assert report["steps_done"] == 6


@pytest.mark.parametrize(("width", "height"), [(97, 61), (64, 8), (33, 150)])
def test_odd_sizes_are_kept(comfy, base, width, height):
    name = write_picture(base.path / "input" / "odd.png", width, height)
    graph = Drawing()
    (saved,), _ = protect(comfy, graph, graph.load(name)[0], "fused")
    assert saved.shape == (height, width, 3)
    assert shift(new_picture(width, height), saved).max() == STRENGTH


def test_pixels_outside_the_mask_are_untouched_as_floats(comfy, base):
    """The picture's values lie between the 8-bit levels, as LoadImage of newer hosts gives them."""
    write_picture(base.path / "input" / "masked.png", 64, 64)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 8:40] = 255
    Image.fromarray(mask).convert("RGB").save(base.path / "input" / "mask.png")
    graph = Drawing()
    loaded = graph.load("masked.png")[0]
    blurred = graph.add("ImageBlur", image=loaded, blur_radius=1, sigma=0.5)[0]
    where = graph.add("LoadImageMask", image="mask.png", channel="red")[0]
    protect(comfy, graph, blurred, "fused", mask=where)
    given, result = tensors(base)
    outside = torch.from_numpy(mask == 0)
    assert torch.equal(given[0][outside], result[0][outside])
    assert not torch.equal((given * 255).round(), given * 255)  # else the test could not see a rounding
    inside = (result[0] * 255).round() - (given[0] * 255).round()
    assert inside.abs().max() == STRENGTH and (inside[~outside] != 0).float().mean() > 0.5
    torch.testing.assert_close((result[0][~outside] * 255).round() / 255, result[0][~outside])


def test_a_batch_of_three_is_three_single_pictures(comfy, base):
    names = [write_picture(base.path / "input" / f"batch{i}.png", 64, 64, seed=i) for i in range(3)]
    alone = []
    for name in names:
        graph = Drawing()
        alone += protect(comfy, graph, graph.load(name)[0], "fused")[0]
    graph = Drawing()
    loaded = [graph.load(name)[0] for name in names]
    pair = graph.add("ImageBatch", image1=loaded[0], image2=loaded[1])[0]
    batch = graph.add("ImageBatch", image1=pair, image2=loaded[2])[0]
    together, reports = protect(comfy, graph, batch, "fused")
    assert len(together) == len(reports) == 3
    for i, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert shift(new_picture(64, 64, seed=i), other).max() == STRENGTH
        assert np.array_equal(one, other)


def test_a_transparent_picture_keeps_its_alpha_and_its_mask_means_nothing(comfy, base):
    alpha = np.linspace(0, 255, 64 * 64).round().astype(np.uint8).reshape(64, 64)
    name = write_picture(base.path / "input" / "alpha.png", 64, 64, alpha=alpha)
    graph = Drawing()
    loaded = graph.load(name)
    (saved,), _ = protect(comfy, graph, loaded[0], "textural", alpha=loaded[1])
    assert np.array_equal(saved[..., 3], alpha)
    assert (shift(new_picture(64, 64), saved[..., :3]) > 0).mean() > 0.5


def test_the_placeholder_mask_of_an_opaque_picture_means_the_whole_picture(comfy, base):
    name = write_picture(base.path / "input" / "opaque.png", 80, 64)
    graph = Drawing()
    loaded = graph.load(name)
    (saved,), _ = protect(comfy, graph, loaded[0], "textural", mask=loaded[1])
    assert (shift(new_picture(80, 64), saved) > 0).mean() > 0.5


@pytest.mark.parametrize("mode", MODES)
def test_running_out_of_memory_once_is_survived_and_told(comfy, base, mode):
    name = write_picture(base.path / "input" / "memory.png", 64, 64)
    graph = Drawing()
    more = graph.failing(mode, "out of memory", at=5)
    (saved,), (report,) = protect(comfy, graph, graph.load(name)[0], mode, **more)
    assert shift(new_picture(64, 64), saved).max() == STRENGTH
    assert "low-VRAM" in " ".join(report["notices"])


VAES = {"vae4": ["vae4"], "vae16": ["vae16"], "taesd": ["taesd_encoder", "taesd_decoder"], "wan21": ["wan21"]}


@pytest.mark.parametrize("name", VAES)
def test_textural_works_with_a_vae_alone(comfy, base, name):
    """4 channels: SD1, SD2, SDXL. 16: SD3 and Flux. A small one, and one that reads videos: Qwen-Image's."""
    base.need(*VAES[name])
    picture = write_picture(base.path / "input" / "vae.png", 64, 64)
    graph = Drawing()
    vae = graph.add("VAELoader", vae_name=name if name == "taesd" else f"{name}.safetensors")[0]
    loaded = graph.load(picture)[0]
    (saved,), (report,) = protect(comfy, graph, loaded, "textural", vae=vae)
    assert shift(new_picture(64, 64), saved).max() == STRENGTH
    assert report["after"]["target_distance"] < report["before"]["target_distance"]


@pytest.mark.parametrize("name", ["taesd", "wan21"])
def test_the_hosts_own_encode_and_decode_and_an_evaluation_agree_after_a_run(comfy, base, name):
    base.need(*VAES[name])
    picture = write_picture(base.path / "input" / "vae.png", 64, 64)
    graph = Drawing()
    vae = graph.add("VAELoader", vae_name=name if name == "taesd" else f"{name}.safetensors")[0]
    loaded = graph.load(picture)[0]
    before = graph.add("VAEEncode", pixels=graph.after(loaded), vae=vae)
    protected = graph.protect(graph.after(loaded, before[0]), "textural", vae=vae)
    after = graph.add("VAEEncode", pixels=graph.after(loaded, protected[0]), vae=vae)
    shown = [graph.add("VAEDecode", samples=latents[0], vae=vae) for latents in (before, after)]
    ends = {"before": graph.after(loaded, shown[1][0]), "after": protected[0], "vae": vae}
    found = graph.add("MistEvaluate", **ends, mode="textural", seed=23)
    for node, file in ((shown[0], "before"), (shown[1], "after"), (found, "evaluated")):
        graph.add("TestSaveTensor", value=node[0], name=file)
    words, full = (graph.add("PreviewAny", source=found[output]) for output in (1, 2))
    history = comfy.run(graph)
    results = json.loads(history.text(full))
    assert history.text(words).startswith(results["verdicts"][0]["words"])
    figures = results["pairs"][0]["models"][0]["views"]["whole"]["effect"]
    first, second, pair = (torch.load(base.path / "output" / f"{file}.pt") for file in ("before", "after", "evaluated"))
    assert torch.equal(first, second) and figures["latent_shift"] > 0
    torch.testing.assert_close(pair[0, :, :64].float(), first.reshape(64, 64, 3).float(), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("family", "width", "pooled"), [("sd2", 1024, 0), ("sdxl", 2048, 1280)])
def test_other_families_work_with_a_conditioning(comfy, base, family, width, pooled):
    base.need(family, "vae4")
    name = write_picture(base.path / "input" / "family.png", 64, 64)
    graph = Drawing()
    model = graph.add("UNETLoader", unet_name=f"{family}.safetensors", weight_dtype="default")[0]
    vae = graph.add("VAELoader", vae_name="vae4.safetensors")[0]
    own = graph.add("TestRandomConditioning", width=width, pooled=pooled, seed=3)[0]
    ends = {"model": model, "vae": vae, "conditioning": own}
    (saved,), (report,) = protect(comfy, graph, graph.load(name)[0], "semantic", **ends)
    assert shift(new_picture(64, 64), saved).max() == STRENGTH
    assert report["after"]["denoising_loss"] > report["before"]["denoising_loss"]


def test_what_a_mode_lacks_is_said_before_anything_runs(comfy, base):
    name = write_picture(base.path / "input" / "lacking.png", 64, 64)
    graph = Drawing()
    protected = graph.protect(graph.load(name)[0], "fused")
    del graph[protected.id]["inputs"]["model"]
    graph.add("MistSaveImage", image=protected[0], **graph.saving("never"))
    with pytest.raises(AssertionError, match="connect model"):
        comfy.queue(graph)
