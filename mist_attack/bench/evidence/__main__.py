"""`python -m mist_attack.bench.evidence [--images FOLDER] [--real FOLDER] [--out evidence]`: an hour on two cores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import MistError
from .. import judges
from ..asked import Asked, Say
from ..machines import machine
from . import collecting
from .page import page

PARTS = {"textural": collecting.textural, "fused": collecting.semantic, "mimicry": collecting.imitation}
BY_NAME = {"large": collecting.large}
"""A quarter of an hour more, measured where it is asked for."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        asked = Asked(device=torch.device("cpu"), real=judges.real_folder(options.real), pictures=options.images)
        measure(asked, options.out, options.only, partial(print, flush=True))
    except MistError as error:
        raise SystemExit(str(error)) from error


def measure(asked: Asked, out: Path, parts: Sequence[str], say: Say) -> dict[str, Any]:
    """results.json and index.html in `out`, written after each model; what an earlier run measured stays."""
    file = out / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for found in chain.from_iterable((PARTS | BY_NAME)[name](asked, say) for name in parts):
        results |= found
        results["about"] = _about(asked, results)
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (out / "index.html").write_text(page(results), encoding="utf-8")
    return results


def _about(asked: Asked, results: dict[str, Any]) -> dict[str, Any]:
    lacks = [name for name in PARTS if not any(collecting.MARKS[name] in key for key in results)]
    if asked.real is None:
        lacks.append(judges.NOT_MEASURED)
    facts = machine(asked.device, asked.dtype)
    pictures = collecting.picture_count(asked)
    return {"mist": __version__, **facts, "pictures": pictures, "side": asked.side, "not_measured": lacks}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mist_attack.bench.evidence", description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of pictures, a sub-folder for each kind")
    parser.add_argument("--real", type=Path, help=f"the folder of a real autoencoder (or {judges.ENVIRONMENT})")
    parser.add_argument("--out", type=Path, default=Path("evidence"), help="default: evidence")
    parts = f"default: {', '.join(PARTS)}, not {', '.join(BY_NAME)}"
    parser.add_argument("--only", nargs="+", choices=PARTS | BY_NAME, default=list(PARTS), help=parts)
    return parser


if __name__ == "__main__":
    main()
