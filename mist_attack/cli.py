"""The headless command: `mist protect`, `mist info`. Exit codes: 0, 1 nothing done, 2 some failed, 130 interrupted."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import MistError, OutputError, SettingsError

if TYPE_CHECKING:
    from .batch import Order, Row
    from .settings import Settings

DONE, NOTHING_DONE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 130
DEMO_WARNING = "This is the demo model: it demonstrates, and does not protect against real models."
JPEG_WARNING = "JPEG is lossy: it weakens the protection, and the budget is not promised. PNG keeps both."
FORMATS = {"png": ".png", "webp": ".webp", "tiff": ".tiff", "jpeg": ".jpg"}
CONTROLS = ("strength", "step", "objective", "fusion_weight", "direction", "view", "working_size", "prompt")
SHARED_CONTROLS = ("steps", "gradient", "seed", "low_vram")
OURS = ("inputs", "out", "preset", "config", "mask_file", "target", "format", "quality", *CONTROLS)
"""Flags that only our own family has."""
THEIRS = (
    "input_image_path",
    "output_name",
    "output_dir",
    "input_dir_path",
    "epsilon",
    "input_size",
    "block_num",
    "mode",
    "rate",
    "mask",
    "mask_path",
    "non_resize",
)
"""Flags that only Mist has."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see '{self.prog} --help')")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; never raises for what a user can cause."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(argv)
        return options.command(options)
    except MistError as error:
        _complain(str(error))
        return NOTHING_DONE
    except KeyboardInterrupt:
        _complain("interrupted; finished pictures are kept.")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mist", description="Protect pictures against imitation by diffusion models.")
    parser.add_argument("--version", action="version", version=f"mist {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    protect = commands.add_parser("protect", help="protect pictures", allow_abbrev=False)
    protect.set_defaults(command=_protect)
    _add_own_flags(protect)
    _add_shared_flags(protect)
    _add_mist_flags(protect)
    info = commands.add_parser("info", help="show devices, checkpoint, presets and targets", allow_abbrev=False)
    info.add_argument("--checkpoint", metavar="FILE|DIR|demo")
    info.set_defaults(command=_info)
    return parser


def _add_own_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="pictures, or folders of pictures")
    group = parser.add_argument_group("our own flags")
    group.add_argument("--out", type=Path, metavar="DIR", help="where results go; the names stay")
    group.add_argument("--strength", type=float, metavar="LEVELS", help="largest change, grey levels (default 16)")
    group.add_argument("--step", type=float, metavar="LEVELS", help="change per step, grey levels (default 1)")
    group.add_argument("--objective", help="fused, textural or semantic (default fused)")
    group.add_argument("--fusion-weight", type=float, metavar="W", help="semantic against textural (default 1)")
    group.add_argument("--direction", help="of the semantic term: ascent or descent (default ascent)")
    group.add_argument("--view", help="of large pictures: whole, tiles or both (default whole)")
    group.add_argument("--working-size", type=int, metavar="PIXELS", help="what the model sees at once (default 512)")
    group.add_argument("--mask-file", type=Path, metavar="FILE", help="white may change, black may not, grey less")
    group.add_argument("--target", metavar="FILE|NAME", help="what latents are pulled to (default lattice)")
    group.add_argument("--prompt", help="what the picture is, to the model (default 'a painting')")
    group.add_argument("--preset", metavar="NAME", help="see 'mist info'")
    group.add_argument("--config", type=Path, metavar="FILE.yaml", help="the same settings as lines of YAML")
    group.add_argument("--format", choices=FORMATS, help="of the results (default: the input's where lossless)")
    group.add_argument("--quality", type=int, metavar="1..100", help="of JPEG (default 95)")


def _add_shared_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flags for both")
    group.add_argument("-s", "--steps", type=int, help="default 100")
    group.add_argument("--gradient", help="exact or sds, which is faster (default exact)")
    group.add_argument("--seed", type=int, help="default 23")
    group.add_argument("--low-vram", action="store_true", default=None, help="recompute instead of keeping")
    group.add_argument("--checkpoint", metavar="FILE|DIR|demo", help="Stable Diffusion v1.x")
    group.add_argument("--device", help="cpu, cuda:1, mps, xpu ... (default: the accelerator, if any)")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the UNet")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads; part of what makes bytes repeatable")
    group.add_argument("--report", type=Path, metavar="FILE.json", help="what was done to each picture")
    group.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")


def _add_mist_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "Mist's own flags",
        "Any of these puts the command under Mist's rules: pictures are resized to --input_size, and results go to "
        "outputs/images/ or outputs/dirs/ under names that hold the settings. Not to be mixed with our own flags.",
    )
    group.add_argument("-img", "--input_image_path", metavar="FILE", help="one picture")
    group.add_argument("-inp", "--input_dir_path", metavar="DIR", help="a folder of pictures")
    group.add_argument("--output_name", metavar="NAME", help="of the result of one picture")
    group.add_argument("--output_dir", metavar="NAME", help="of the folder of results")
    group.add_argument("-e", "--epsilon", type=float, metavar="LEVELS", help="strength, grey levels")
    group.add_argument("-in_size", "--input_size", type=int, metavar="PIXELS", help="default 512")
    group.add_argument("-b", "--block_num", type=int, metavar="B", help="tiles per side, to save memory")
    group.add_argument("--mode", type=int, choices=(0, 1, 2), help="0 semantic, 1 textural, 2 fused")
    group.add_argument("--rate", type=float, metavar="W", help="fusion weight, an exponent")
    group.add_argument("--mask", action="store_true", default=None, help="use --mask_path (white is protected)")
    group.add_argument("--mask_path", metavar="FILE", help="default test/processed_mask.png")
    group.add_argument("--non_resize", action="store_true", default=None, help="keep the aspect")


