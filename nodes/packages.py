"""ComfyUI may start without the one package that it does not ship: the nodes say so when they are run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..mist_attack.errors import MistError

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


@contextmanager
def engine() -> Iterator[None]:
    """Around an import of the engine. Raises MistError with the command that installs what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MistError(
            f"Mist needs the Python package {error.name}. Close ComfyUI, run:  "
            f"{sys.executable} -m pip install -r {REQUIREMENTS}  and start it again."
        ) from error
