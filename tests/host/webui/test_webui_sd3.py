"""In the real web UI: SD 3, which has a class of its own there, in small sizes."""

import numpy as np
import pytest
from family_records import record

from .server import decoded, levels, painting, running


@pytest.fixture(scope="module")
def loaded(host, data, flags):
    with running(host, data, "sd1", *flags) as server:
        file = data / "models" / "Stable-diffusion" / "sd3.safetensors"
        server.get(f"/mist_probe/write_sd3?file={file}")
        server.post("/sdapi/v1/refresh-checkpoints")
        server.load("sd3")
        assert server.get("/mist/v1/info")["model"] == "SD3 (sd3)"
        yield server


@pytest.mark.parametrize("low_vram", [False, True])
def test_the_gradient_is_that_of_central_differences(loaded, low_vram):
    found = loaded.get(f"/mist_probe/check_gradient?low_vram={low_vram}")
    print(f"SD3, low_vram {low_vram}: {found['relative']:.2g} from central differences")
    assert found["gradient"] > 0 and found["relative"] < 1e-3


def test_the_sds_gradient_is_its_formula(loaded):
    found = loaded.get("/mist_probe/check_sds")
    assert found["flow"] and found["differentiable"] and found["relative"] < 1e-5


def test_a_generation_is_as_before_after_a_protection(loaded):
    before = loaded.txt2img()["images"]
    picture = painting()
    for gradient in ("exact", "sds", "amortised"):
        answer = loaded.protect(picture, settings={"steps": 2, "strength": 6, "gradient": gradient})
        assert 0 < np.abs(levels(decoded(answer["image"])) - picture).max() <= 6
        assert answer["report"]["settings"]["gradient"] == gradient and not answer["report"]["notices"]
        assert loaded.txt2img()["images"] == before
    record("a1111-sd3", "Stable Diffusion 3, in A1111", ("exact", "sds", "amortised"), "A1111 v1.10.1")
