"""What a runner is: whoever computes the pictures of a gallery, wherever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ..gallery.task import Outcome, Task

T = TypeVar("T")


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

    def withdraw(self) -> list[Task]:
        """Those that were submitted, and that nobody has begun: they are not computed any more."""
        ...

    def alongside(self, work: Callable[[], T]) -> T:
        """Do `work`, which submits and waits and at last closes; a runner that computes in this thread does it in
        another one."""
        ...

    def close(self) -> None: ...
