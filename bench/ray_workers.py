"""Throughput of two one-thread workers of Ray against one, in turns: python bench/ray_workers.py [FOLDER OF PICTURES]

Between the first results and the last one, so that starting counts for nothing. Only an idle machine tells: Ray runs
its workers at low priority, and others take their time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES, SIDE, TURNS = 14, 128, 3
COMMAND = [sys.executable, "-m", "mist_attack", "protect", "--checkpoint", "demo", "--threads", "1", "--quiet"]


def noise(folder: Path) -> Path:
    folder.mkdir()
    for index in range(PICTURES):
        levels = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index:02}.png")
    return folder


def rate(pictures: Path, out: Path, workers: int) -> float:
    """Pictures in a second."""
    words = [str(pictures), "--out", str(out), "--steps", "12", "--engine", "ray", "--workers", str(workers)]
    subprocess.run([*COMMAND, *words], check=True, stderr=subprocess.DEVNULL)
    ends = sorted(path.stat().st_mtime for path in out.rglob("*") if path.is_file() and path.parts[-2] != ".mist")
    ends.pop()  # the manifest
    return (len(ends) - workers) / (ends[-1] - ends[workers - 1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else noise(here / "in")
        for turn in range(TURNS):
            one, two = (rate(pictures, here / f"out{turn}-{workers}", workers) for workers in (1, 2))
            print(f"one worker {one:.3f}, two {two:.3f} pictures a second: {two / one:.2f} times", flush=True)


if __name__ == "__main__":
    main()
