"""Always-on in txt2img and img2img, and Extras, in the real Forge: what is on the disk afterwards."""

from PIL import Image
from webui.server import encoded
from webui.test_webui_scripts import *  # noqa: F403
from webui.test_webui_scripts import ON, inpainting


def test_the_infotext_that_forge_hides_in_pixels_marks_no_copy_either(webui, outputs):
    webui.post("/sdapi/v1/options", {"save_mask": True})
    try:
        webui.post("/sdapi/v1/img2img", inpainting(save_images=True, alwayson_scripts=ON))
    finally:
        webui.post("/sdapi/v1/options", {"save_mask": False})
    for path in outputs():
        pixels_alone = encoded(Image.open(path))
        read = webui.post("/sdapi/v1/png-info", {"image": pixels_alone})["info"]
        assert "Seed: 5" in read and ("Mist strength" in read) == (not path.stem.endswith("-mask"))
