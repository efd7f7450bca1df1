"""Always-on in txt2img and img2img, and Extras, in the real web UI: what is on the disk afterwards."""

import base64
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from .server import decoded, encoded, levels, painting

STRENGTH = 6
ON = {"Mist": {"args": [True, {"steps": 3, "strength": STRENGTH}]}}


@pytest.fixture
def outputs(webui):
    """Files the web UI saves while the test runs."""
    folder = webui.data / "outputs"
    before = set(folder.rglob("*.*"))
    return lambda: sorted(set(folder.rglob("*.*")) - before)


def parameters(path):
    return Image.open(path).info.get("parameters", "")


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def shift_of(path, expected):
    """Of what both have: Forge hides the infotext in an alpha channel of its own."""
    made, expected = levels(Image.open(path)), levels(expected)
    return np.abs(made[..., : expected.shape[2]] - expected)


def test_txt2img_saves_each_image_protected_and_nothing_else_says_so(webui, outputs):
    batch = {"batch_size": 2, "n_iter": 2}
    plain = webui.txt2img(**batch)["images"]
    webui.txt2img(**batch, alwayson_scripts=ON, save_images=True)
    samples = [path for path in outputs() if "grid" not in path.name]
    assert len(samples) == len(plain) == 4
    for path, image in zip(samples, plain, strict=True):
        shift = shift_of(path, decoded(image))
        assert 0 < shift.max() <= STRENGTH
        assert f"Mist strength: {STRENGTH}, Mist steps: 3" in parameters(path)
    assert webui.txt2img(**batch)["images"] == plain


def test_png_info_parses_what_always_on_wrote(webui, outputs):
    webui.txt2img(alwayson_scripts=ON, save_images=True)
    (path,) = outputs()
    image = base64.b64encode(path.read_bytes()).decode()
    read = webui.post("/sdapi/v1/png-info", {"image": image})["parameters"]
    assert read["Mist strength"] == str(STRENGTH) and read["Mist steps"] == "3" and read["Seed"] == "5"


def test_it_is_off_by_default(webui, outputs):
    made = webui.txt2img(save_images=True)
    assert "Mist" not in made["info"] and all("Mist" not in parameters(path) for path in outputs())


def inpainting(**options):
    picture, mask = painting(128, 128), np.zeros((128, 128), np.uint8)
    mask[:64] = 255
    return {
        "init_images": [encoded(picture)],
        "mask": encoded(mask),
        "prompt": "a cat",
        "steps": 3,
        "seed": 5,
        "width": 128,
        "height": 128,
        "denoising_strength": 0.5,
        "inpainting_fill": 1,
    } | options


def inpainted(webui):
    """Without Mist. Forge encodes the picture with the random state that the job before it has left: asked twice."""
    return [webui.post("/sdapi/v1/img2img", inpainting())["images"][0] for _ in range(2)][1]


def test_img2img_protects_after_compositing_and_marks_no_copy(webui, outputs):
    """Masks and composites are saved with their image's infotext, and are not protected."""
    plain = inpainted(webui)
    options = {"save_mask": True, "save_mask_composite": True, "img2img_color_correction": True}
    options["save_images_before_color_correction"] = True
    webui.post("/sdapi/v1/options", options)
    try:
        webui.post("/sdapi/v1/img2img", inpainting(save_images=True, alwayson_scripts=ON))
    finally:
        webui.post("/sdapi/v1/options", dict.fromkeys(options, False))
    files = outputs()
    copies = [path for path in files if path.stem.endswith(("-mask", "-composite", "-correction"))]
    (protected,) = (path for path in files if path not in copies)
    assert len(copies) == 3
    assert "Mist strength" in parameters(protected) and shift_of(protected, decoded(plain)).max() > 0
    for path in copies:
        assert "Seed: 5" in parameters(path) and "Mist" not in parameters(path)


def test_img2img_keeps_the_budget(webui, outputs):
    plain = inpainted(webui)
    webui.post("/sdapi/v1/img2img", inpainting(save_images=True, alwayson_scripts=ON))
    (path,) = outputs()
    assert 0 < shift_of(path, decoded(plain)).max() <= STRENGTH


def test_an_interrupted_image_is_kept_unprotected_and_that_is_said(webui, outputs):
    plain = webui.txt2img()["images"][0]
    slow = {"Mist": {"args": [True, {"steps": 5000}]}}
    answers = []
    request = {"alwayson_scripts": slow, "save_images": True}
    thread = threading.Thread(target=lambda: answers.append(webui.txt2img(**request)))
    thread.start()
    while webui.get("/sdapi/v1/progress")["state"]["sampling_steps"] != 5000:
        time.sleep(0.05)
    webui.post("/sdapi/v1/interrupt")
    thread.join()
    (path,) = outputs()
    assert shift_of(path, decoded(plain)).max() == 0
    assert "Mist error" in parameters(path) and "Mist strength" not in parameters(path)
    assert "NOT protected" in webui.get("/mist_probe/last_comments")["comments"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": 900}, "between 0 and 255"),
        ({"strenght": 9}, "Unknown control 'strenght'"),
        ({"config": "/etc/passwd"}, "Unknown control 'config'"),
        ({"preset": "none"}, "Unknown preset"),
    ],
)
def test_bad_settings_do_not_lose_the_image_and_programs_are_told(webui, outputs, settings, said):
    made = webui.txt2img(alwayson_scripts={"Mist": {"args": [True, settings]}}, save_images=True)
    (path,) = outputs()
    for text in (parameters(path), json.loads(made["info"])["infotexts"][0], parameters_of(made["images"][0])):
        assert "Mist error" in text and said in text and "Mist strength" not in text
    assert said in webui.get("/mist_probe/last_comments")["comments"]
    assert "Mist: NOT protected: image 1." in webui.log.read_text(errors="replace")


