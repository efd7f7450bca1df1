"""The command in an empty folder, on the toy model."""

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mist_attack.command import main
from mist_attack.hosts.headless import checkpoints, diffusers

from .toy import ToySurrogate


class Model(ToySurrogate):
    is_demo = False


@pytest.fixture
def toy_model(monkeypatch, tmp_path):
    """The command runs in an empty folder, on the toy model, and cannot reach any network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    monkeypatch.setattr(diffusers, "load", lambda *arguments: Model())
    monkeypatch.setattr(checkpoints, "find_checkpoint", lambda requested: Path("toy"))
    monkeypatch.setattr(socket.socket, "connect", _refuse)


def _refuse(*arguments):
    raise AssertionError("the command tried to use the network")


def draw(path, size=(40, 24), mode="RGB", seed=0):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path)
    return path


def levels_of(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def files(folder="."):
    """All but what a run keeps for the next one."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and ".mist" not in path.parts)
    return sorted(path.relative_to(folder).as_posix() for path in found if path.name != "mist-manifest.jsonl")


def mist(*words):
    return main.main([str(word) for word in words])
