"""The adapter over the host's real modules: tests that run in the host's own process, under its Python."""

from pathlib import Path

import pytest

from .client import make_checkpoint

INSIDE = Path(__file__).parent / "inside"
NEEDED = ("sd1", "lora", "sd1-fp8", "sd1-int8", "sd2", "sdxl", "vae4", "vae16")


@pytest.mark.parametrize("name", sorted(path.stem for path in INSIDE.glob("test_*.py")))
def test_inside(host, name):
    folders = {make_checkpoint(host, checkpoint).parent for checkpoint in NEEDED}
    pytest_folder = Path(pytest.__file__).parents[1]
    host.script(INSIDE / "run.py", host.folder, *folders, pytest_folder, INSIDE / f"{name}.py")
