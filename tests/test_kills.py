"""Runs that are killed, as processes really are: nothing half-written, and the next run ends as if nothing had been."""

import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import toy_command
from fakes.command import draw
from PIL import Image

from mist_attack import ending
from mist_attack.runners import here

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
TESTS = Path(__file__).parent
COMMAND = [sys.executable, toy_command.__file__]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def fork():
    """Runs the command in a child of a process that has imported everything, which saves seconds each time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fakes.toy_command", "torch._dynamo"])  # which an optimiser imports
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TESTS, TESTS.parent))))
        multiprocessing.forkserver.ensure_running()

    def fork(folder, *words, die_at=None):
        child = context.Process(target=toy_command.run, args=(folder, words, die_at))
        child.start()
        child.join(60)
        return child.exitcode

    return fork


def gallery(folder, count=3):
    for index in range(count):
        draw(folder / "in" / ("sub" if index % 2 else "") / f"p{index}.png", seed=index)
    return "protect", "in", "--out", "out", "--steps", 2, "--threads", 1


def tree(folder):
    """Every file, hidden ones and the manifest too."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def require_whole(folder):
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            Image.open(path).load() if path.suffix == ".png" else [json.loads(x) for x in path.read_text().splitlines()]


def test_killed_at_every_change_of_the_disk_and_started_again(fork, tmp_path):
    words = gallery(tmp_path, 2)
    assert fork(tmp_path, *words) == 0
    undisturbed = tree(tmp_path / "out")
    died = []
    for die_at in range(1000):
        (tmp_path / "out").rename(tmp_path / f"done{die_at}")
        code = fork(tmp_path, *words, die_at=die_at)
        died.append(code == KILLED)
        require_whole(tmp_path / "out") if (tmp_path / "out").exists() else None
        assert fork(tmp_path, *words) == 0
        assert tree(tmp_path / "out") == undisturbed, f"killed at change {die_at}"
        if code == 0:
            break
    assert died == [True] * die_at + [False] and die_at > 10


def test_a_set_killed_at_changes_of_the_disk_ends_in_the_same_bytes(fork, tmp_path):
    gallery(tmp_path, 2)
    words = "protect-set", "in", "--out", "out", "--rounds", 2, "--lora-steps", 2, "--steps", 2, "--threads", 1
    assert fork(tmp_path, *words) == 0
    undisturbed, died = tree(tmp_path / "out"), []
    for die_at in range(12, 1000, 27):
        (tmp_path / "out").rename(tmp_path / f"done{die_at}")
        died.append(fork(tmp_path, *words, die_at=die_at) == KILLED)
        assert fork(tmp_path, *words) == 0
        assert tree(tmp_path / "out") == undisturbed, f"killed at change {die_at}"
        if not died[-1]:
            break
    assert died == [True] * (len(died) - 1) + [False] and len(died) > 2


def test_killed_at_any_moment_and_started_again(tmp_path):
    count, chance = 24, random.Random(7)
    words = [str(word) for word in gallery(tmp_path, count)]
    subprocess.run([*COMMAND, *words], cwd=tmp_path, check=True, capture_output=True)
    undisturbed = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "undisturbed")
    kills = 0
    for wanted in (1, 7, 15):
        child = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
        while len(list((tmp_path / "out").rglob("*.png"))) < wanted and child.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        child.kill()
        kills += child.wait() == KILLED
        require_whole(tmp_path / "out")
    assert kills == 3
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "protected already" in done.stdout
    assert tree(tmp_path / "out") == undisturbed


def test_a_picture_that_kills_its_worker_three_times_is_recorded_and_skipped(fork, tmp_path):
    words = gallery(tmp_path)
    draw(tmp_path / "in" / f"a-{toy_command.DEADLY}.png", seed=9)
    codes = [fork(tmp_path, *words) for _ in range(5)]
    assert codes == [KILLED] * 3 + [2, 2]
    rows = [json.loads(line) for line in (tmp_path / "out/mist-manifest.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["failed", "protected", "protected", "protected"]
    assert "died 3 times" in rows[0]["error"] and rows[0]["source_sha256"]
    assert fork(tmp_path, *words, "--force") == KILLED


def test_terminating_a_run_is_not_held_against_its_picture(tmp_path):
    words = [str(word) for word in gallery(tmp_path, 1)]
    words[words.index("--steps") + 1] = "100000"
    for _ in range(4):
        child = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while not list((tmp_path / "out/.mist/begun").glob("*.json")) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert "interrupted" in child.communicate()[1] and child.returncode == 130
        assert not list((tmp_path / "out/.mist/begun").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_upload_that_hangs_does_not_keep_an_interrupted_run(tmp_path, number):
    words = [str(word) for word in gallery(tmp_path)]
    script = f"""
import sys, threading
sys.path[:0] = {[str(TESTS), str(TESTS.parent)]}
from mist_attack.gallery.storage import Folder
from mist_attack.runners import here
from fakes import toy_command

def hangs(self, name, data):
    if name.endswith(".png"):
        print("uploading", flush=True)
        threading.Event().wait()

Folder.write, here.WINDING_UP, toy_command.os._exit = hangs, 0.2, sys.exit
toy_command.run(".", {words})
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while "uploading" not in child.stdout.readline():
            assert child.poll() is None
        child.send_signal(number)
        assert "interrupted" in child.communicate(timeout=30)[1] and child.returncode == 130
    finally:
        child.kill()


def test_a_second_run_on_the_same_folder_is_refused(fork, tmp_path):
    words = [str(word) for word in gallery(tmp_path, 1)]
    words[words.index("--steps") + 1] = "100000"
    first = subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "out/.mist/lock").exists() or not list((tmp_path / "out/.mist").glob("begun/*")):
            time.sleep(0.01)
        second = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True)
        assert second.returncode == 1 and "another run is at work" in second.stderr
    finally:
        first.kill(), first.wait()
    words[words.index("--steps") + 1] = "1"
    assert fork(tmp_path, *words) == 0  # the lock died with its holder


def test_a_full_disk_is_a_row_and_the_rest_goes_on(tmp_path):
    """A limit on the size of files stands for the disk: only large results meet it."""
    words = [str(word) for word in gallery(tmp_path, 2)]
    draw(tmp_path / "in" / "large.png", (400, 300), seed=5)
    limited = f"ulimit -f 100; exec {' '.join(map(repr, COMMAND))} {' '.join(words)}"
    done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "large.png" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out/mist-manifest.jsonl").read_text().splitlines()]
    assert {row["output"]: row["status"] for row in rows} == {
        "large.png": "failed",
        "p0.png": "protected",
        "sub/p1.png": "protected",
    }
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert Path(tmp_path / "out/p0.png").exists() and not Path(tmp_path / "out/large.png").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_end_that_was_told_inside_a_destructor_is_heard_at_the_next_step():
    """Python prints what a destructor raises, and goes on."""

    class Doomed:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    step = here._on_step(SimpleNamespace(update=lambda count: None, disable=True))
    try:
        ending.heed_signals()
        step(None)
        Doomed()
        with pytest.raises(KeyboardInterrupt):
            step(None)
    finally:
        ending.heed_signals()
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
