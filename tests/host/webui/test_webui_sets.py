"""A set on the model that the real web UI has loaded, which goes on exactly as before."""

import numpy as np
import pytest

from .server import decoded, encoded, levels, painting, running
from .test_webui_api import assert_as_before, before, in_background, watch  # noqa: F401  # before is a fixture

SIZES = (96, 128), (128, 64)
CAPTIONS = "a drawing", "a cat"


def pictures():
    return [painting(*size, seed=seed) for seed, size in enumerate(SIZES)]


def as_a_set(webui, **options):
    body = {"images": [encoded(picture) for picture in pictures()], "captions": CAPTIONS}
    body |= {"settings": {"steps": 4, "strength": 8}, "set": {"rounds": 2, "lora_steps": 3}}
    return webui.request("/mist/v1/protect-set", body | options)


def moved(answer):
    """By picture, in grey levels."""
    for one, picture in zip(answer["pictures"], pictures(), strict=True):
        yield np.abs(levels(decoded(one["image"])) - picture).max()


@pytest.mark.parametrize("objective", ["fused", "semantic", "lunet"])
@pytest.mark.parametrize("gradient", ["sds", "exact"])
def test_a_set_changes_its_pictures_and_nothing_else(webui, before, objective, gradient):  # noqa: F811
    state = webui.get("/mist_probe/state")["rng"]
    settings = {"steps": 4, "strength": 8, "objective": objective, "gradient": gradient}
    status, answer = as_a_set(webui, settings=settings)
    assert status == 200, answer
    assert all(0 < shift <= 8 for shift in moved(answer)) and answer["words"] == "2 of 2 protected, as one set."
    assert [one["report"]["settings"]["prompt"] for one in answer["pictures"]] == list(CAPTIONS)
    assert webui.get("/mist_probe/state")["rng"] == state
    assert_as_before(webui, before)


def test_png_info_reads_back_how_a_set_was_protected(webui):
    _, answer = as_a_set(webui)
    read = webui.post("/sdapi/v1/png-info", {"image": answer["pictures"][1]["image"]})["parameters"]
    told = {name: read[f"Mist {name}"] for name in ("prompt", "steps", "rounds", "lora steps", "lora rank")}
    assert told == {"prompt": "a cat", "steps": "4", "rounds": "2", "lora steps": "3", "lora rank": "4"}


def test_what_is_learned_counts_and_the_same_request_gives_the_same_set(webui):
    first, again, more = (
        [one["image"] for one in as_a_set(webui, set={"rounds": 2, "lora_steps": steps})[1]["pictures"]]
        for steps in (3, 3, 9)
    )
    assert first == again and not set(first) & set(more)


def test_progress_names_the_round_and_an_interrupt_keeps_what_is_reached(webui, before):  # noqa: F811
    thread, answers = in_background(as_a_set, webui, settings={"steps": 5000, "strength": 8})
    learning = watch(webui, lambda p: "the LoRA learns" in (p["textinfo"] or "") or p["state"]["sampling_step"] > 3)
    assert learning["state"]["sampling_steps"] in (0, 2 * 3 + 2 * 5000)
    seen = watch(webui, lambda p: "round 1 of 2, images[0]" in (p["textinfo"] or "") and p["current_image"])
    assert seen["state"]["job"] == "mist" and decoded(seen["current_image"]).size == (128, 96)
    watch(webui, lambda p: p["progress"] > seen["progress"])
    webui.post("/sdapi/v1/interrupt")
    thread.join()
    ((status, answer),) = answers
    assert status == 200 and answer["stopped"] and 0 < answer["pictures"][0]["report"]["steps_done"] < 2500
    assert answer["pictures"][1]["error"] == "cancelled before its first step"
    assert 0 < np.abs(levels(decoded(answer["pictures"][0]["image"])) - pictures()[0]).max() <= 8
    assert_as_before(webui, before)


def failing(webui, step, error, **options):
    webui.get(f"/mist_probe/fail_at?step={step}&error={error}&times=1")
    try:
        return as_a_set(webui, **options)
    finally:
        webui.get("/mist_probe/fail_at?step=0&error=")


@pytest.mark.parametrize(("error", "status"), [("RuntimeError", 500)])
def test_after_an_error_in_the_learning_everything_is_as_before(webui, before, error, status):  # noqa: F811
    found, answer = failing(webui, 2, error)
    assert found == status, answer
    assert_as_before(webui, before)


@pytest.mark.parametrize(
    ("error", "said"), [("RuntimeError", "RuntimeError: made up by a test"), ("GradientError", "not finite")]
)
def test_after_an_error_in_a_round_the_rest_goes_on_and_everything_is_as_before(webui, before, error, said):  # noqa: F811
    settings = {"steps": 4, "strength": 8, "objective": "fused", "gradient": "exact"}
    found, answer = failing(webui, 5, error, settings=settings)  # the LoRA learns in three calls
    assert found == 200, answer
    assert said in answer["pictures"][0]["error"] and answer["pictures"][1]["image"]
    assert_as_before(webui, before)


def test_a_model_without_a_denoiser_is_named(webui, textural_only):
    webui.load(textural_only)
    try:
        found, answer = as_a_set(webui)
        assert found == 409 and "nothing to fine-tune" in answer["detail"]
    finally:
        webui.load(webui.default)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"images": [encoded(painting())]}, 400, "images: expected 2 to 100 pictures"),
        ({"images": [encoded(painting()), "no picture"]}, 400, "images[1]: expected a picture in base64"),
        ({"images": "no picture"}, 422, ""),
        ({"captions": ["a", "b", "c"]}, 400, "captions: expected none, one for all"),
        ({"masks": ["no picture"]}, 400, "masks[0]: expected a picture"),
        ({"set": {"rounds": 0}}, 400, "set: Expected rounds between 1 and 100"),
        ({"set": {"rounds": float("nan")}}, 400, "set: Expected rounds"),
        ({"settings": {"objective": "textural"}}, 400, "no LoRA changes"),
        ({"rounds": 9}, 400, "Unknown field 'rounds'"),
    ],
)
def test_bad_requests_are_refused_by_the_fields_name(webui, body, status, said):
    found, answer = as_a_set(webui, **body)
    assert found == status and said in str(answer["detail"])


def test_the_documentation_lists_the_route(webui):
    assert "post" in webui.get("/openapi.json")["paths"]["/mist/v1/protect-set"]
    assert webui.get("/mist/v1/info")["set_defaults"]["rounds"] == 5


@pytest.mark.parametrize("memory", ["--medvram", "--lowvram"])
def test_a_lora_is_learned_where_weights_come_and_go(host, data, flags, memory):
    with running(host, data, "sd1", *flags, memory) as sparing:
        plain = sparing.txt2img()["images"][0]
        status, answer = as_a_set(sparing)
        assert status == 200 and all(0 < shift <= 8 for shift in moved(answer)), answer
        assert sparing.txt2img()["images"][0] == plain
