"""The command with workers of Ray that die where a test wants it: of `__main__`, so Ray carries them as they are."""

import os
import signal
import sys
from pathlib import Path

from mist_attack.command import main
from mist_attack.runners import ray

DEADLY = "deadly"
"""A picture with this in its name kills the worker that protects it."""
STILLBORN = "stillborn-"
"""Each file with this in its name, in the driver's folder, kills one worker while it loads the model."""
HERE = Path.cwd()


class Worker(ray.Worker):
    def ready(self):
        for file in HERE.glob(f"{STILLBORN}*"):
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().ready()

    def protect(self, task):
        if DEADLY in task.source.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().protect(task)


if __name__ == "__main__":
    ray.Worker = Worker
    sys.exit(main.main())
