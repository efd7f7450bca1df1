"""Sets, and that Forge goes on exactly as before."""

from webui.test_webui_sets import *  # noqa: F403
