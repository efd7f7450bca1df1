"""In the real web UI: the gradient of the fused loss, through all that the host has put in its way."""

import numpy as np
import pytest

from .server import decoded, levels, painting, running

FLAGS = {"plain": (), "medvram": ("--medvram",), "lowvram": ("--lowvram",)}
FAMILIES = ("sd1", "sd2v", "sdxl")
norms = {}


@pytest.fixture(scope="module", params=FLAGS)
def server(request, host, data, flags):
    with running(host, data, "sd1", *flags, *FLAGS[request.param]) as server:
        server.flags = request.param
        yield server


@pytest.fixture(params=FAMILIES)
def loaded(request, server):
    server.load(request.param)
    server.name = f"{request.param} {server.flags}"
    assert request.param in server.get("/mist/v1/info")["model"]
    return server


@pytest.mark.parametrize("low_vram", [False, True])
def test_the_gradient_is_that_of_central_differences(loaded, low_vram):
    found = loaded.get(f"/mist_probe/check_gradient?low_vram={low_vram}")
    print(f"{loaded.name}, low_vram {low_vram}: {found['relative']:.2g} from central differences")
    assert found["gradient"] > 0 and found["relative"] < 1e-3


def test_every_attention_optimisation_gives_the_same_gradient(loaded):
    found = loaded.get("/mist_probe/check_attention")
    print(f"{loaded.name}: {max(found.values()):.2g} at most between {', '.join(found)}")
    assert len(found) >= 7, found  # none, sdp, sdp-no-mem, sub-quadratic, V1, InvokeAI, Doggettx
    assert max(found.values()) < 1e-4


def test_an_attention_without_a_backward_is_replaced_and_put_back(loaded):
    found = loaded.get("/mist_probe/unknown_attention")
    assert found["relative"] < 1e-4 and found["restored"]


def test_memory_flags_change_nothing(loaded):
    model = loaded.get("/mist/v1/info")["model"]
    for low_vram in (False, True):
        norm = loaded.get(f"/mist_probe/gradient_digest?low_vram={low_vram}")["norm"]
        assert norm == pytest.approx(norms.setdefault(model, norm), rel=1e-5)


def test_a_generation_is_as_before_after_a_protection(loaded):
    before = loaded.txt2img()["images"]
    picture = painting()
    for low_vram in (False, True):
        answer = loaded.protect(picture, settings={"steps": 2, "strength": 6, "low_vram": low_vram})
        assert 0 < np.abs(levels(decoded(answer["image"])) - picture).max() <= 6
        assert loaded.txt2img()["images"] == before
