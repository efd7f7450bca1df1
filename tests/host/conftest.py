"""Tests against real hosts: `make host-tests COMFYUI_DIR=... WEBUI_DIR=... FORGE_DIR=...`, any of them."""

from pathlib import Path

HERE = Path(__file__).parent
collect_ignore_glob = ["*/inside/*"]  # run in the host's own process: see test_inside.py


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("host")
