"""The rows of a run as they come: told, counted, and written to the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..report import Report
from ..saving import write_text
from .ledger import Row

REPORT_EVERY = 5.0  # seconds: the report is one JSON text, written as a whole

Say = Callable[[str], None]


class Journal:
    def __init__(self, report: Path | None, total: int, say: Say, complain: Say) -> None:
        self.report, self.total, self.say, self.complain = report, total, say, complain
        self.statuses: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.due = 0.0

    def add(self, row: Row) -> None:
        self.statuses.append(row.status)
        if self.report is not None:
            self.rows.append(row.for_report())
            if time.monotonic() >= self.due:
                self._write()
        self._tell(row)

    def failed(self, error: str) -> None:
        self.statuses.append("failed")
        self.complain(error)

    def close(self) -> None:
        if self.report is not None:
            self._write()

    def _write(self) -> None:
        assert self.report is not None
        write_text(self.report, json.dumps(self.rows, indent=2, ensure_ascii=False))
        self.due = time.monotonic() + REPORT_EVERY

    def _tell(self, row: Row) -> None:
        count = f"[{len(self.statuses)}/{self.total}] " if self.total > 1 else ""
        if row.status == "failed":
            self.complain(f"{count}{row.input}: {row.error}")
        elif row.status == "skipped":
            self.say(f"{count}{row.input}: protected already (--force does it again)")
        elif row.report is not None:
            self.say(f"{count}{Path(row.input).name}: {Report(**row.report).summary()}")
            for notice in row.notices:
                self.say(f"  note: {notice}")
            self.say(f"  -> {row.output}")
