"""Part 5: the tests that take the device as a parameter, on the card: `pytest -m gpu`, of whatever version is here."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from .check import ROOT, Check, Row

TESTS = ROOT / "tests"
TAKES_A_DEVICE = re.compile(r"^def \w+\([^)]*\b(device|place)\b", re.MULTILINE)
"""A test or a fixture; other files may need packages that a machine with a card lacks."""


def rows(check: Check) -> Iterator[Row]:
    files = sorted(path for path in TESTS.glob("test_*.py") if TAKES_A_DEVICE.search(path.read_text(encoding="utf-8")))
    if not files:
        yield {"what": "tests", "error": f"nothing in {TESTS}: the tests come with a clone of the repository"}
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "--device", str(check.device), f"--junitxml={report}"]
        try:
            done = subprocess.run(
                [*command, "-p", "no:cacheprovider", *map(str, files)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=max(1.0, check.seconds_left()),
            )
        except subprocess.TimeoutExpired:
            yield {"what": "tests", "error": "not done in time"}
            return
        if report.is_file():
            yield from _read(report)
        else:
            yield {"what": "tests", "error": " ".join((done.stdout + done.stderr).split())[-300:]}


def _read(report: Path) -> Iterator[Row]:
    """How many passed, those that did not, and for which reasons some were left out."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    skipped = Counter(_message(case.find("skipped")) for case in cases if case.find("skipped") is not None)
    wrong = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    yield {"what": "passed", "tests": len(cases) - len(wrong) - sum(skipped.values())}
    for case in wrong:
        found = case.find("failure")
        found = case.find("error") if found is None else found
        yield {"what": f"{case.get('classname')}::{case.get('name')}", "error": _message(found)}
    for reason, number in skipped.items():
        yield {"what": f"left out: {reason}", "tests": number}


def _message(element: ElementTree.Element | None) -> str:
    return " ".join((element.get("message") or "").split())[:200] if element is not None else ""
