"""What became of each picture: a row in the manifest, by which the next run knows it, and one in the journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import OutputError
from .journal import Journal
from .manifest import Manifest, Row, sha256
from .naming import Work
from .request import Request, name_of
from .task import Result


class Ledger:
    def __init__(self, request: Request, manifest: Manifest, journal: Journal) -> None:
        self.request, self.manifest, self.journal = request, manifest, journal

    def keep(self, work: Work, facts: dict[str, Any], result: Result) -> None:
        """Its bytes are written already."""
        facts = {**facts, "output_sha256": sha256(result.data), **result.environment}
        self._finish(work, Row(*self._names(work), "protected", None, result.report, result.notices, facts))

    def fail(self, work: Work, facts: dict[str, Any], error: str) -> None:
        self._finish(work, Row(*self._names(work), error=error, facts=facts))

    def skip(self, work: Work, line: dict[str, Any]) -> None:
        """line: the manifest's of an earlier run."""
        if line["status"] == "failed":
            self.journal.add(Row(*self._names(work), "failed", line["error"]))
            return
        report = {**line["report"], "settings": line["settings"]}
        self.journal.add(Row(*self._names(work), "skipped", None, report, line["notices"]))

    def lose(self, name: str, source: str) -> None:
        """Its result, under `name`, went while the run was at work."""
        error = "its result was removed while the run went on; run it again"
        self._record(name, Row(source, self.request.storage.shown(name), error=error))

    def close(self) -> None:
        self.journal.pass_over(self.request.passed)
        self.journal.close()

    def _finish(self, work: Work, row: Row) -> None:
        self._record(name_of(self.request, work), row)

    def _record(self, name: str, row: Row) -> None:
        try:
            self.manifest.finish(name, row)
        except OutputError as error:  # the picture is there, but the next run will not know
            row = replace(row, status="failed", error=str(error), report=None)
        self.journal.add(row)

    def _names(self, work: Work) -> tuple[str, str | None]:
        name = name_of(self.request, work)
        return str(work.source), None if work.refused else self.request.storage.shown(name)
