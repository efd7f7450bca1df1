"""A device whose steps fail, for another reason than memory: told once, with the way out, and the gallery stops."""

from pathlib import Path

import pytest
import torch
from fakes.command import Model, draw, files, mist, toy_model  # noqa: F401

from mist_attack import devices
from mist_attack.gallery import task
from mist_attack.hosts.headless import diffusers

pytestmark = pytest.mark.usefixtures("toy_model")
KERNEL = RuntimeError("Expected X.is_contiguous(memory_format) to be true, but got false")


class Broken(Model):
    """Its encoder fails from the call with this number on, on pictures of this width and more."""

    def __init__(self, error=KERNEL, after=0, width=0):
        super().__init__()
        self.error, self.left, self.width = error, after, width

    def encode(self, images):
        if images.shape[-1] >= self.width:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return super().encode(images)


def protect(monkeypatch, model, *words):
    monkeypatch.setattr(diffusers, "load", lambda *_: model)
    for name in "abcd":
        draw(f"in/{name}.png", size=(64, 64))
    return mist("protect", "in", "--out", "out", "--steps", 1, *words)


def test_the_gallery_stops_at_once_and_says_which_device_and_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(devices, "described", lambda device: "cuda (NVIDIA L4)")
    real = task._of_the_device
    monkeypatch.setattr(task, "_of_the_device", lambda _, error: real(torch.device("cuda:0"), error))
    assert protect(monkeypatch, Broken()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and files("out") == []
    assert "a.png: a step fails on cuda:0 (NVIDIA L4): RuntimeError: Expected X.is_contiguous" in lines[0]
    assert "Go on with --device cpu." in lines[0] and "mist doctor" in lines[0]
    assert "the other 3" in lines[1]


def test_what_is_done_by_then_stays_and_the_code_says_that_some_failed(monkeypatch, capsys):
    calls = []
    model = Model()
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda images: calls.append(1) or encode(images))
    assert protect(monkeypatch, model, "--limit", 1, "--force") == 0
    assert protect(monkeypatch, Broken(after=2 * len(calls)), "--force") == 2
    assert files("out") == ["a.png", "b.png"] and "the other 1" in capsys.readouterr().err


def test_it_is_tried_again_when_that_is_asked_and_when_the_run_is_started_again(monkeypatch, capsys):
    model = Broken()
    assert protect(monkeypatch, model, "--retries", 1) == 1
    assert protect(monkeypatch, Model()) == 0
    assert files("out") == ["a.png", "b.png", "c.png", "d.png"]


def test_a_picture_that_alone_fails_stops_nothing(monkeypatch, capsys):
    draw("in/large.png", size=(256, 64))
    assert protect(monkeypatch, Broken(width=256)) == 2
    assert files("out") == ["a.png", "b.png", "c.png", "d.png"]
    assert "stopped" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("full"), MemoryError(), OSError(5, "a disk")])
def test_memory_and_disks_are_not_the_devices_fault(monkeypatch, capsys, error):
    assert protect(monkeypatch, Broken(error)) == 1
    assert "the other" not in capsys.readouterr().err


def test_an_estimate_says_it_too(monkeypatch, capsys):
    assert protect(monkeypatch, Broken(), "--dry-run") == 1
    assert "a step fails on cpu: RuntimeError: Expected X.is_contiguous" in capsys.readouterr().err


def test_a_device_that_does_not_compute_is_told_before_a_model_is_read(monkeypatch, capsys, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "accelerator", lambda: ("cuda", 1))
    draw("a.png"), draw("b.png")
    assert mist("protect", "a.png", "b.png", "--out", "out", "--checkpoint", "demo") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "cuda does not compute: AssertionError: Torch not compiled" in lines[0]
    assert not Path("out/a.png").exists()
