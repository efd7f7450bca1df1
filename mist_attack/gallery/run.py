"""Files in, protected files out, by whatever runner: skip what is done, try again, record a row for each."""

from __future__ import annotations

import random
from collections import deque
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from ..errors import MistError, OutputError
from ..runners.protocol import Runner
from .journal import Journal, Say
from .ledger import Ledger
from .manifest import MAX_DEATHS, Manifest, NoManifest, opened
from .naming import Work
from .request import Policy, Request, name_of, task_for
from .task import Outcome, Result


def run(
    request: Request,
    runner: Runner,
    policy: Policy = Policy(),  # noqa: B008  # frozen
    *,
    report: Path | None = None,
    say: Say,
    complain: Say,
) -> list[str]:
    """Protect everything; the status of each picture, and of each file that was passed over. A picture that fails is
    recorded and the others go on.

    What would be the same for every picture stops the run. An interruption keeps what is finished, with its rows.
    CheckpointError and DeviceError for the model, and OutputError for the report itself or
    while another run is at work in the same place, pass through.
    """

    def work() -> list[str]:
        with _manifest(request) as manifest, closing(runner):
            return _Run(request, runner, policy, manifest, report, say, complain).go()

    return runner.alongside(work)


def _manifest(request: Request) -> AbstractContextManager[Manifest]:
    return opened(request.storage, request.part) if request.remembers else nullcontext(NoManifest(request.storage))


class _Run:
    def __init__(
        self,
        request: Request,
        runner: Runner,
        policy: Policy,
        manifest: Manifest,
        report: Path | None,
        say: Say,
        complain: Say,
    ) -> None:
        self.request, self.runner, self.policy, self.manifest = request, runner, policy, manifest
        self.journal = Journal(report, len(request.works), say, complain)
        self.ledger = Ledger(request, manifest, self.journal)
        self.queue = deque(self._ordered())
        self.flying: dict[str, tuple[Work, dict[str, Any]]] = {}
        self.tries: dict[str, int] = {}
        self.begun = 0
        self.stopped = False

    def go(self) -> list[str]:
        try:
            while self._fill():
                if outcome := self.runner.wait():
                    self._settle(outcome)
        finally:
            self._wind_up()
        return self.journal.statuses

    def _ordered(self) -> list[Work]:
        """Pictures at which a worker died come last, so that they hold nothing up."""
        works = list(self.request.works)
        if self.policy.shuffle:
            random.Random(self.request.settings.seed).shuffle(works)
        return sorted(works, key=lambda work: self.manifest.deaths(name_of(self.request, work)))

    def _fill(self) -> bool:
        """Give the runner what it has room for; is anything left to wait for?"""
        while self.queue and self.runner.has_room and not self.stopped and self._may_start():
            self._start(self.queue.popleft())
        return bool(self.flying) or (bool(self.queue) and not self.stopped)

    def _may_start(self) -> bool:
        """In this process a picture at which it died goes alone, so that the next death is known to be its own; and
        nothing follows a picture whose failure would be the last."""
        if not (self.flying and self.runner.dies_with_its_worker):
            return True
        names = [*self.flying, name_of(self.request, self.queue[0])]
        return not self.policy.fail_fast and not any(map(self.manifest.deaths, names))

    def _start(self, work: Work) -> None:
        name, facts = name_of(self.request, work), {}
        try:
            task, facts = task_for(self.request, work)
            if not self.policy.force:
                if line := self.manifest.done(name, facts["key"]):
                    return self.ledger.skip(work, line)
                if self.manifest.deaths(name) >= MAX_DEATHS:
                    return self._give_up(work, facts)
            if self.begun == self.policy.limit:
                self.queue.clear()
                return None
            self.request.storage.require_room(len(task.data))
            self.manifest.begin(name, counted=self.runner.dies_with_its_worker)
        except MistError as error:
            return self._fail(work, facts, str(error))
        self.begun += name not in self.tries
        self.tries[name] = self.tries.get(name, 0) + 1
        self.flying[name] = work, facts
        self.runner.submit(task)

    def _settle(self, outcome: Outcome) -> None:
        name = outcome.task.name
        work, facts = self.flying.pop(name)
        if outcome.result is not None:
            self._keep(work, facts, outcome.result)
        elif outcome.died:
            if self.manifest.died(name) < MAX_DEATHS:
                self.queue.append(work)
            else:
                self._give_up(work, facts, outcome.error)
        elif outcome.elsewhere:
            self.manifest.leave(name)
            self.queue.appendleft(work)
        elif outcome.again and self.tries[name] <= self.policy.retries:
            self.manifest.leave(name)
            self.queue.append(work)
        else:
            self._fail(work, facts, outcome.error or "failed")
            if outcome.fatal:
                self._stop()

    def _stop(self) -> None:
        self.stopped = True
        for task in self.runner.withdraw():
            self.queue.append(self.flying.pop(task.name)[0])
            self.manifest.leave(task.name)
        if self.queue:
            self.journal.complain(
                f"stopped: the other {len(self.queue)} would fail in the same way, and were not tried."
            )
            self.queue.clear()

    def _keep(self, work: Work, facts: dict[str, Any], result: Result) -> None:
        name = name_of(self.request, work)
        try:
            self.request.storage.write(name, result.data)
        except OutputError as error:
            return self._fail(work, facts, str(error))
        self.ledger.keep(work, facts, result)

    def _fail(self, work: Work, facts: dict[str, Any], error: str) -> None:
        self.ledger.fail(work, facts, error)
        self.stopped |= self.policy.fail_fast

    def _give_up(self, work: Work, facts: dict[str, Any], error: str | None = None) -> None:
        why = f" ({error})" if error else ""
        message = f"{work.source}: its worker died {MAX_DEATHS} times{why}. It is left out; --force tries it again."
        self._fail(work, {**facts, "deaths": MAX_DEATHS}, message)

    def _wind_up(self) -> None:
        """On every exit: nothing in the air counts as done or as dead, and the manifest is whole."""
        try:
            for name in self.flying:
                self.manifest.leave(name)
            for name, source in self.manifest.lost():
                self.ledger.lose(name, source)
            self.manifest.merge()
        except OutputError as error:
            self.journal.failed(str(error))
        self.ledger.close()
