"""Files of one style in, protected files out: together, and so that a run that was killed goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ..attack import Protected
from ..errors import MistError, OutputError, PictureError, quoted
from ..sets.alternation import Member, OnSetStep, SetProtection
from ..sets.learning import State
from ..sets.settings import SetSettings, of_set, require_possible
from .journal import Journal, Say
from .ledger import Ledger
from .manifest import STATE, Manifest, opened, sha256
from .naming import Work
from .request import Request, name_of, task_for
from .storage import Storage
from .task import Computed, Model, Task, environment, filing, ready
from .task import opened as opened_picture

SHOWN = 3
"""Names of pictures without a caption."""


@dataclass(frozen=True)
class Entry:
    """A picture that can be read."""

    work: Work
    facts: dict[str, Any]
    height: int
    width: int
    prompt: str


class OnDisk:
    """`mist_attack.sets.keeping.Keep` in OUT/.mist/sets/KEY/: a file for the LoRA of a round, and one for each picture
    that the round has changed; those of the round before go when it is over."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.storage, self.folder = storage, f"{STATE}/sets/{key[:32]}"
        self.storage.sweep([], [self.folder])

    def latest(self) -> int:
        return max(self._rounds("lora"), default=0)

    def states(self, number: int) -> list[State] | None:
        found = self._read(f"lora-{number}")
        if found is None:
            return None
        places = sorted(tuple(map(int, name.split("-"))) for name in found)
        return [[found[f"{n}-{part}"] for n, part in state] for _, state in groupby(places, itemgetter(0))]

    def keep_states(self, number: int, states: list[State]) -> None:
        tensors = {f"{n}-{part}": weight for n, state in enumerate(states) for part, weight in enumerate(state)}
        self._write(f"lora-{number}", tensors)

    def picture(self, number: int, name: str) -> Tensor | None:
        found = self._read(_of(number, name))
        return None if found is None else found["x"]

    def keep_picture(self, number: int, name: str, x: Tensor) -> None:
        self._write(_of(number, name), {"x": x.contiguous()})

    def failure(self, name: str) -> str | None:
        found = self.storage.read(f"{self.folder}/failed-{_id(name)}")
        return None if found is None else found.decode("utf-8")

    def keep_failure(self, name: str, error: str) -> None:
        with suppress(OutputError):  # it may have failed for want of room
            self.storage.write(f"{self.folder}/failed-{_id(name)}", error.encode("utf-8", "backslashreplace"))

    def forget(self, number: int) -> None:
        for kind in ("picture", "lora"):  # the LoRA's last: by it a round is known
            for kept in sorted(self._rounds(kind)):
                if kept <= number:
                    self._delete(f"{kind}-{kept}")

    def clear(self) -> None:
        for name in self.storage.names(self.folder):
            self.storage.delete(name)

    def clear_others(self) -> None:
        """Of sets that were never finished here."""
        for folder in self.storage.names(f"{STATE}/sets"):
            if folder != self.folder:
                for name in self.storage.names(folder):
                    self.storage.delete(name)

    def _rounds(self, kind: str) -> set[int]:
        names = [name.rpartition("/")[2].split("-") for name in self.storage.names(self.folder)]
        return {int(parts[1]) for parts in names if parts[0] == kind}

    def _delete(self, start: str) -> None:
        for name in self.storage.names(self.folder):
            if name == f"{self.folder}/{start}" or name.startswith(f"{self.folder}/{start}-"):
                self.storage.delete(name)

    def _read(self, name: str) -> dict[str, Tensor] | None:
        data = self.storage.read(f"{self.folder}/{name}")
        return None if data is None else load(data)

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        data = save(tensors)
        self.storage.require_room(len(data))
        self.storage.write(f"{self.folder}/{name}", data)


def _of(number: int, name: str) -> str:
    return f"picture-{number}-{_id(name)}"


