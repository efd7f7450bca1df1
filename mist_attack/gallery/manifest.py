"""What became of every picture: the manifest, and what a killed run leaves behind so that the next one goes on.

OUT/mist-manifest.jsonl   one line per picture, sorted by its result's name (or its own, where it can have no result):
                          nothing in it depends on the order, the clock or on how often a run was interrupted
OUT/.mist/rows/           lines of pictures that are finished but not in the manifest yet
OUT/.mist/begun/          pictures that a run is at, and how often one died there
OUT/.mist/lock            held while a run is at work
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import OutputError
from .storage import Storage

MANIFEST = "mist-manifest"
STATE = ".mist"
MAX_DEATHS = 3
PASSED_OVER = "passed over"
VOLATILE = ("seconds", "settings")  # the first depends on the machine's mood, the second stands beside the report


@dataclass
class Row:
    """What became of one picture."""

    input: str
    output: str | None
    """None where it can have no result: another picture's has the name."""
    status: str = "failed"
    """protected, skipped or failed; in a report also passed over: nothing was to be made of it."""
    error: str | None = None
    report: dict[str, Any] | None = None
    notices: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """More of the manifest's columns: hashes, settings, the environment."""

    def for_report(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "facts"}

    def for_manifest(self, name: str) -> dict[str, Any]:
        report = self.report and {key: value for key, value in self.report.items() if key not in VOLATILE}
        return {**self.for_report(), "output": self.output and name, "report": report, **self.facts}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Manifest:
    """Made by `opened`; names are those of results, relative to the storage's root."""

    def __init__(self, storage: Storage, part: str = "") -> None:
        self.storage, self.part = storage, part
        self.state, self._manifest = f"{STATE}{part}", f"{MANIFEST}{part}.jsonl"
        self._lines = known_lines(storage, part)
        self._finished: dict[str, str] = {}
        marks = [json.loads(storage.read(mark) or b"{}") for mark in storage.names(f"{self.state}/begun")]
        self._deaths = {mark["output"]: int(mark["deaths"]) for mark in marks if mark}

    def done(self, name: str, key: str) -> dict[str, Any] | None:
        """The line of a picture that needs nothing more: its result is there as it was written, or it was given up."""
        line = json.loads(self._lines[name]) if name in self._lines else {}
        if line.get("key") != key:
            return None
        if line["status"] == "failed":
            return line if line.get("deaths") else None
        written = self.storage.read(name)
        return line if written is not None and sha256(written) == line["output_sha256"] else None

    def deaths(self, name: str) -> int:
        """How many workers died at this picture."""
        return self._deaths.get(name, 0)

    def begin(self, name: str, *, counted: bool) -> None:
        """`counted`: a run that does not come back from it died at it."""
        self._mark(name, self.deaths(name) + counted)

    def leave(self, name: str) -> None:
        """Not finished, but nobody died either."""
        if self.deaths(name):
            self._mark(name, self.deaths(name))
        else:
            self.storage.delete(self._begun(name))

    def died(self, name: str) -> int:
        """One more; how many there are now."""
        self._deaths[name] = self.deaths(name) + 1
        self._mark(name, self._deaths[name])
        return self._deaths[name]

    def finish(self, name: str, row: Row) -> None:
        """The result, if any, is in its place; now the line, then the mark goes."""
        line = json.dumps(row.for_manifest(name), ensure_ascii=False)
        self.storage.write(self._row(name), line.encode("utf-8", "backslashreplace"))
        self.storage.delete(self._begun(name))
        if row.status == "protected":
            self._finished[name] = row.input

    def lost(self) -> list[tuple[str, str]]:
        """Name and input of results that somebody took away while the run went on."""
        return [(name, source) for name, source in self._finished.items() if not self.storage.exists(name)]

    def recover(self) -> None:
        """After a run that was killed."""
        rows, marks = f"{self.state}/rows", f"{self.state}/begun"
        self.storage.sweep([*self._deaths, self._manifest], [rows, marks])
        finished = {row.replace(rows, marks) for row in self.storage.names(rows)}
        for mark in finished:  # their lines are written: only the marks had not gone yet
            self.storage.delete(mark)
        self._deaths = {name: count for name, count in self._deaths.items() if self._begun(name) not in finished}
        self.merge()

    def merge(self) -> None:
        """Move finished lines into the manifest."""
        rows = self.storage.names(f"{self.state}/rows")
        if not rows:
            return
        for row in rows:
            text = (self.storage.read(row) or b"").decode("utf-8")
            self._lines[_name_in(json.loads(text))] = text
        text = "".join(f"{line}\n" for _, line in sorted(self._lines.items()))
        self.storage.write(self._manifest, text.encode("utf-8"))
        for row in rows:
            self.storage.delete(row)

    def _mark(self, name: str, deaths: int) -> None:
        self.storage.write(self._begun(name), json.dumps({"output": name, "deaths": deaths}).encode())

    def _row(self, name: str) -> str:
        return f"{self.state}/rows/{_id(name)}.json"

    def _begun(self, name: str) -> str:
        return f"{self.state}/begun/{_id(name)}.json"


