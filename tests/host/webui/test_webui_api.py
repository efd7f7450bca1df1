"""The HTTP API, and that the web UI goes on exactly as before, whatever a protection did."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from host_process import ROOT
from PIL import Image

from . import server
from .server import decoded, encoded, levels, painting


@pytest.fixture(scope="module")
def before(webui):
    """(image, state) of a fixed seed, before any protection."""
    return webui.txt2img()["images"][0], webui.get("/mist_probe/state")


def assert_as_before(webui, before):
    image, state = before
    assert webui.txt2img()["images"][0] == image
    found = webui.get("/mist_probe/state")
    assert {key: found[key] for key in state if key != "rng"} == {key: state[key] for key in state if key != "rng"}


def test_a_protection_keeps_the_budget_the_mask_and_the_alpha(webui, before):
    picture = painting(channels=4)
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:, :64] = 255
    answer = webui.protect(picture, mask=encoded(mask), settings={"steps": 3, "strength": 8}, include_difference=True)
    protected = decoded(answer["image"])
    shift = np.abs(levels(protected) - picture)
    assert protected.mode == "RGBA" and shift[..., 3].max() == 0
    assert 0 < shift[:, :64].max() <= 8 and shift[:, 64:].max() == 0
    assert answer["report"]["budget_used_levels"] == shift.max()
    assert decoded(answer["difference"]).size == protected.size
    assert_as_before(webui, before)


def test_nothing_of_the_random_state_is_used(webui):
    state = webui.get("/mist_probe/state")["rng"]
    webui.protect(painting())
    assert webui.get("/mist_probe/state")["rng"] == state


def test_the_same_request_gives_the_same_picture(webui):
    first, again = (webui.protect(painting())["image"] for _ in range(2))
    other = webui.protect(painting(), settings={"steps": 3, "seed": 4})["image"]
    assert first == again != other


def test_png_info_reads_back_what_was_done(webui):
    answer = webui.protect(painting(), settings={"steps": 2, "strength": 5, "objective": "textural", "target": "rings"})
    read = webui.post("/sdapi/v1/png-info", {"image": answer["image"]})
    keys = {key: value for key, value in read["parameters"].items() if key.startswith("Mist")}
    assert read["info"] == answer["infotext"]
    assert keys["Mist mode"] == "textural" and keys["Mist target"] == "rings"
    assert (keys["Mist strength"], keys["Mist steps"]) == ("5", "2")


def test_generation_parameters_of_the_picture_are_kept(webui):
    made = webui.txt2img()["images"][0]
    answer = webui.post("/mist/v1/protect", {"image": made, "settings": {"steps": 1}})
    read = webui.post("/sdapi/v1/png-info", {"image": answer["image"]})["parameters"]
    assert read["Prompt"] == "a cat" and read["Seed"] == "5" and read["Mist steps"] == "1"
    again = webui.post("/mist/v1/protect", {"image": answer["image"], "settings": {"steps": 2}})
    assert again["infotext"].count("Mist steps") == 1 and "Mist steps: 2" in again["infotext"]


def test_output_size_is_the_longer_side(webui):
    assert decoded(webui.protect(painting(), output_size=64)["image"]).size == (64, 48)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"image": "no picture"}, 400, "expected a picture in base64"),
        ({"image": "http://127.0.0.1/a.png"}, 400, "expected a picture in base64"),
        ({"settings": {"strength": 900}}, 400, "between 0 and 255"),
        ({"settings": {"strenght": 9}}, 400, "Unknown control 'strenght'"),
        ({"strength": 9}, 400, "Unknown field 'strength'"),
        ({"settings": {"steps": "many"}}, 400, "many"),
        ({"settings": {"config": "/etc/passwd"}}, 400, "Unknown control 'config'"),
        ({"settings": {"preset": "mist"}}, 400, "Unknown control 'preset'"),
        ({"settings": {"fusion_weight": 400}}, 400, "fusion weight between -9 and 9; got 400"),
        ({"settings": {"strength": float("nan")}}, 400, "strength between"),
        ({"settings": {"steps": True}}, 400, "steps to be a whole number"),
        ({"settings": {"prompt": "\ud800"}}, 400, "prompt of Unicode"),
        ({"settings": {"\ud800": 1}}, 400, "Unknown control"),
        ({"settings": ["\ud800"]}, 422, ""),
        ({"image": ["\ud800"]}, 422, ""),
        ({"image": "\ud800"}, None, ""),
        ({"preset": "none"}, 400, "Unknown preset"),
        ({"mask": "none"}, 400, "mask: expected"),
        ({"output_size": -5}, 400, "output size"),
        ({"output_size": 100_000}, 400, "output size"),
    ],
)
def test_bad_requests_are_refused_in_our_words(webui, body, status, said):
    found, answer = webui.request("/mist/v1/protect", {"image": encoded(painting())} | body)
    assert (400 <= found < 500 if status is None else found == status) and said in str(answer["detail"])
    assert "root:" not in str(answer)


def test_what_is_damaged_or_too_large_is_refused(webui):
    whole = base64.b64decode(encoded(painting()))
    jpeg, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(painting()).save(jpeg, "JPEG")
    Image.new("L", (12_000, 12_000)).save(large, "PNG")
    ps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for data in (whole[: len(whole) // 2], jpeg.getvalue()[:-200], large.getvalue(), ps, b""):
        body = {"image": base64.b64encode(data).decode()}
        status, answer = webui.request("/mist/v1/protect", body)
        assert status == 400 and answer["detail"].startswith("image: "), answer


def test_a_prompt_is_text_and_nothing_in_it_is_looked_up(webui):
    for prompt in ("${oc.env:PATH}", "a ${cat}"):
        answer = webui.protect(painting(), settings={"steps": 1, "prompt": prompt})
        assert answer["report"]["settings"]["prompt"] == prompt and os.environ["PATH"] not in json.dumps(answer)


def test_base64_may_be_wrapped_and_a_data_url(webui):
    wrapped = base64.encodebytes(base64.b64decode(encoded(painting()))).decode()
    expected = webui.protect(painting())["image"]
    for text in (wrapped, wrapped.replace("\n", "\r\n"), f"data:image/png;base64,{wrapped}"):
        assert webui.post("/mist/v1/protect", {"image": text, "settings": {"steps": 3}})["image"] == expected


def test_a_webp_whose_exif_is_a_files_name_opens_no_file(webui, tmp_path):
    trap = tmp_path / "pipe"
    os.mkfifo(trap)  # whoever opens it waits for ever
    buffer = io.BytesIO()
    Image.fromarray(painting()).save(buffer, "WEBP", lossless=True, exif=str(trap).encode())
    webui.post("/mist/v1/protect", {"image": base64.b64encode(buffer.getvalue()).decode(), "settings": {"steps": 1}})


def test_the_output_folder_obeys_hide_ui_dir_config(host, data, flags):
    with server.running(host, data, "sd1", *flags, "--hide-ui-dir-config") as hidden:
        hidden.request("/sdapi/v1/options", {"mist_outdir": "/tmp/elsewhere", "mist_steps": 7})
    kept = json.loads((data / "config.json").read_text())
    assert kept["mist_steps"] == 7 and kept.get("mist_outdir") != "/tmp/elsewhere"


def test_a_model_that_cannot_do_it_is_named(webui, textural_only):
    webui.load(textural_only)
    try:
        found, answer = webui.request("/mist/v1/protect", {"image": encoded(painting())})
        assert found == 409 and "textural objective only" in answer["detail"]
        assert webui.get("/mist/v1/info")["objectives"] == ["textural"]
        answer = webui.protect(painting(), settings={"steps": 2, "objective": "textural"})
        assert answer["report"]["budget_used_levels"] > 0
    finally:
        webui.load(webui.default)


def test_the_small_autoencoder_takes_the_place_of_the_models_own(webui, before, data):
    """Where its file is: nothing is downloaded."""
    settings = {"steps": 3, "objective": "textural"}
    body = {"image": encoded(painting()), "settings": settings | {"autoencoder": "small"}}
    folder = data / "models" / "VAE-taesd"
    status, answer = webui.request("/mist/v1/protect", body)
    assert status == 409 and "has no taesd_encoder.pth in models/VAE-taesd" in answer["detail"]
    assert not folder.exists()
    webui.get("/mist_probe/write_small_encoder?name=taesd_encoder.pth")
    try:
        answer = webui.post("/mist/v1/protect", body)
    finally:
        shutil.rmtree(folder)
    assert 0 < np.abs(levels(decoded(answer["image"])) - painting()).max() <= 16
    assert "Mist autoencoder: small" in answer["infotext"]
    full = webui.protect(painting(), settings=settings)
    assert "Mist autoencoder: full" in full["infotext"] and full["image"] != answer["image"]
    assert_as_before(webui, before)


def in_background(function, *arguments, **options):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function(*arguments, **options)))
    thread.start()
    return thread, answers


def watch(webui, until):
    """What /sdapi/v1/progress says until `until(progress)`."""
    for _ in range(600):
        progress = webui.get("/sdapi/v1/progress")
        if until(progress):
            return progress
        time.sleep(0.05)
    raise AssertionError(progress)


def test_progress_preview_and_interrupt(webui, before):
    thread, answers = in_background(webui.protect, painting(), settings={"steps": 5000})
    begun = watch(webui, lambda p: p["state"]["sampling_step"] >= 2 and p["current_image"])
    assert begun["state"]["job"] == "mist" and begun["state"]["sampling_steps"] == 5000
    assert decoded(begun["current_image"]).size == (128, 96)
    later = watch(webui, lambda p: p["progress"] > begun["progress"])
    assert 0 < later["progress"] < 1
    webui.post("/sdapi/v1/interrupt")
    thread.join()
    report = answers[0]["report"]
    assert report["stopped"] and 0 < report["steps_done"] < 5000
    assert np.abs(levels(decoded(answers[0]["image"])) - painting()).max() <= 16
    assert_as_before(webui, before)


def test_two_requests_at_once_queue(webui):
    running = [in_background(webui.protect, painting(), settings={"steps": 20}) for _ in range(2)]
    watch(webui, lambda p: p["state"]["sampling_step"] >= 1)
    made, answers = in_background(webui.txt2img)
    for thread, found in running:
        thread.join()
        assert found[0]["report"]["steps_done"] == 20
    made.join()
    assert running[0][1][0]["image"] == running[1][1][0]["image"] and answers[0]["images"]


@pytest.mark.parametrize("error", ["RuntimeError", "GradientError", "OutOfMemory"])
def test_after_an_error_in_the_middle_everything_is_as_before(webui, before, error):
    webui.get(f"/mist_probe/fail_at?step=2&error={error}")
    settings = {"steps": 4, "gradient": "exact"}  # the UNet fails where it is differentiated
    status, answer = webui.request("/mist/v1/protect", {"image": encoded(painting()), "settings": settings})
    webui.get("/mist_probe/fail_at?step=0&error=")
    expected = {"RuntimeError": 500, "GradientError": 409, "OutOfMemory": 413}
    assert status == expected[error], answer
    assert_as_before(webui, before)


def test_lora_of_an_earlier_generation_is_taken_off(webui, before):
    clean = webui.get("/mist_probe/gradient_digest")["digest"]
    with_lora = webui.txt2img(prompt="a cat <lora:left:1>")["images"][0]
    assert with_lora != before[0]
    assert webui.get("/mist_probe/gradient_digest")["digest"] == clean
    assert webui.txt2img(prompt="a cat <lora:left:1>")["images"][0] == with_lora
    assert_as_before(webui, before)


def test_the_documentation_lists_our_routes(webui):
    paths = webui.get("/openapi.json")["paths"]
    assert "post" in paths["/mist/v1/protect"] and "get" in paths["/mist/v1/info"]


def documented(language):
    text = (ROOT / "docs" / "webui.md").read_text("utf-8")
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_documented_clients_work_as_they_are_written(webui, tmp_path, language):
    Image.fromarray(painting()).save(tmp_path / "picture.png")
    text = documented(language).replace("http://127.0.0.1:7860", webui.url).replace('"steps": 40', '"steps": 2')
    command = ["bash", "-ec", text] if language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (webui.default if language == "sh" else "grey levels at most; Mist: ") in done.stdout
    assert 0 < np.abs(levels(Image.open(tmp_path / "protected.png")) - painting()).max() <= 8
