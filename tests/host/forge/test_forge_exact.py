"""The promises once more on a checkpoint of Stable Diffusion 1.5's exact shape, as Forge loads it for its users.

2.1 GB on the disk and about 5 GB of memory.
"""

import pytest
from browser import page  # noqa: F401  # a fixture
from webui import server
from webui.test_webui_api import (  # noqa: F401
    before,
    test_a_protection_keeps_the_budget_the_mask_and_the_alpha,
    test_after_an_error_in_the_middle_everything_is_as_before,
    test_png_info_reads_back_what_was_done,
    test_progress_preview_and_interrupt,
)
from webui.test_webui_page import (  # noqa: F401
    saved,
    tab,
    test_a_picture_is_protected_watched_saved_and_sent_on,
)
from webui.test_webui_scripts import (  # noqa: F401
    outputs,
    test_extras_protects_one_picture_keeps_alpha_and_writes_png_info,
    test_img2img_keeps_the_budget,
    test_png_info_parses_what_always_on_wrote,
)

from . import make_checkpoints


@pytest.fixture(scope="module")
def webui(host, data, flags):
    host.script(make_checkpoints.__file__, host.folder, data, "exact")
    with server.running(host, data, "exact", *flags) as found:
        found.steps = 6
        found.post("/sdapi/v1/options", {"mist_steps": found.steps, "mist_strength": 8})
        found.reload_ui()
        yield found
    (data / "models" / "Stable-diffusion" / "exact.safetensors").unlink()


@pytest.mark.parametrize("low_vram", [False, True])
def test_the_gradient_is_that_of_central_differences(webui, low_vram):
    found = webui.get(f"/mist_probe/check_gradient?low_vram={low_vram}")
    print(f"exact, low_vram {low_vram}: {found['relative']:.2g} from central differences")
    assert found["gradient"] > 0 and found["relative"] < 1e-3
