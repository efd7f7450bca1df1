"""The rows of a run as they come: told, counted, and written to the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..pictures.writing import write_text
from ..report import Report
from .manifest import PASSED_OVER, Row
from .selection import Passed

REPORT_EVERY = 5.0  # seconds: the report is one JSON text, written as a whole

Say = Callable[[str], None]


class Journal:
    def __init__(self, report: Path | None, total: int, say: Say, complain: Say) -> None:
        self.report, self.total, self.say, self.complain = report, total, say, complain
        self.rows: dict[str, Row] = {}
        self.troubles = 0
        self.due = 0.0

    @property
    def statuses(self) -> list[str]:
        """One for each picture, and one for each failure beside them."""
        return [row.status for row in self.rows.values()] + ["failed"] * self.troubles

    def add(self, row: Row) -> None:
        """The last row of a picture counts."""
        self.rows[row.input] = row if self.report is not None else replace(row, report=None, facts={})
        if self.report is not None and time.monotonic() >= self.due:
            self._write()
        self.tell(row)

    def failed(self, error: str) -> None:
        self.troubles += 1
        self.complain(error)

    def pass_over(self, passed: list[Passed]) -> None:
        """At the end, where it is seen."""
        tell_passed(passed, self.complain)
        for file in passed:
            row = Row(str(file.path), None, PASSED_OVER, file.reason)
            self.rows.setdefault(row.input, row)

    def close(self) -> None:
        if self.report is not None:
            self._write()

    def _write(self) -> None:
        assert self.report is not None
        rows = [row.for_report() for row in self.rows.values()]
        write_text(self.report, json.dumps(rows, indent=2, ensure_ascii=False))
        self.due = time.monotonic() + REPORT_EVERY

    def tell(self, row: Row) -> None:
        count = f"[{len(self.rows)}/{self.total}] " if self.total > 1 else ""
        if row.status == "failed":
            self.complain(f"{count}{named(row.input, row.error)}")
        elif row.status == "skipped":
            self.say(f"{count}{row.input}: protected already (--force does it again)")
        elif row.report is not None:
            report = Report(**row.report)
            self.say(f"{count}{Path(row.input).name}: {report.words()}")
            self.say(f"  {report.summary()}")
            for notice in row.notices:
                self.say(f"  note: {notice}")
            self.say(f"  -> {row.output}")


def tell_passed(passed: list[Passed], complain: Say) -> None:
    if passed:
        complain(f"{len(passed)} file(s) that look like pictures, or belong to one, were passed over:")
    for file in passed:
        complain(f"  {file.path}: {file.reason}")


def named(path: str, error: str | None) -> str:
    """An error with the path that it is about, said once."""
    return f"{error}" if f" {path}:" in f" {error}" or f" {path} " in f" {error} " else f"{path}: {error}"
