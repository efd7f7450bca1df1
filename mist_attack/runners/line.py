"""The pictures around one model: some are read ahead, one is at the model, and of the last ones files are made."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ..gallery.task import Computed, Opened, Outcome, Task, filing, ready
from ..pictures.reading import size_in
from .model import processors

AHEAD = 2
"""Pictures that are read before the model has room for them."""
WRITERS = 4
"""At most: compressing 2048 x 2048 pixels takes longer than a card's work on them."""
PIXELS = 4096 * 4096
"""Of all pictures in the line, beyond which none is added: larger ones go through it by themselves."""
PATIENCE = 1.0  # seconds: Windows hears no signal while a thread waits


@dataclass(eq=False)
class Flight:
    """A task on its way."""

    task: Task
    pixels: int
    opened: Future[Opened]
    outcome: Future[Outcome] = field(default_factory=Future[Outcome])
    is_begun: bool = False
    """It is, or was, at the model."""
    is_computed: bool = False


class Line:
    """Between two threads: the model's calls `next`, `settle` and `fail`, the gallery's all the others."""

    def __init__(self) -> None:
        writers = max(1, min(WRITERS, processors()))
        self._places = AHEAD + 1 + writers
        self._reader, self._writers = ThreadPoolExecutor(1, "mist-reader"), ThreadPoolExecutor(writers, "mist-writer")
        self._changed = threading.Condition()
        self._flights: deque[Flight] = deque()
        self._told: Flight | None = None
        self._error: BaseException | None = None
        self._closed = False

    def is_closed(self) -> bool:
        return self._closed

    @property
    def has_room(self) -> bool:
        held = sum(flight.pixels for flight in self._flights)
        return self._error is None and len(self._flights) < self._places and held < PIXELS

    def add(self, task: Task) -> None:
        width, height = size_in(task.data)
        flight = Flight(task, width * height, self._reader.submit(ready, task))
        with self._changed:
            if self._error is not None:
                flight.outcome.set_exception(self._error)
            self._flights.append(flight)
            self._changed.notify_all()

    def first_outcome(self) -> Outcome:
        """Of the task that was added first. Raises what the model's thread failed with."""
        with self._changed:
            self._told = None
            self._changed.notify_all()
        if not self._flights:
            assert self._error is not None
            raise self._error
        outcome = self._flights[0].outcome.result()
        with self._changed:
            self._told = self._flights.popleft()
        return outcome

    def withdraw(self) -> list[Task]:
        """Those that have not been at the model: they are not computed any more."""
        with self._changed:
            left = [flight for flight in self._flights if not flight.is_begun]
            self._flights = deque(flight for flight in self._flights if flight.is_begun)
        return [flight.task for flight in left]

    def close(self) -> None:
        """What is at the model ends at its next step."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for pool in (self._reader, self._writers):
            pool.shutdown(wait=True, cancel_futures=True)
        self._flights.clear()

    def next(self) -> Flight | None:
        """Who comes to the model, once there is one; None when the line is closed."""
        with self._changed:
            while not self._closed:
                for flight in self._flights:
                    if not flight.is_begun:
                        flight.is_begun = True
                        return flight
                self._changed.wait(PATIENCE)
        return None

    def settle(self, flight: Flight, found: Computed | Outcome) -> None:
        """After an error, nobody else comes to the model before the gallery has decided how it goes on."""
        if isinstance(found, Computed):
            self._writers.submit(_file, flight, found)
            flight.is_computed = True
            return
        with self._changed:
            flight.outcome.set_result(found)
            while not self._closed and (flight in self._flights or flight is self._told):
                self._changed.wait(PATIENCE)

    def fail(self, error: BaseException) -> None:
        """No more pictures come to the model; files of those that were there are still made."""
        with self._changed:
            self._error = error
            for flight in self._flights:
                if not (flight.is_computed or flight.outcome.done()):
                    flight.outcome.set_exception(error)


def _file(flight: Flight, made: Computed) -> None:
    try:
        flight.outcome.set_result(filing(made))
    except BaseException as error:
        flight.outcome.set_exception(error)
