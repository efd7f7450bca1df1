"""The headless command: `mist protect`, `mist info`, `mist bench`.

Exit codes: see flags.EXIT_CODES.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from . import __version__
from .errors import MistError, SettingsError
from .flags import THEIRS, parser, theirs

if TYPE_CHECKING:
    from .gallery.order import Order, Policy

__all__ = ["THEIRS", "main"]

DONE, NOTHING_DONE, SOME_FAILED, SOME_PASSED_OVER, INTERRUPTED = 0, 1, 2, 3, 130
_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
JPEG_WARNING = "JPEG is lossy: it weakens the protection, and the budget is not promised. PNG keeps both."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; never raises for what a user can cause."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _heed_signals()
    whole, protect, info, bench = parser()
    protect.set_defaults(command=_protect)
    info.set_defaults(command=_info)
    bench.set_defaults(command=_bench)
    try:
        options = whole.parse_args(argv)
        return options.command(options)
    except MistError as error:
        _complain(str(error))
        return NOTHING_DONE
    except KeyboardInterrupt:
        return _interrupted()
    except Exception:
        if not _told_to_end():
            raise
        return _interrupted()  # a library that is cut short may say so in words of its own


def _interrupted() -> int:
    _complain("interrupted; finished pictures are kept.")
    return INTERRUPTED


def _told_to_end() -> bool:
    return any(signal.getsignal(ending) is signal.SIG_IGN for ending in _ENDINGS)


def _heed_signals() -> None:
    """A machine that is taken back, or a closed terminal, ends the run as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *_ENDINGS):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: a container's init and its script both tell us, and winding up is not to be cut short by the second."""
    del number, frame
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise KeyboardInterrupt


def _protect(options: argparse.Namespace) -> int:
    from . import places
    from .engines import choice

    say = _silent if options.quiet else _say
    choice.require_meant(options)
    order, policy = _request(options)
    places.check(order, options)
    if order.lossy_quality is not None:
        _complain(JPEG_WARNING)
    if options.dry_run:
        return _dry_run(options, order, policy)
    from . import batch

    engine = choice.engine_for(options, order, say, _complain)
    order = replace(order, model_key=choice.model_key(options))
    return _exit_code(batch.run(order, engine, policy, report=options.report, say=say, complain=_complain))


def _request(options: argparse.Namespace) -> tuple[Order, Policy]:
    if theirs(options):
        from . import mist_flags
        from .gallery.order import Policy

        return mist_flags.order_for(options), Policy()
    from . import own_flags

    return own_flags.order_for(options), own_flags.policy_for(options)


def _dry_run(options: argparse.Namespace, order: Order, policy: Policy) -> int:
    from .engines import choice
    from .gallery import estimate

    say = _silent if options.quiet else _say
    try:
        order = replace(order, model_key=choice.model_key(options))
        load = None if options.engine == "comfyui" else choice.loader(options, order, _silent, _complain)
    except MistError as error:
        _complain(f"no estimate of time and memory: {error}")
        load = None
    return _exit_code(estimate.tell(order, policy, load, options.workers or 1, say, _complain))


def _exit_code(statuses: list[str]) -> int:
    from .gallery.ledger import PASSED_OVER

    failed, passed_over = statuses.count("failed"), statuses.count(PASSED_OVER)
    if not failed:
        return SOME_PASSED_OVER if passed_over else DONE
    return NOTHING_DONE if failed + passed_over == len(statuses) else SOME_FAILED


def _info(options: argparse.Namespace) -> int:
    import torch

    from .hosts import diffusers
    from .hosts.checkpoints import ENVIRONMENT, find_checkpoint
    from .settings import preset_descriptions
    from .targets import target_names

    print(f"mist {__version__}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    print(f"device: {diffusers.pick_device()}")
    asked = options.checkpoint or os.environ.get(ENVIRONMENT)
    status = DONE
    try:
        path = find_checkpoint(options.checkpoint)
        print(f"checkpoint: {diffusers.load(path).name}, from {path}")
    except MistError as error:
        print(f"checkpoint: {'cannot be used' if asked else error}")
        if asked:
            _complain(str(error))
            status = NOTHING_DONE
    for name, about in preset_descriptions().items():
        print(f"preset {name}: {about}")
    print(f"targets: {', '.join(target_names())}, or a picture")
    return status


def _bench(options: argparse.Namespace) -> int:
    import torch

    from .bench import command
    from .engines import choice
    from .gallery import paths
    from .hosts import diffusers

    if options.rounds < 2:
        raise SettingsError(f"Expected --rounds of at least 2, for an interval; got {options.rounds}.")
    paths.require_file(options.out, "the figures")
    paths.require_report(options.out, b"{")
    if options.threads is not None and options.threads < 1:
        raise SettingsError(f"Expected --threads of at least 1; got {options.threads}.")
    choice.set_threads(options.threads, _complain)
    device, dtype = diffusers.pick_device(options.device), getattr(torch, options.dtype)
    command.run(device, dtype, options.rounds, options.out, options.only or list(command.PARTS))
    print(f"all figures: {options.out}")
    return DONE


def _silent(line: str) -> None:
    del line


def _say(line: str) -> None:
    _print(line, sys.stdout)


def _complain(line: str) -> None:
    _print(f"mist: {line}", sys.stderr)


def _print(line: str, file: TextIO) -> None:
    """Above the bars of pictures that are at work meanwhile."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file):
        print(_on_one_line(line), file=file, flush=True)


def _on_one_line(line: str) -> str:
    """Names of files may hold line feeds and a terminal's commands."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], line)
