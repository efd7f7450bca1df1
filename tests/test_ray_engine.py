"""The Ray engine on a real local cluster of two workers, on the demo model; workers and drivers are really killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import ray_command
from fakes.command import draw, files

from mist_attack.hosts.headless.checkpoints import DEMO

pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[cluster]"')
pytestmark = pytest.mark.skipif(not (DEMO / "seed0").is_dir(), reason="the demo model is not in this copy")
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
COMMAND = ["-m", "mist_attack"]
WORDS = ["protect", "in", "--checkpoint", "demo", "--threads", "1"]
RAY = ["--engine", "ray", "--workers", "2"]


def gallery(folder, count=6):
    for index in range(count):
        draw(folder / "in" / ("sub" if index % 2 else "") / f"p{index}.png", (64 + 16 * (index % 3), 64), seed=index)


def mist(folder, *words, steps=3, command=COMMAND):
    full = [sys.executable, *command, *WORDS, "--steps", str(steps), *words]
    return subprocess.run(full, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


def start(folder, *words, steps=3):
    full = [sys.executable, *COMMAND, *WORDS, "--steps", str(steps), *words]
    return subprocess.Popen(full, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def at_work(driver):
    """Process ids of the driver's actors that protect a picture right now."""
    parents, busy = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ray::Worker.protect" in (folder / "cmdline").read_bytes():
                busy.append(int(folder.name))
        except (OSError, ValueError):
            continue

    def is_ours(pid):
        while pid and pid != driver.pid:
            pid = parents.get(pid)
        return pid == driver.pid

    return [pid for pid in busy if is_ours(pid)]


def wait_until(condition, driver, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()) and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return found


def in_progress(folder):
    marks = []
    for mark in (folder / "out/.mist/begun").glob("*.json"):
        try:
            marks.append(json.loads(mark.read_text())["output"])
        except (OSError, ValueError):
            continue
    return marks


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tree that one process with one thread makes."""
    folder = tmp_path_factory.mktemp("single")
    gallery(folder)
    assert mist(folder, "--out", "out").returncode == 0
    return tree(folder / "out")


def test_two_workers_make_the_bytes_of_one_process_and_a_corrupt_file_stops_nothing(tmp_path, undisturbed):
    gallery(tmp_path)
    done = mist(tmp_path, "--out", "out", *RAY)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == undisturbed  # the manifest too
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/p0.png").read_bytes()[:200])
    done = mist(tmp_path, "--out", "out", *RAY, "--force")
    assert done.returncode == 2 and "cut.png" in done.stderr
    assert len(files(tmp_path / "out")) == 6


def test_killed_workers_and_a_killed_driver_change_nothing(tmp_path, undisturbed):
    gallery(tmp_path)
    driver = start(tmp_path, "--out", "out", *RAY)
    for _ in range(2):
        (victim, *_) = wait_until(lambda: at_work(driver), driver)
        os.kill(victim, signal.SIGKILL)
        assert wait_until(lambda gone=victim: gone not in at_work(driver), driver)
    assert wait_until(lambda: files(tmp_path / "out"), driver)
    driver.kill()
    driver.wait()
    assert len(files(tmp_path / "out")) < 6
    done = mist(tmp_path, "--out", "out", *RAY)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == undisturbed


def test_a_picture_that_kills_its_worker_three_times_is_recorded_and_the_rest_goes_on(tmp_path):
    """Two workers die while they load, too, and are replaced."""
    gallery(tmp_path, 3)
    draw(tmp_path / f"in/a-{ray_command.DEADLY}.png", seed=9)
    for index in range(2):
        (tmp_path / f"{ray_command.STILLBORN}{index}").touch()
    done = mist(tmp_path, "--out", "out", "--engine", "ray", "--workers", "1", command=[ray_command.__file__])
    assert done.returncode == 2, done.stderr
    assert not list(tmp_path.glob(f"{ray_command.STILLBORN}*"))
    rows = [json.loads(line) for line in (tmp_path / "out/mist-manifest.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["failed", "protected", "protected", "protected"]
    assert "died 3 times" in rows[0]["error"] and rows[0]["deaths"] == 3
    assert not list((tmp_path / "out/.mist").rglob("*.json"))


def test_what_does_not_fit_the_cluster_is_said(tmp_path):
    gallery(tmp_path, 1)
    done = mist(tmp_path, "--out", "out", "--engine", "ray", "--gpus-per-worker", "64", "--threads", "9999")
    assert done.returncode == 1 and "fits" in done.stderr
    assert "--threads 9999: this machine has" in done.stderr and "No worker of 9999 CPUs" not in done.stderr
