"""The headless command: `mist protect`, `mist protect-set`, `mist evaluate`, `mist info`, `mist doctor`, `mist bench`.

Exit codes: see flags.EXIT_CODES.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..ending import heed_signals, told_to_end
from ..errors import DeviceError, MistError, SettingsError, quoted
from ..importing import uncollected
from .flags import BENCH_PARTS, GPU_PARTS, NAMED_PARTS, THEIRS, parser, theirs

if TYPE_CHECKING:
    import torch

    from ..bench.asked import Asked
    from ..gallery.journal import Say
    from ..gallery.request import Policy, Request
    from ..runners.choice import RunnerOptions

__all__ = ["THEIRS", "main"]

DONE, NOTHING_DONE, SOME_FAILED, SOME_PASSED_OVER, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; never raises for what a user can cause."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    heed_signals()
    whole, protect, protect_set, evaluate, info, doctor, bench = parser()
    protect.set_defaults(command=_protect)
    protect_set.set_defaults(command=_protect_set)
    evaluate.set_defaults(command=_evaluate)
    info.set_defaults(command=_info)
    doctor.set_defaults(command=_doctor)
    bench.set_defaults(command=_bench)
    try:
        options = whole.parse_args(argv)
        _require_torch()
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
        if not told_to_end():
            raise
        return _interrupted()  # a library that is cut short may say so in words of its own


def _require_torch() -> None:
    try:
        with uncollected():
            import torch  # noqa: F401
    except (ImportError, OSError) as error:  # libraries of CUDA that are missing, or of another version
        detail = " ".join(str(error).split())
        raise DeviceError(f"torch cannot be imported ({detail}). Install it again: see https://pytorch.org") from error


def _interrupted() -> int:
    _complain("interrupted; files that were finished are kept.")
    return INTERRUPTED


def _protect(options: argparse.Namespace) -> int:
    from ..runners import choice
    from . import native, places
    from .computing import runner_options

    say = _silent if options.quiet else _say
    computing = runner_options(options)
    request, policy = _request(options)
    places.check(request, options)
    if request.lossy_quality is not None:
        _complain(native.JPEG_WARNING)
    if options.dry_run:
        return _dry_run(computing, request, policy, say)
    from ..gallery import run

    runner = choice.runner_for(computing, request, say, _complain)
    request = replace(request, model_key=choice.model_key(computing))
    return _exit_code(run.run(request, runner, policy, report=options.report, say=say, complain=_complain))


def _protect_set(options: argparse.Namespace) -> int:
    from . import protect_set

    return _exit_code(protect_set.run(options, _silent if options.quiet else _say, _complain))


def _request(options: argparse.Namespace) -> tuple[Request, Policy]:
    if theirs(options):
        from ..gallery.request import Policy
        from . import mist_v1

        return mist_v1.request_for(options), Policy()
    from . import native

    return native.request_for(options), native.policy_for(options)


def _dry_run(computing: RunnerOptions, request: Request, policy: Policy, say: Say) -> int:
    from ..gallery import estimate
    from ..runners import choice
    from ..runners.comfyui_remote.options import RemoteOptions
    from ..runners.here import loader

    load = None
    try:
        request = replace(request, model_key=choice.model_key(computing))
        if not isinstance(computing, RemoteOptions):
            load = loader(computing.model, request.target, _silent, _complain)
    except MistError as error:
        _complain(f"no estimate of time and memory: {error}")
    workers = getattr(computing, "workers", None) or 1
    return _exit_code(estimate.tell(request, policy, load, workers, say, _complain))


def _exit_code(statuses: list[str]) -> int:
    from ..gallery.manifest import PASSED_OVER

    failed, passed_over = statuses.count("failed"), statuses.count(PASSED_OVER)
    if not failed:
        return SOME_PASSED_OVER if passed_over else DONE
    return NOTHING_DONE if failed + passed_over == len(statuses) else SOME_FAILED


def _evaluate(options: argparse.Namespace) -> int:
    from . import evaluate

    return _exit_code(evaluate.run(options, _silent if options.quiet else _say, _complain))


def _info(options: argparse.Namespace) -> int:
    from ..hosts.headless import choice
    from ..hosts.headless.checkpoints import ENVIRONMENT, find_checkpoint
    from ..settings import preset_descriptions
    from ..targets import target_names

    _examine(None)
    asked = options.checkpoint or os.environ.get(ENVIRONMENT)
    status = DONE
    try:
        path = find_checkpoint(options.checkpoint)
        print(f"checkpoint: {choice.load(path).name}, from {path}")
    except MistError as error:
        print(f"checkpoint: {'cannot be used' if asked else error}")
        if asked:
            _complain(str(error))
            status = NOTHING_DONE
    for name, about in preset_descriptions().items():
        print(f"preset {name}: {about}")
    print(f"targets: {', '.join(target_names())}, or a picture")
    return status


def _doctor(options: argparse.Namespace) -> int:
    return DONE if _examine(options.device) else NOTHING_DONE


def _examine(device: str | None) -> bool:
    from ..devices import doctor

    for line in doctor.machine():
        _say(line)
    works = False
    for told in doctor.examine(device):
        _say(f"device: {told}" if isinstance(told, doctor.Verdict) else str(told))
        works = isinstance(told, doctor.Verdict) and told.works
    return works


def _bench(options: argparse.Namespace) -> int:
    from ..bench import command
    from ..hosts.headless import diffusers
    from ..runners.model import set_threads

    if options.rounds < 2:
        raise SettingsError(f"Expected --rounds of at least 2, for an interval; got {options.rounds}.")
    if options.threads is not None and options.threads < 1:
        raise SettingsError(f"Expected --threads of at least 1; got {options.threads}.")
    set_threads(options.threads, _complain)
    _require_parts(options)
    device = diffusers.pick_device(options.device)
    if options.gpu:
        return _bench_gpu(options, device)
    out = _for_figures(options.out or Path("bench/results.json"))
    command.run(
        _asked_of_the_bench(options, device),
        out,
        options.only or [name for name in BENCH_PARTS if name not in NAMED_PARTS],
    )
    print(f"all figures: {out}")
    return DONE


def _asked_of_the_bench(options: argparse.Namespace, device: torch.device) -> Asked:
    import torch

    from ..bench import judges
    from ..bench.asked import Asked

    if options.each < 1:
        raise SettingsError(f"Expected --each of at least 1; got {options.each}.")
    return Asked(
        device=device,
        dtype=getattr(torch, options.dtype or "float32"),
        rounds=options.rounds,
        real=judges.real_folder(options.real),
        pictures=options.pictures,
        each=options.each,
        side=options.side,
    )


def _for_figures(out: Path) -> Path:
    from ..gallery import paths

    paths.require_file(out, "the figures")
    paths.require_report(out, b"{")
    return out


def _require_parts(options: argparse.Namespace) -> None:
    known = GPU_PARTS if options.gpu else BENCH_PARTS
    if foreign := [part for part in options.only or () if part not in known]:
        kind = "--gpu has" if options.gpu else "without --gpu there are"
        raise SettingsError(f"Expected --only with parts that {kind} ({', '.join(known)}); got {', '.join(foreign)}.")


def _bench_gpu(options: argparse.Namespace, device: torch.device) -> int:
    import torch

    from ..bench.gpu import command

    on_cpu = device.type == "cpu"
    dtype = getattr(torch, options.dtype or ("float32" if on_cpu else "float16"))
    out = _for_figures(options.out or command.default_out(device))
    parts = options.only or list(GPU_PARTS)
    right = command.run(device, dtype, out, parts, _say_lines, reduced=options.reduced or on_cpu)
    print(f"all figures: {out}")
    return DONE if right else SOME_FAILED


def _say_lines(text: str) -> None:
    for line in text.splitlines():
        _say(line)


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
