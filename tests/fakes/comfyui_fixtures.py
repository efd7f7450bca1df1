"""A plugin: an empty folder, and stand-ins for ComfyUI's servers."""

import pytest

from mist_attack.runners.comfyui_remote import graph

from .comfyui_server import FakeComfy


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graph, "POLL_SECONDS", 0.01)


@pytest.fixture
def comfy():
    with FakeComfy() as server:
        yield server
        server.shutdown()


@pytest.fixture
def other():
    with FakeComfy() as server:
        yield server
        server.shutdown()
