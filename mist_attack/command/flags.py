"""The flags of the command, and which of them belong to whom."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__
from ..controls import BY_NAME
from ..errors import SettingsError
from ..sets.settings import SET_CONTROLS
from . import mimicry, mist_v2
from .flag import Parser, a_name, a_path, add_control

FORMATS = {"png": ".png", "webp": ".webp", "tiff": ".tiff", "jpeg": ".jpg"}
JUDGED_PARTS = ("visibility", "survival", "real")
"""What a protection is worth, which takes an hour by itself."""
NAMED_PARTS = (*JUDGED_PARTS, "costs256", "peaks256", "peaks512")
"""Measured only where they are named; costs512 measures memory, too."""
BENCH_PARTS = (
    *JUDGED_PARTS,
    "steps",
    "halving",
    "tiles",
    "gallery",
    "scaling",
    "costs256",
    "peaks256",
    "costs512",
    "peaks512",
)
GPU_PARTS = ("gradients", "cost", "pictures", "comfyui", "suite")
DEVICE = "cpu, cuda:1, mps, xpu ... (default: the accelerator, if any)"
ENGINES = ("single", "ray", "comfyui")
SHARED_CONTROLS = ("steps", "gradient", "seed", "low_vram")
"""Controls that go with Mist's own flags too."""
OWN_CONTROLS = tuple(
    name for name, known in BY_NAME.items() if "command" in known.faces and name not in SHARED_CONTROLS
)
GALLERY = ("name", "shard", "force", "limit", "shuffle", "fail_fast", "retries", "engine")
OURS = ("inputs", "out", "preset", "config", "mask_file", "format", "quality", *GALLERY, *OWN_CONTROLS)
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


EVALUATE_CONTROLS = ("target", "prompt", "working_size", "seed", "low_vram")
"""Controls that say how a picture is judged."""
EVALUATED = (
    "What one sees of a protection, what a model makes of it, and what is left of it after JPEG, reductions, filters "
    "and the like: one page for a browser (index.html), results.json and results.csv. The changes are tests; no "
    "changed picture is written."
)

SET = (
    "Pictures of one style, against a LoRA that is fine-tuned on all of them: in rounds, a LoRA of ours learns from "
    "the pictures as they are by then, and each is changed further through the model with it. Captions: "
    "STEM.prompt.txt beside a picture. A run that was killed goes on when it is started again, and loses a round at "
    "most."
)

NAMED = "of {stem}, {parent} and {dir}, as '{stem}-mist'"
EXIT_CODES = (
    "Exit codes: 0 done; 1 nothing done; 2 some pictures failed; 3 all done, but files that look like pictures were "
    "passed over (they are named at the end); 130 interrupted."
)


