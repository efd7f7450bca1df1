"""The HTTP API, and that Forge goes on exactly as before, whatever a protection did."""

from webui.test_webui_api import *  # noqa: F403
