"""In the real Forge: the gradient of the fused loss, through all that the host has put in its way."""

import numpy as np
import pytest
from webui.server import decoded, levels, painting, running
from webui.test_webui_gradients import loaded, test_the_gradient_is_that_of_central_differences  # noqa: F401

FLAGS = {
    "float32": (),
    "bfloat16 weights": ("--unet-in-bf16", "--vae-in-bf16"),
    "fp8 weights": ("--unet-in-fp8-e4m3fn", "--vae-in-bf16"),
}


@pytest.fixture(scope="module", params=FLAGS)
def server(request, host, data, flags):
    flags = flags if request.param == "float32" else [flag for flag in flags if flag != "--all-in-fp32"]
    with running(host, data, "sd1", *flags, *FLAGS[request.param]) as server:
        server.flags = request.param
        yield server


def test_recomputing_gives_the_same_gradient(loaded):  # noqa: F811
    plain, low = (loaded.get(f"/mist_probe/gradient_digest?low_vram={low}")["norm"] for low in (False, True))
    assert low == pytest.approx(plain, rel=1e-5)


def test_whichever_attention_is_in_use_pytorchs_is_differentiated(loaded):  # noqa: F811
    expected = loaded.get("/mist_probe/gradient_digest")["digest"]
    kept = loaded.get("/mist_probe/use_attention?name=attention_split")["before"]
    assert loaded.get("/mist_probe/gradient_digest")["digest"] == expected
    assert loaded.get(f"/mist_probe/use_attention?name={kept}")["before"] == "attention_split"


def test_a_generation_is_as_before_after_a_protection(loaded):  # noqa: F811
    before = loaded.txt2img()["images"]
    picture = painting()
    for low_vram in (False, True):
        answer = loaded.protect(picture, settings={"steps": 2, "strength": 6, "low_vram": low_vram})
        assert 0 < np.abs(levels(decoded(answer["image"])) - picture).max() <= 6
        assert loaded.txt2img()["images"] == before
