"""Forge's page as a user meets it, in headless Chromium."""

from browser import page  # noqa: F401  # a fixture
from webui.test_webui_page import *  # noqa: F403
