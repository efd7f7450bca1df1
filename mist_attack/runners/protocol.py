"""What a runner is: whoever computes the pictures of a gallery, wherever that is."""

from __future__ import annotations

from typing import Protocol

from ..gallery.task import Outcome, Task


class Runner(Protocol):
    """Computes tasks: submitted while there is room, waited for in between. Closed after use, always."""

    dies_with_its_worker: bool
    """It computes in this process: a picture that kills its worker kills the run."""

    @property
    def has_room(self) -> bool: ...

    def submit(self, task: Task) -> None: ...

    def wait(self) -> Outcome | None:
        """Of any task; None where there is more room now. Raises CheckpointError where there is no model."""
        ...

    def close(self) -> None: ...
