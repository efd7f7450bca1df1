"""The real web UI on a device that refuses what CUDA refuses (tests/fakes/strict_device.py), by the flags for cards."""

import numpy as np
import pytest

from .server import decoded, levels, painting, running

FULL = "--no-half"
FLAGS = {
    "channels-last": (FULL, "--opt-channelslast"),
    "medvram": (FULL, "--opt-channelslast", "--medvram"),
    "lowvram": (FULL, "--opt-channelslast", "--lowvram"),
    "half": ("--precision", "half", "--opt-channelslast"),
    "cast layer by layer": ("--opt-channelslast",),
    "upcast-sampling": ("--upcast-sampling", "--opt-channelslast"),
}
FAMILIES = ("sd1", "sd2v", "sdxl")


@pytest.fixture(scope="module")
def expected(host, data, flags, tmp_path_factory):
    """The gradient of each family on the CPU, in float32."""
    with running(host, data, "sd1", *flags) as server:
        return {family: gradient(server, family, tmp_path_factory.mktemp("cpu")) for family in FAMILIES}


@pytest.fixture(scope="module", params=FLAGS)
def server(request, host, data, expected):
    options = ["--do-not-download-clip", *FLAGS[request.param]]
    with running(host, data, "sd1", *options, MIST_PROBE_DEVICE="strict") as server:
        server.flags, server.computes_in_full = request.param, FULL in FLAGS[request.param]
        yield server


def gradient(server, family, folder, low_vram=False):
    server.load(family)
    assert family in server.get("/mist/v1/info")["model"]
    file = folder / f"{family}.npy"
    server.get(f"/mist_probe/gradient_digest?low_vram={low_vram}&file={file}")
    return np.load(file).ravel()


@pytest.mark.parametrize("low_vram", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_the_cpus(server, expected, family, low_vram, tmp_path):
    found, wanted = gradient(server, family, tmp_path, low_vram), expected[family]
    cosine = float(found @ wanted / (np.linalg.norm(found) * np.linalg.norm(wanted)))
    print(f"{family} {server.flags}, low_vram {low_vram}: cosine {cosine:.6f}")
    assert cosine > (0.99999 if server.computes_in_full else 0.99)


def test_a_picture_is_protected_and_a_generation_is_as_before(server):
    server.load("sd1")
    before = server.txt2img()["images"]
    picture = painting()
    answer = server.protect(picture, settings={"steps": 2, "strength": 6})
    assert 0 < np.abs(levels(decoded(answer["image"])) - picture).max() <= 6
    assert server.txt2img()["images"] == before