def parser() -> tuple[Parser, Parser, Parser, Parser, Parser, Parser, Parser]:
    """The whole, and the parsers of `protect`, `protect-set`, `evaluate`, `info`, `doctor` and `bench`."""
    whole = Parser(prog="mist", description="Protect pictures against imitation by diffusion models.")
    whole.add_argument("--version", action="version", version=f"mist {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    protect = commands.add_parser("protect", help="protect pictures", allow_abbrev=False, epilog=EXIT_CODES)
    _add_own_flags(protect)
    _add_gallery_flags(protect)
    _add_engine_flags(protect)
    _add_shared_flags(protect)
    _add_mist_flags(protect)
    protect_set = commands.add_parser(
        "protect-set",
        help="protect pictures of one style together",
        allow_abbrev=False,
        epilog=EXIT_CODES,
        description=SET,
    )
    _add_own_flags(protect_set)
    _add_set_flags(protect_set)
    _add_shared_flags(protect_set)
    mist_v2.add_flags(protect_set)
    evaluate = commands.add_parser(
        "evaluate", help="judge protected pictures", allow_abbrev=False, epilog=EXIT_CODES, description=EVALUATED
    )
    _add_evaluate_flags(evaluate)
    info = commands.add_parser("info", help="show devices, checkpoint, presets and targets", allow_abbrev=False)
    info.add_argument("--checkpoint", type=a_name, metavar="FILE|DIR|demo")
    doctor = commands.add_parser("doctor", help="try a step on a device, against the CPU's", allow_abbrev=False)
    doctor.add_argument("--device", help=DEVICE)
    bench = commands.add_parser("bench", help="what a step costs here, against Mist's own loop", allow_abbrev=False)
    _add_bench_flags(bench)
    return whole, protect, protect_set, evaluate, info, doctor, bench


def theirs(options: argparse.Namespace) -> bool:
    """Are these Mist's own flags? Raises SettingsError for a mixture."""
    named = [f"--{name}" for name in THEIRS if getattr(options, name) is not None]
    if not named:
        return False
    ours = ["INPUT" if name == "inputs" else f"--{name.replace('_', '-')}" for name in OURS if _is_given(options, name)]
    if ours:
        found = f"({', '.join(named)}) do not mix with ours ({', '.join(ours)})"
        raise SettingsError(f"Mist's own flags {found}. Use one kind.")
    return True


def _is_given(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) not in (None, [])


def _add_own_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="*", type=a_path, metavar="INPUT", help="pictures, folders, globs, @LIST (a file of names)"
    )
    group = parser.add_argument_group("our own flags")
    group.add_argument("--out", type=a_name, metavar="DIR|URL", help="where results go; tree and names stay")
    for name in OWN_CONTROLS:
        add_control(group, BY_NAME[name])
    group.add_argument(
        "--mask-file",
        type=a_path,
        metavar="FILE",
        help="white may change, black not; STEM.mask.png (or .jpg ...) beside a picture wins",
    )
    group.add_argument("--preset", type=a_name, metavar="NAME", help="fills the controls; flags win (see 'mist info')")
    group.add_argument("--config", type=a_path, metavar="FILE.yaml", help="the same settings as lines of YAML")
    group.add_argument("--format", choices=FORMATS, help="of the results (default: the input's where lossless)")
    group.add_argument("--quality", type=int, metavar="1..100", help="of JPEG (default 95)")


def _add_gallery_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "galleries",
        "What is done already, by content and settings, is skipped: OUT/mist-manifest.jsonl has a line per picture. "
        "A run that was killed goes on when it is started again.",
    )
    group.add_argument(
        "--name", type=a_name, metavar="TEMPLATE", help="of {stem}, {parent} and {dir}, as '{stem}-mist'"
    )
    group.add_argument("--force", action="store_true", default=None, help="protect again what is done already")
    group.add_argument("--limit", type=int, metavar="N", help="at most so many pictures, not counting skipped ones")
    group.add_argument("--shuffle", action="store_true", default=None, help="in another order, with the same results")
    group.add_argument("--fail-fast", action="store_true", default=None, help="stop at the first failure")
    group.add_argument("--retries", type=int, metavar="N", help="when the machine fails, not the picture (default 0)")
    group.add_argument("--shard", metavar="I/N", help="only the I-th of N parts, for N machines")


def _add_set_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the set")
    for known in SET_CONTROLS:
        add_control(group, known)
    group.add_argument(
        "--name", type=a_name, metavar="TEMPLATE", help="of {stem}, {parent} and {dir}, as '{stem}-mist'"
    )
    group.add_argument("--force", action="store_true", default=None, help="protect again what is done already")
    parser.set_defaults(engine=None, shard=None)


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who computes")
    group.add_argument("--engine", choices=ENGINES, help="this process, Ray, or running ComfyUIs (default single)")
    group.add_argument("--address", help="ray: of a running cluster (default: this machine alone)")
    group.add_argument("--workers", type=int, metavar="N", help="ray: models at once (default: what the cluster has)")
    group.add_argument("--gpus-per-worker", type=float, metavar="N", help="ray: default 1 where the cluster has GPUs")
    group.add_argument("--url", action="append", metavar="URL", help="comfyui: of a server; may be given several times")
    group.add_argument("--allow-remote", action="store_true", help="comfyui: pictures may leave this machine")
    group.add_argument("--timeout", type=float, metavar="S", help="comfyui: seconds for one picture (default 3600)")


def _add_shared_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flags for both")
    for name in SHARED_CONTROLS:
        add_control(group, BY_NAME[name])
    group.add_argument(
        "--checkpoint",
        type=a_name,
        metavar="FILE|DIR|demo",
        help="Stable Diffusion v1.x, or a small autoencoder; comfyui: its name there",
    )
    group.add_argument("--device", help=DEVICE)
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the UNet")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads; part of what makes bytes repeatable")
    group.add_argument("--report", type=a_path, metavar="FILE.json", help="what was done to each picture")
    group.add_argument("--dry-run", action="store_true", help="say what would be done, how long it takes, and stop")
    group.add_argument("-q", "--quiet", action="store_true", help="errors only")