def _protect(options: argparse.Namespace) -> int:
    say = _silent if options.quiet else print
    order = _order(options)
    _require_spared(order, options)
    _require_writable(order, options.report)
    if options.dry_run:
        return _dry_run(order, say)
    from . import batch

    if options.threads is not None:
        _set_threads(options.threads)
    surrogate = _load(options, say)
    bars = sys.stderr.isatty() and not options.quiet
    rows = batch.run(order, surrogate, report=options.report, bars=bars, say=say, complain=_complain)
    return _exit_code(rows)


def _order(options: argparse.Namespace) -> Order:
    theirs = [f"--{name}" for name in THEIRS if getattr(options, name) is not None]
    if not theirs:
        return _own_order(options)
    ours = ["INPUT" if name == "inputs" else f"--{name.replace('_', '-')}" for name in OURS if _is_given(options, name)]
    if ours:
        found = f"({', '.join(theirs)}) do not mix with ours ({', '.join(ours)})"
        raise SettingsError(f"Mist's own flags {found}. Use one kind.")
    from . import mist_flags

    return mist_flags.order_for(options)


def _is_given(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) not in (None, [])


def _own_order(options: argparse.Namespace) -> Order:
    from .batch import Order, pictures_in, works_for
    from .images import read_target

    if not options.inputs or options.out is None:
        raise SettingsError("Expected pictures and a folder for the results: mist protect PICTURE... --out DIR")
    sources = list(pictures_in(options.inputs))
    if not sources:
        raise SettingsError(f"No pictures in {', '.join(map(str, options.inputs))}.")
    target = _target_file(options.target)
    return Order(
        works=works_for(sources, options.out, FORMATS.get(options.format)),
        settings=_own_settings(options, named_target=None if target else options.target),
        mask=options.mask_file,
        target=read_target(target) if target else None,
        lossy_quality=_lossy_quality(options),
    )


def _target_file(target: str | None) -> Path | None:
    from .targets import target_names

    return Path(target) if target and target not in target_names() and Path(target).exists() else None


def _own_settings(options: argparse.Namespace, named_target: str | None) -> Settings:
    from .settings import resolve
    from .targets import target_names

    given = {control: getattr(options, control) for control in (*CONTROLS, *SHARED_CONTROLS)}
    settings = resolve(options.preset or "default", options.config, target=named_target, **given)
    if settings.target not in target_names():
        known = ", ".join(target_names())
        raise SettingsError(f"Target '{settings.target}' is neither a file nor one of the built-in: {known}.")
    return settings


def _lossy_quality(options: argparse.Namespace) -> int | None:
    if options.format == "jpeg":
        _complain(JPEG_WARNING)
        return 95 if options.quality is None else options.quality
    if options.quality is not None:
        raise SettingsError("--quality is for --format jpeg; the other formats are lossless.")
    return None


def _require_spared(order: Order, options: argparse.Namespace) -> None:
    """Nothing that is read may be written to."""
    read = {work.source for work in order.works} | {order.mask, options.config, _target_file(options.target)}
    spared = {path.resolve() for path in read if path is not None}
    for path in {work.output for work in order.works} | {options.report}:
        if path is not None and path.resolve() in spared:
            raise SettingsError(f"{path} is an input, and inputs are never overwritten. Choose another name.")


def _require_writable(order: Order, report: Path | None) -> None:
    for path in {work.output.parent for work in order.works} | ({report.parent} if report else set()):
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise OutputError(f"{existing} is a file, and results need a folder. Choose another --out.")
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{existing} cannot be written to. Choose another folder.")


def _dry_run(order: Order, say: Callable[[str], None]) -> int:
    for work in order.works:
        say(f"would protect {work.source} -> {work.output}")
    settings = ", ".join(f"{name} {value}" for name, value in order.settings.as_dict().items())
    say(f"{len(order.works)} picture(s) with {settings}")
    return DONE


def _load(options: argparse.Namespace, say: Callable[[str], None]) -> Any:
    import torch

    from .hosts import diffusers
    from .hosts.checkpoints import find_checkpoint

    checkpoint = find_checkpoint(options.checkpoint)
    surrogate = diffusers.load(checkpoint, diffusers.pick_device(options.device), getattr(torch, options.dtype))
    say(f"{surrogate.name} on {surrogate.device}")
    if surrogate.is_demo:
        _complain(DEMO_WARNING)
    return surrogate


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise SettingsError(f"Expected --threads of at least 1; got {threads}.")
    torch.set_num_threads(threads)


def _exit_code(rows: list[Row]) -> int:
    failed = sum(row.error is not None for row in rows)
    if failed == len(rows):
        return NOTHING_DONE
    return SOME_FAILED if failed else DONE


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


def _silent(line: str) -> None:
    del line


def _complain(line: str) -> None:
    print(f"mist: {line}", file=sys.stderr)