def _id(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def run(
    request: Request,
    chosen: SetSettings,
    loading: Callable[[], Model],
    journal: Journal,
    *,
    force: bool = False,
    on_step: OnSetStep,
    say: Say,
) -> list[str]:
    """Protect the pictures as one set; the status of each, and of each file that was passed over.

    A picture that fails is recorded, and the others go on. An interruption keeps the rounds that are done; where
    `on_step` raises Stop, the pictures are also written as they are by then, and the next run goes on all the same.
    Raises SettingsError for what is no set, CheckpointError and DeviceError for the model, OutputError while another
    run is at work in the same place, and what stopped it where nothing was reached."""
    with opened(request.storage) as manifest:
        return _SetRun(request, chosen, manifest, journal, say).go(loading, on_step, force=force)


class _SetRun:
    def __init__(self, request: Request, chosen: SetSettings, manifest: Manifest, journal: Journal, say: Say) -> None:
        self.request = request = replace(request, settings=of_set(request.settings, chosen))
        self.chosen, self.manifest, self.journal, self.say = chosen, manifest, journal, say
        self.ledger = Ledger(request, manifest, journal)
        self.entries: dict[str, Entry] = {}

    def go(self, loading: Callable[[], Model], on_step: OnSetStep, *, force: bool) -> list[str]:
        try:
            for work in self.request.works:
                self._open(work)
            require_possible(self.request.settings, self.chosen, len(self.entries))
            keep = OnDisk(self.request.storage, self._key())
            keep.clear_others()
            if force:
                keep.clear()
            stopped = (force or not self._is_done()) and self._protect(keep, loading, on_step)
            if not stopped:
                keep.clear()
        finally:
            self._wind_up()
        return self.journal.statuses

    def _open(self, work: Work) -> None:
        """Once, before the model: what cannot be read, or written, is left out."""
        facts: dict[str, Any] = {}
        try:
            task, facts = task_for(self.request, work)
            height, width = ready(task)[0].images.shape[2:]
        except MistError as error:
            return self.ledger.fail(work, facts, str(error))
        self.entries[name_of(self.request, work)] = Entry(work, facts, height, width, task.settings.prompt)

    def _key(self) -> str:
        """Of the set, which every picture's result depends on."""
        told = [[name, entry.facts["key"]] for name, entry in self.entries.items()]
        key = sha256(json.dumps([told, self.chosen.as_dict()], sort_keys=True).encode())
        about = {"pictures": len(told), "key": key, **self.chosen.as_dict()}
        for name, entry in self.entries.items():
            own = sha256(f"{key} {entry.facts['key']}".encode())
            self.entries[name] = replace(entry, facts={**entry.facts, "set": about, "key": own})
        return key

    def _is_done(self) -> bool:
        lines = {name: self.manifest.done(name, entry.facts["key"]) for name, entry in self.entries.items()}
        if not all(lines.values()):
            return False
        for name, line in lines.items():
            assert line is not None
            self.ledger.skip(self.entries[name].work, line)
        return True

    def _protect(self, keep: OnDisk, loading: Callable[[], Model], on_step: OnSetStep) -> bool:
        """Whether it was stopped."""
        self._tell(keep)
        model = loading()
        protection = SetProtection(
            [self._member(name, entry) for name, entry in self.entries.items()],
            model.surrogate,
            self.request.settings,
            self.chosen,
            target=model.target,
            keep=keep,
            on_step=on_step,
            on_failure=lambda member, error: self._failed(member.name, error),
        )
        for member, protected in protection.run():
            self._keep(self.entries[member.name], member.name, protected, model)
        return protection.stopped

    def _tell(self, keep: OnDisk) -> None:
        lone = [entry.work.source.name for entry in self.entries.values() if entry.work.prompt is None]
        if lone:
            names = ", ".join(lone[:SHOWN]) + (" ..." if len(lone) > SHOWN else "")
            usual = quoted(self.request.settings.prompt)
            self.say(f"no caption (STEM.prompt.txt) beside {len(lone)} of {len(self.entries)}, so {usual}: {names}")
        if begun := keep.latest():
            self.say(f"going on in round {begun + 1} of {self.chosen.rounds}")

    def _member(self, name: str, entry: Entry) -> Member:
        return Member(name, entry.height, entry.width, self._reading(name), entry.prompt)

    def _reading(self, name: str) -> Callable[[], tuple[Tensor, Tensor | None]]:
        def read() -> tuple[Tensor, Tensor | None]:
            picture, _, mask, _ = opened_picture(self._task(name))
            return picture.images, mask

        return read

    def _task(self, name: str) -> Task:
        """Read anew: the files of a set are not all in memory. Raises PictureError where they are others by now."""
        entry = self.entries[name]
        task, facts = task_for(self.request, entry.work)
        if any(facts[part] != entry.facts[part] for part in ("source_sha256", "mask_sha256", "settings")):
            raise PictureError(f"{entry.work.source}: it, its mask or its caption was changed while the run went on")
        return task

    def _keep(self, entry: Entry, name: str, protected: Protected, model: Model) -> None:
        try:
            task = self._task(name)
            found, where = opened_picture(task), environment(model.surrogate)
            outcome = filing(Computed(task, found, protected.images, protected.reports[0], where))
            if outcome.result is None:
                return self.ledger.fail(entry.work, entry.facts, outcome.error or "failed")
            self.manifest.begin(name, counted=False)
            self.request.storage.write(name, outcome.result.data)
        except MistError as error:
            return self.ledger.fail(entry.work, entry.facts, str(error))
        undone = {"key": None} if protected.reports[0].stopped else {}  # the next run goes on with it
        self.ledger.keep(entry.work, entry.facts | undone, outcome.result)

    def _failed(self, name: str, error: str) -> None:
        self.ledger.fail(self.entries[name].work, self.entries[name].facts, error)

    def _wind_up(self) -> None:
        try:
            self.manifest.merge()
        except OutputError as error:
            self.journal.failed(str(error))
        self.ledger.close()
