"""What a start does not import: a module that a command has no use for costs everybody who starts it."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import tiny
from fakes.command import draw

from mist_attack.command import main
from mist_attack.runners import model

TESTS = Path(__file__).parent
DEMO = TESTS.parent / "mist_attack" / "demo" / "seed0"
HEAVY = {"torch", "numpy", "PIL", "diffusers", "transformers", "scipy", "matplotlib", "cv2", "omegaconf", "einops"}
FOR_OTHERS = {"matplotlib", "cv2", "skimage", "ray", "websockets", "fastapi"}
"""What other commands, engines and faces need."""


def imported(*command, cwd=TESTS.parent):
    """Names of the modules that the command has imported, by Python's own account of it."""
    words = [sys.executable, "-X", "importtime", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {fields[-1].strip() for fields in lines}


def packages(modules):
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("words", ["--help", "--version", "evaluate --help", "bench --help"])
def test_help_imports_nothing_of_what_computes(words):
    assert packages(imported("-m", "mist_attack", *words.split())) & HEAVY == set()


def test_comfyui_imports_our_nodes_and_nothing_else():
    """torch is the host's; the engine comes with the first run."""
    script = f"""
import sys
sys.path[:0] = {[str(TESTS), str(TESTS.parent)]}
import torch, numpy, PIL.Image, yaml, pytest
from fakes import comfyui_pack
with pytest.MonkeyPatch.context() as patch:
    comfyui_pack.install(patch, ".")
    before = set(sys.modules)
    _, nodes = comfyui_pack.load(patch)
    for node in nodes.values():
        node.define_schema()
    found = set(sys.modules) - before
assert len(nodes) == 6
ours = {{name for name in found if name.startswith(nodes["MistProtect"].__module__.removesuffix(".nodes.protect"))}}
assert found == ours, found - ours
engine = {{name.rpartition(".mist_attack.")[2] for name in ours if ".mist_attack." in name}}
assert engine == {{"control", "controls", "errors", "needs", "presets", "sets", "sets.settings"}}, engine
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not DEMO.is_dir(), reason="the demo model is not in this copy")
def test_a_picture_is_protected_without_what_others_need(tmp_path):
    words = ["protect", draw(tmp_path / "a.png", (64, 64)), "--out", tmp_path / "out", "--checkpoint", "demo"]
    found = imported("-m", "mist_attack", *words, "--steps", 1, "--threads", 1)
    assert (tmp_path / "out" / "a.png").is_file()
    assert packages(found) & FOR_OTHERS == set()
    assert not [name for name in found if name.startswith("diffusers.pipelines.") and "stable_diffusion" in name]


def test_a_small_autoencoder_needs_no_library_of_models(tmp_path):
    words = ["protect", draw(tmp_path / "a.png", (64, 64)), "--out", tmp_path / "out", "--checkpoint"]
    found = imported("-m", "mist_attack", *words, tiny.write(tmp_path), "--steps", 1, "--threads", 1)
    assert (tmp_path / "out" / "a.png").is_file()
    assert packages(found) & (FOR_OTHERS | {"diffusers", "transformers"}) == set()


@pytest.mark.parametrize("enabled", [True, False])
def test_nobody_looks_for_garbage_while_modules_are_imported(enabled):
    script = f"""
import gc
from mist_attack.importing import uncollected
({"gc.enable" if enabled else "gc.disable"})()
try:
    with uncollected():
        assert not gc.isenabled()
        raise ImportError
except ImportError:
    pass
assert gc.isenabled() is {enabled} and gc.get_freeze_count() > 0
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=TESTS.parent).returncode == 0


def test_torch_and_a_model_are_imported_without_looking_for_garbage(monkeypatch):
    enabled = []
    monkeypatch.setattr(model.choice, "load", lambda *_: enabled.append(gc.isenabled()))
    monkeypatch.setattr(model.checkpoints, "find_checkpoint", lambda _: Path("toy"))
    model.load(model.ModelOptions(device="cpu"))
    monkeypatch.setattr("builtins.__import__", lambda *_: enabled.append(gc.isenabled()))
    main._require_torch()
    assert enabled == [False, False] and gc.isenabled()