def parameters_of(image):
    return decoded(image).info["parameters"]


def test_with_and_without_a_dict_the_defaults_are_the_same(webui):
    webui.post("/sdapi/v1/options", {"mist_steps": 2, "mist_strength": 5})
    try:
        webui.reload_ui()  # widgets begin with the settings page's values then
        plain, named = (webui.txt2img(alwayson_scripts={"Mist": {"args": args}}) for args in ([True], [True, {}]))
    finally:
        webui.post("/sdapi/v1/options", {"mist_steps": 100, "mist_strength": 16})
    assert plain["images"] == named["images"]
    assert "Mist strength: 5, Mist steps: 2" in parameters_of(named["images"][0])


def test_the_composite_of_a_part_does_not_say_that_it_is_protected(webui, outputs):
    """Inpainting at full resolution: the composite is as large as the picture, far larger than what was generated."""
    options = {"save_mask": True, "save_mask_composite": True}
    webui.post("/sdapi/v1/options", options)
    request = inpainting(save_images=True, alwayson_scripts=ON, inpaint_full_res=True, width=64, height=64)
    picture, mask = painting(256, 256), np.zeros((256, 256), np.uint8)
    mask[:64, :64] = 255
    try:
        webui.post("/sdapi/v1/img2img", request | {"init_images": [encoded(picture)], "mask": encoded(mask)})
    finally:
        webui.post("/sdapi/v1/options", dict.fromkeys(options, False))
    said = {path.stem.rpartition("-")[2]: "Mist strength" in parameters(path) for path in outputs()}
    assert not said.pop("mask") and not said.pop("composite") and list(said.values()) == [True]


def test_infotext_tells_of_a_lossy_file(webui, outputs):
    webui.post("/sdapi/v1/options", {"samples_format": "jpg"})
    try:
        made = json.loads(webui.txt2img(alwayson_scripts=ON, save_images=True)["info"])
    finally:
        webui.post("/sdapi/v1/options", {"samples_format": "png"})
    (path,) = outputs()
    assert path.suffix == ".jpg"
    assert "Mist note" in made["infotexts"][0] and "lossy" in made["infotexts"][0]
    assert "lossy" in webui.get("/mist_probe/last_comments")["comments"]


def extras(webui, mode, source, destination="", **controls):
    body = {"mode": mode, "source": str(source), "destination": str(destination)}
    return webui.post("/mist_probe/extras", body | {"controls": {"steps": 3, "strength": STRENGTH} | controls})


def test_extras_protects_one_picture_keeps_alpha_and_writes_png_info(webui, outputs, tmp_path):
    picture = painting(channels=4)
    answer = extras(webui, 0, save(tmp_path / "one.png", picture))
    (path,) = outputs()
    shift = shift_of(path, picture)
    assert Image.open(path).mode == "RGBA" and shift[..., 3].max() == 0 and 0 < shift.max() <= STRENGTH
    read = Image.open(path).info
    assert "Mist steps: 3" in read["postprocessing"]
    assert f"Mist strength: {STRENGTH}" in read.get("extras", read["postprocessing"])  # Forge writes it once
    assert "Mist strength" in answer["html"]


def test_extras_protects_a_directory(webui, tmp_path):
    pictures = {f"p{number}": painting(seed=number) for number in range(2)}
    for name, picture in pictures.items():
        save(tmp_path / "in" / f"{name}.png", picture)
    webui.post("/sdapi/v1/options", {"use_original_name_batch": True})
    extras(webui, 2, tmp_path / "in", tmp_path / "out")
    written = {path.stem: path for path in (tmp_path / "out").iterdir()}
    assert written.keys() == pictures.keys()
    for name, picture in pictures.items():
        assert 0 < shift_of(written[name], picture).max() <= STRENGTH
        assert "Mist strength" in Image.open(written[name]).info["postprocessing"]


def test_a_picture_that_fails_in_a_directory_is_left_out_and_the_next_goes_on(webui, tmp_path):
    for number in range(2):
        save(tmp_path / "in" / f"p{number}.png", painting(seed=number))
    webui.post("/sdapi/v1/options", {"use_original_name_batch": True})
    webui.get("/mist_probe/fail_at?step=1&error=GradientError&times=1")
    extras(webui, 2, tmp_path / "in", tmp_path / "out", gradient="exact")
    webui.get("/mist_probe/fail_at?step=0&error=")
    (path,) = (tmp_path / "out").iterdir()
    assert path.stem == "p1" and 0 < shift_of(path, painting(seed=1)).max() <= STRENGTH


def test_an_interrupted_extras_job_writes_nothing_unprotected(webui, tmp_path):
    for number in range(3):
        save(tmp_path / "in" / f"p{number}.png", painting(seed=number))
    thread = threading.Thread(target=extras, args=(webui, 2, tmp_path / "in", tmp_path / "out"), kwargs={"steps": 5000})
    thread.start()
    while webui.get("/sdapi/v1/progress")["state"]["sampling_steps"] != 5000:
        time.sleep(0.05)
    webui.post("/sdapi/v1/interrupt")
    thread.join()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_web_uis_own_extras_api_is_left_alone(webui):
    picture = painting()
    request = {"image": encoded(picture), "upscaler_1": "None", "upscaling_resize": 1}
    answer = webui.post("/sdapi/v1/extra-single-image", request)
    assert np.array_equal(levels(decoded(answer["image"])), picture)
