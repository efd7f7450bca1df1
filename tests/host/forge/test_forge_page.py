"""Forge's page as a user meets it, in headless Chromium."""

from browser import page  # noqa: F401  # a fixture
from host_process import ROOT
from webui.test_webui_page import *  # noqa: F403


def test_the_page_leaves_nothing_in_our_folder(webui):
    """gradio 4 writes a file beside the source of every component that it sees defined."""
    assert webui.get("/mist/v1/info")
    assert not list((ROOT / "mist_webui").glob("*.pyi"))
