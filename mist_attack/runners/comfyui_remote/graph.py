"""A graph at work in a ComfyUI: queued, followed over the websocket, and asked for where that dropped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from ...errors import MistError
from .client import Graph, Server, UnreachableError
from .socket import Listener

POLL_SECONDS = 0.5
PATIENCE = 6
"""Questions in a row that a server at work may leave unanswered, each after twice the wait: 16 seconds."""
SHOWN_NODE = "protect"

Entry = dict[str, Any]
"""Of the server's history: a prompt that is done."""
OnProgress = Callable[[int, int], None]
"""Called with the steps done and all steps."""


class CancelledError(MistError):
    """The run was ended."""


def run(
    server: Server, graph: Graph, seconds: float, cancelled: threading.Event, on_progress: OnProgress
) -> dict[str, Any]:
    """Queue and follow; the outputs of the nodes by their names.

    Raises UnreachableError, CancelledError, and MistError with the server's own words or where it takes longer.
    """
    with closing(Listener(server)) as listener:
        listener.open()
        queued = server.post("/prompt", {"prompt": graph, "client_id": listener.client})
        entry = _Prompt(server, listener, queued["prompt_id"], cancelled, on_progress).done_within(seconds)
    if entry["status"]["status_str"] != "success":
        raise MistError(f"{server.url}: {_failure(entry)}")
    return entry["outputs"]


class _Prompt:
    def __init__(
        self, server: Server, listener: Listener, name: str, cancelled: threading.Event, on_progress: OnProgress
    ) -> None:
        self.server, self.listener, self.name = server, listener, name
        self.cancelled, self.on_progress = cancelled, on_progress
        self.started = False
        self.due = math.inf
        """When to ask, in place of messages that may not come."""

    def done_within(self, seconds: float) -> Entry:
        until = time.monotonic() + seconds
        while (entry := self._news()) is None:
            if self.cancelled.is_set():
                self._take_back()
                raise CancelledError("the run was ended")
            if time.monotonic() > until:
                self._take_back()
                raise MistError(f"{self.server.url}: not done after {seconds:g} s. Choose a longer --timeout.")
        return entry

    def _news(self) -> Entry | None:
        """What the next message leads to; None while the prompt waits or runs."""
        try:
            kind, data = self.listener.hear(POLL_SECONDS)
        except UnreachableError:
            return self._after_a_drop()
        if data.get("prompt_id") == self.name:
            self.started = True
            if kind == "progress" and data.get("node") == SHOWN_NODE:
                self._show(data)
        if self._may_be_over(kind, data) or time.monotonic() >= self.due:
            return self._asked()
        return None

    def _may_be_over(self, kind: str, data: dict[str, Any]) -> bool:
        """The end is told when it is in the history. Who is taken out of the queue is not told: it only moves."""
        ended = kind == "executing" and data.get("prompt_id") == self.name and data.get("node") is None
        return ended or (kind == "status" and not self.started)

    def _after_a_drop(self) -> Entry | None:
        """The end may have come meanwhile. From here on we ask as well: a host that notices the drop late forgets the
        new socket together with the old one, and some proxies let none through again."""
        try:
            self.listener.open()
        except UnreachableError:
            self.cancelled.wait(POLL_SECONDS)
        return self._asked(again=True)

    def _asked(self, *, again: bool = False) -> Entry | None:
        """Raises MistError where the server has the prompt no more."""
        if again or self.due < math.inf:
            self.due = time.monotonic() + POLL_SECONDS
        if (entry := self._entry()) or self._is_queued():
            return entry
        if entry := self._entry():  # done between the two questions
            return entry
        raise MistError(
            f"{self.server.url} no longer has the prompt: taken out of the queue there, or the server was restarted."
        )

    def _entry(self) -> Entry | None:
        return self._patiently(f"/history/{self.name}").get(self.name)

    def _is_queued(self) -> bool:
        queue = self._patiently("/queue")
        return any(self.name in entry for entry in [*queue["queue_running"], *queue["queue_pending"]])

    def _patiently(self, path: str) -> Any:
        """What stands in between, a proxy or a network, may fail now and then; the work goes on there."""
        attempt = 0
        while True:
            try:
                return self.server.get(path)
            except UnreachableError:
                if attempt == PATIENCE - 1 or self.cancelled.wait(POLL_SECONDS * 2**attempt):
                    raise
                attempt += 1

    def _show(self, data: dict[str, Any]) -> None:
        with suppress(KeyError, TypeError, ValueError):
            self.on_progress(int(data["value"]), int(data["max"]))

    def _take_back(self) -> None:
        """Take our prompt out of the queue; older hosts interrupt whatever runs, so only if it is ours."""
        with suppress(MistError):
            self.server.post("/queue", {"delete": [self.name]})
            if any(self.name in entry for entry in self.server.get("/queue")["queue_running"]):
                self.server.post("/interrupt", {"prompt_id": self.name})


def _failure(entry: Entry) -> str:
    messages = dict(entry["status"]["messages"])
    if "execution_error" in messages:
        return " ".join(str(messages["execution_error"].get("exception_message", "failed")).split())
    return "the prompt was interrupted there"
