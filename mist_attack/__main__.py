"""`mist` and `python -m mist_attack`: the process is prepared before torch is imported, then the command runs."""

import os
import sys


def main() -> None:
    # OpenMP's threads spin at every barrier. Where another process wants one of the cores they spin against it, and a
    # step takes up to ten times as long; a short spin costs an idle machine next to nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from .command.main import main as command

    sys.exit(command())


if __name__ == "__main__":
    main()
