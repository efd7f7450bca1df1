"""What a set has reached between its rounds."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .learning import State


class Keep(Protocol):
    """Rounds are counted from 0; what is kept of one is there whole, or not at all."""

    def latest(self) -> int:
        """The last round of which a LoRA's states are kept; 0 where none is."""
        ...

    def states(self, number: int) -> list[State] | None: ...

    def keep_states(self, number: int, states: list[State]) -> None: ...

    def picture(self, number: int, name: str) -> Tensor | None:
        """(1, 3, H, W) float32 in [0, 1] on the CPU: a picture as that round has left it."""
        ...

    def keep_picture(self, number: int, name: str, x: Tensor) -> None: ...

    def failure(self, name: str) -> str | None:
        """Why a picture was left out."""
        ...

    def keep_failure(self, name: str, error: str) -> None: ...

    def forget(self, number: int) -> None:
        """Everything of that round and those before it."""
        ...


class Memory:
    """For pictures that a host holds in memory too."""

    def __init__(self) -> None:
        self._states: dict[int, list[State]] = {}
        self._pictures: dict[tuple[int, str], Tensor] = {}
        self._failures: dict[str, str] = {}

    def latest(self) -> int:
        return max(self._states, default=0)

    def states(self, number: int) -> list[State] | None:
        return self._states.get(number)

    def keep_states(self, number: int, states: list[State]) -> None:
        self._states[number] = states

    def picture(self, number: int, name: str) -> Tensor | None:
        return self._pictures.get((number, name))

    def keep_picture(self, number: int, name: str, x: Tensor) -> None:
        self._pictures[number, name] = x
        self._pictures.pop((number - 1, name), None)

    def failure(self, name: str) -> str | None:
        return self._failures.get(name)

    def keep_failure(self, name: str, error: str) -> None:
        self._failures[name] = error

    def forget(self, number: int) -> None:
        self._states = {kept: states for kept, states in self._states.items() if kept > number}
        self._pictures = {key: x for key, x in self._pictures.items() if key[0] > number}
