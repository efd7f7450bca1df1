"""One process protects a gallery of thousands without growing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mist_attack.hosts.headless.checkpoints import DEMO

PICTURES = 2000
SCRIPT = """
import sys
from mist_attack import cli
from mist_attack.gallery import worker

real = worker.protected

def measured(task, model, on_step=None):
    result = real(task, model, on_step)
    with open("/proc/self/statm") as file:
        print(file.read().split()[1], file=log)
    return result

worker.protected = measured
with open("resident_pages", "w") as log:
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not (DEMO / "seed0").is_dir(), reason="the demo model is not in this copy")
def test_2000_pictures_in_one_process_do_not_grow_it(tmp_path):
    (tmp_path / "in").mkdir()
    generator = np.random.default_rng(0)
    for index in range(PICTURES):
        levels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / "in" / f"{index:04}.png")
    words = "protect in --out out --checkpoint demo --steps 1 --threads 1 --quiet --objective textural"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, *words.split()]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    pages = np.loadtxt(tmp_path / "resident_pages")
    assert len(pages) == PICTURES
    first, last = pages[: PICTURES // 4].mean(), pages[-PICTURES // 4 :].mean()
    assert last / first < 1.02, f"last quarter over first: {last / first:.4f}"
