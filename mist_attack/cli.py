"""The headless command: `mist protect`, `mist info`, `mist bench`.

Exit codes: 0, 1 nothing done, 2 some failed, 130 interrupted.
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
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from . import __version__
from .errors import MistError, OutputError, SettingsError, quoted
from .flags import THEIRS, parser, theirs

if TYPE_CHECKING:
    from .gallery.order import Order, Policy

__all__ = ["THEIRS", "main"]

DONE, NOTHING_DONE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 130
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
    except OSError as error:  # a name that is too long, a disk that is gone
        _complain(f"{quoted(error.filename)}: {error.strerror or type(error).__name__}. Choose another name or folder.")
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
    say = _silent if options.quiet else _say
    order, policy = _request(options)
    _require_spared(order, options)
    _require_writable(order, options.report)
    if order.lossy_quality is not None:
        _complain(JPEG_WARNING)
    if options.dry_run:
        return _dry_run(options, order, policy)
    from . import batch
    from .engines import choice

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


def _require_spared(order: Order, options: argparse.Namespace) -> None:
    """Nothing that is read may be written to."""
    from .own_flags import target_file

    beside = {path for work in order.works for path in (work.mask, work.prompt)}
    read = {work.source for work in order.works} | beside | {order.mask, options.config, target_file(options.target)}
    spared = {os.path.realpath(path) for path in read if path is not None}
    for path in {work.output for work in order.works} | {options.report}:
        if path is not None and os.path.realpath(path) in spared:
            raise SettingsError(f"{path} is an input, and inputs are never overwritten. Choose another name.")


def _require_writable(order: Order, report: Path | None) -> None:
    from .gallery.storage import Folder

    written = {work.output.parent for work in order.works} if isinstance(order.storage, Folder) else set()
    for path in written | ({report.parent} if report else set()):
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise OutputError(f"{existing} is a file, and results need a folder. Choose another --out.")
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{existing} cannot be written to. Choose another folder.")


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
    estimate.tell(order, policy, load, options.workers or 1, say)
    return DONE


def _exit_code(statuses: list[str]) -> int:
    failed = statuses.count("failed")
    if not failed:
        return DONE
    return NOTHING_DONE if failed == len(statuses) else SOME_FAILED


def _info(options: argparse.Namespace) -> int:
    import torch

    from .hosts import diffusers
    from .hosts.checkpoints import find_checkpoint
    from .settings import preset_descriptions
    from .targets import target_names

    print(f"mist {__version__}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    print(f"device: {diffusers.pick_device()}")
    try:
        path = find_checkpoint(options.checkpoint)
        print(f"checkpoint: {diffusers.load(path).name}, from {path}")
    except MistError as error:
        print(f"checkpoint: {error}")
    for name, about in preset_descriptions().items():
        print(f"preset {name}: {about}")
    print(f"targets: {', '.join(target_names())}, or a picture")
    return DONE


def _bench(options: argparse.Namespace) -> int:
    import torch

    from .bench import command
    from .hosts import diffusers

    if options.rounds < 2:
        raise SettingsError(f"Expected --rounds of at least 2, for an interval; got {options.rounds}.")
    if options.threads:
        torch.set_num_threads(options.threads)
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
