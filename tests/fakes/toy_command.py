"""The command on the toy model in a process of its own, which may kill itself: what a test cannot do to its own."""

import os
import signal
import sys
from pathlib import Path
from unittest import mock

import torch

sys.path[:0] = [str(Path(__file__).parents[level]) for level in (1, 2)]

from fakes.command import Model  # noqa: E402

from mist_attack.command import main  # noqa: E402
from mist_attack.gallery import task  # noqa: E402
from mist_attack.hosts.headless import checkpoints, diffusers  # noqa: E402

DEADLY = "deadly"
"""A picture with this in its name kills the process that protects it."""


def run(folder, words, die_at=None):
    """Exit with the command's code. die_at: SIGKILL at that call of what changes a disk, from 0."""
    os.chdir(folder)
    torch.set_num_threads(1)
    calls = iter(range(10**9))

    def dies(real):
        def call(*arguments, **named):
            if next(calls) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    def computed(task, *others):
        if DEADLY in task.source.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(task, *others)

    real = task.computed
    mock.patch.object(task, "computed", computed).start()
    mock.patch.object(diffusers, "load", lambda *_: Model()).start()
    mock.patch.object(checkpoints, "find_checkpoint", lambda _: Path("toy")).start()
    for name in ("replace", "unlink", "mkdir"):
        mock.patch.object(Path, name, dies(getattr(Path, name))).start()
    mock.patch.object(os, "fsync", dies(lambda _: None)).start()  # not a lost disk
    code = main.main([str(word) for word in words])
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run(".", sys.argv[1:])
