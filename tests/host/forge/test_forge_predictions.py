"""In the real Forge: models that are only asked for predictions, with the sds gradient from the host's own answers."""

import numpy as np
import pytest
from family_records import record
from webui.server import decoded, levels, painting

HOST = "Forge dfdcbab6"
MODELS = {"flux": ("flux", "Flux dev"), "flux-q8.gguf": ("flux-gguf", "Flux dev as GGUF")}
MODELS |= {"sd3": ("sd3", "Stable Diffusion 3")}
"""By the checkpoint: the name and the label of the family in docs/models.md."""


GRADIENTS = "sds", "amortised"


@pytest.fixture(params=MODELS)
def loaded(request, webui):
    webui.load(request.param)
    assert request.param.partition(".")[0] in webui.get("/mist/v1/info")["model"]
    webui.family = MODELS[request.param]
    yield webui
    webui.load(webui.default)


def test_the_sds_gradient_is_its_formula(loaded):
    found = loaded.get("/mist_probe/check_sds")
    print(f"{loaded.get('/mist/v1/info')['model']}: {found['relative']:.2g} from the formula")
    assert found["flow"] and not found["differentiable"]
    assert found["gradient"] > 0 and found["relative"] < 1e-5


def test_a_generation_is_as_before_after_a_protection(loaded):
    before = loaded.txt2img()["images"]
    state = loaded.get("/mist_probe/state")
    picture = painting()
    for objective in ("fused", "semantic"):
        for gradient in GRADIENTS:
            settings = {"steps": 3, "strength": 6, "objective": objective, "gradient": gradient}
            report = (answer := loaded.protect(picture, settings=settings))["report"]
            assert 0 < np.abs(levels(decoded(answer["image"])) - picture).max() <= 6
            assert report["after"]["denoising_loss"] != report["before"]["denoising_loss"]
            assert report["settings"]["gradient"] == gradient
    assert loaded.get("/mist_probe/state") == state
    assert loaded.txt2img()["images"] == before
    record(*loaded.family, GRADIENTS, HOST)


def test_the_gradient_through_the_model_gives_way_to_sds_with_a_notice(loaded):
    report = loaded.protect(painting(), settings={"steps": 2, "gradient": "exact"})["report"]
    assert report["settings"]["gradient"] == "sds" and "sds took its place" in " ".join(report["notices"])