class NoManifest(Manifest):
    """Remembers nothing: every picture is new."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def done(self, name: str, key: str) -> dict[str, Any] | None:
        del name, key
        return None

    def deaths(self, name: str) -> int:
        del name
        return 0

    def begin(self, name: str, *, counted: bool) -> None:
        pass

    def leave(self, name: str) -> None:
        pass

    def died(self, name: str) -> int:
        del name
        return MAX_DEATHS

    def finish(self, name: str, row: Row) -> None:
        pass

    def lost(self) -> list[tuple[str, str]]:
        return []

    def merge(self) -> None:
        pass


@contextmanager
def opened(storage: Storage, part: str = "") -> Iterator[Manifest]:
    """The manifest, ours alone, with what a killed run left behind merged."""
    with storage.locked(f"{STATE}{part}"):
        manifest = Manifest(storage, part)
        manifest.recover()
        yield manifest


def is_kept(name: str) -> bool:
    """Whether a name below the root of the results is one of a manifest, or lies where runs keep their state."""
    first = name.partition("/")[0].casefold()
    return first.startswith(STATE) or (first.startswith(MANIFEST) and first.endswith(".jsonl"))


def known_lines(storage: Storage, part: str = "") -> dict[str, str]:
    """Lines by their results' names. A run of everything knows what the runs of its parts have done."""
    names = [name for name in storage.names("") if name.startswith(MANIFEST) and name.endswith(".jsonl")]
    own = f"{MANIFEST}{part}.jsonl"
    chosen = [name for name in names if name != own and not part] + [own]
    return {name: line for manifest in chosen for name, line in _lines_of(storage, manifest)}


def known_results(storage: Storage) -> set[str]:
    """Names of all files that are ours, also of those whose run was killed before it could say so."""
    begun = [name for state in storage.names("") if state.startswith(STATE) for name in storage.names(f"{state}/begun")]
    marked = [json.loads(storage.read(name) or b"{}").get("output", "") for name in begun]
    lines = [json.loads(line) for line in known_lines(storage).values()]
    return {line["output"] for line in lines if line["output"]}.union(marked)


def _lines_of(storage: Storage, manifest: str) -> Iterator[tuple[str, str]]:
    text = (storage.read(manifest) or b"").decode("utf-8", "replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        try:
            yield _name_in(json.loads(line)), line
        except (ValueError, KeyError, TypeError) as error:
            found = f"{storage.shown(manifest)}, line {number}, is not a line that Mist wrote"
            raise OutputError(f"{found}. Move the file away, or choose another --out.") from error


def _name_in(line: dict[str, Any]) -> str:
    return line["output"] or line["input"]


def _id(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
