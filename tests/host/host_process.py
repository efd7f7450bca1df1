"""A real host: where it is, which Python it runs under, and its server as a process of its own."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
"""The repository: what a user clones into the host's folder."""
LOG_LINES = 60


class Host:
    """A host's checkout; it runs under <NAME>_PYTHON, else under its folder's virtual environment, else under ours."""

    def __init__(self, name):
        self.folder = Path(os.environ[f"{name}_DIR"]).resolve()
        places = [
            self.folder / venv / sub for venv in ("venv", ".venv") for sub in ("bin/python", "Scripts/python.exe")
        ]
        own = next((str(place) for place in places if place.is_file()), sys.executable)
        self.python = os.environ.get(f"{name}_PYTHON") or own

    def script(self, path, *arguments):
        """Run a file under the host's Python, in the host's folder; what it printed. Fails with that, too."""
        done = subprocess.run(
            [self.python, path, *map(str, arguments)],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{Path(path).name} failed:\n{done.stdout}"
        return done.stdout


def find_host(name):
    """The host that <NAME>_DIR names; skips the test where it names none."""
    if not os.environ.get(f"{name}_DIR"):
        pytest.skip(f"needs a real host: make host-tests {name}_DIR=its-folder")
    return Host(name)


def environment(**more):
    """One thread: the same sums on every machine, and room for its other users. No network."""
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more


def cached_folder(*makers):
    """A folder for what these scripts make: kept between runs, another one when they change."""
    content = hashlib.sha256(b"".join(Path(maker).read_bytes() for maker in makers)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"mist-host-tests-{content}"
    folder.mkdir(exist_ok=True)
    return folder


def keep(screenshot):
    """A copy in the folder that SCREENSHOTS names, for those who want to look."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(screenshot, folder)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A host's server: answers `url` when the constructor returns; a context that stops it.

    `said`: what its log says when it may be asked; a question that comes too early ends some hosts."""

    def __init__(self, command, folder, url, log, *, said="", seconds=300, **more):
        self.url, self.log, self.said = url, Path(log), said
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env=environment(**more),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that its children stop with it
            )
        try:
            self._wait(seconds)
        except BaseException:
            self.stop()
            raise

    def _wait(self, seconds):
        until = time.monotonic() + seconds
        while not self._answers():
            assert self.process.poll() is None, f"the host ended:\n{self.tail()}"
            assert time.monotonic() < until, f"no answer from {self.url} in {seconds} s:\n{self.tail()}"
            time.sleep(0.5)

    def _answers(self):
        if self.said not in self.log.read_text(errors="replace"):
            return False
        try:
            with urllib.request.urlopen(self.url, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            os.killpg(self.process.pid, number)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