def _add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("original", type=a_path, metavar="ORIGINAL", help="a picture, or a folder of them")
    parser.add_argument(
        "protected", type=a_path, metavar="PROTECTED", help="the same protected: a picture, or a folder of these names"
    )
    parser.add_argument(
        "--out", type=a_path, default=Path("evaluation"), metavar="DIR", help="of the results (default evaluation)"
    )
    parser.add_argument("--checkpoint", type=a_name, metavar="FILE|DIR|demo", help="the model that judges")
    parser.add_argument(
        "--real", type=a_path, metavar="FILE|DIR", help="small autoencoders (TAESD's family) that judge before it"
    )
    for name in EVALUATE_CONTROLS:
        add_control(parser, BY_NAME[name])
    mimicry.add_flags(parser)
    parser.add_argument("--no-pictures", action="store_true", help="a page of figures alone, which may be published")
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the UNet (default float32)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument("-q", "--quiet", action="store_true", help="errors only")


def _add_bench_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", action="store_true", help="all that a graphics card must show, in six minutes")
    parser.add_argument("--reduced", action="store_true", help="gpu: small, as on a CPU: to check the check itself")
    parser.add_argument(
        "--out", type=a_path, metavar="FILE.json", help="default bench/results.json, or results-gpu.json"
    )
    parts = f"of {', '.join(BENCH_PARTS)} (default: all but {', '.join(NAMED_PARTS)}); gpu: of {', '.join(GPU_PARTS)}"
    parser.add_argument("--only", nargs="+", choices=(*BENCH_PARTS, *GPU_PARTS), metavar="PART", help=parts)
    parser.add_argument("--rounds", type=int, default=2, help="repetitions of each way, in turns (default 2)")
    _add_judging_flags(parser)
    parser.add_argument("--device", help=DEVICE)
    types = "of the UNet (default float32; gpu: float16 on an accelerator)"
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=types)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")


def _add_judging_flags(parser: argparse.ArgumentParser) -> None:
    real = "small autoencoders of others (TAEF2 ...) to judge on (default: what MIST_REAL_AUTOENCODER names)"
    parser.add_argument("--real", type=a_path, metavar="DIR", help=real)
    pictures = "to judge on, a sub-folder for each kind (default: pictures that anyone has)"
    parser.add_argument("--pictures", type=a_path, metavar="DIR", help=pictures)
    each = "pictures to judge on, of each kind (default 1: real takes some ten minutes on two cores)"
    parser.add_argument("--each", type=int, default=1, metavar="N", help=each)
    parser.add_argument("--side", type=int, choices=(256, 512), default=256, help="real: of a picture, in pixels")


def _add_mist_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "Mist's own flags",
        "Any of these puts the command under Mist's rules: pictures are resized to --input_size, and results go to "
        "outputs/images/ or outputs/dirs/ under names that hold the settings. Not to be mixed with our own flags.",
    )
    group.add_argument("-img", "--input_image_path", type=a_name, metavar="FILE", help="one picture")
    group.add_argument("-inp", "--input_dir_path", type=a_name, metavar="DIR", help="a folder of pictures")
    group.add_argument("--output_name", type=a_name, metavar="NAME", help="of the result of one picture")
    group.add_argument("--output_dir", type=a_name, metavar="NAME", help="of the folder of results")
    group.add_argument("-e", "--epsilon", type=float, metavar="LEVELS", help="strength, grey levels")
    group.add_argument("-in_size", "--input_size", type=int, metavar="PIXELS", help="default 512")
    group.add_argument("-b", "--block_num", type=int, metavar="B", help="tiles per side, to save memory")
    group.add_argument("--mode", type=int, choices=(0, 1, 2), help="0 semantic, 1 textural, 2 fused")
    group.add_argument("--rate", type=float, metavar="W", help="fusion weight, an exponent")
    group.add_argument("--mask", action="store_true", default=None, help="use --mask_path (white is protected)")
    group.add_argument("--mask_path", type=a_name, metavar="FILE", help="default test/processed_mask.png")
    group.add_argument("--non_resize", action="store_true", default=None, help="keep the aspect")
