"""Always-on in txt2img and img2img, and Extras, in the real Forge: what is on the disk afterwards."""

from webui.test_webui_scripts import *  # noqa: F403
