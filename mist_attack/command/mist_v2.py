"""Mist v2's own words, where they are clear, as our flags of `mist protect-set`. docs/sets.md has the table."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from ..errors import SettingsError

SAME = {
    "instance_prompt": ("prompt", str, "TEXT"),
    "output_dir": ("out", str, "DIR"),
    "resolution": ("working_size", int, "PIXELS"),
    "max_train_steps": ("rounds", int, "N"),
    "max_f_train_steps": ("lora_steps", int, "N"),
    "lora_rank": ("lora_rank", int, "N"),
    "learning_rate": ("lora_rate", float, "RATE"),
    "target_image_path": ("target", str, "FILE"),
}
"""Their word -> ours, of the same unit; its kind and letter."""
MODES = {"lunet": "lunet", "fused": "fused", "anti-db": "semantic"}
"""Their --mode -> our objective."""
LEVELS = 255 / 2
"""Grey levels in a unit of theirs: they count from -1 to 1."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("Mist v2's own words", "They mix with ours; the same thing is to be said once.")
    group.add_argument("--instance_data_dir", type=Path, metavar="DIR", help="the pictures")
    for word, (name, kind, letter) in SAME.items():
        flag = name.replace("_", "-")
        group.add_argument(f"--{word}", dest=f"v2_{word}", type=kind, metavar=letter, help=f"our --{flag}")
    group.add_argument("--mode", choices=MODES, help="our --objective: lunet, fused, semantic")
    words = "steps of a picture in each round: our --steps over our --rounds"
    group.add_argument("--max_adv_train_steps", type=int, metavar="N", help=words)
    for word, name in (("pgd_eps", "strength"), ("pgd_alpha", "step")):
        words = f"of the range from -1 to 1, so twice ours: 8/255 is our --{name} 4"
        group.add_argument(f"--{word}", type=_fraction, metavar="SHARE", help=words)


def _fraction(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"expected a number, as 0.05 or 8/255; got {text}") from error


def translate(options: argparse.Namespace, rounds: int) -> None:
    """Puts their words under our names. rounds: where nobody asks for another number. Raises SettingsError where the
    same thing is said twice, and for what their unit cannot mean."""
    if options.instance_data_dir is not None:
        _put(options, "inputs", [options.instance_data_dir], "instance_data_dir")
    for word, (name, _, _) in SAME.items():
        _put(options, name, getattr(options, f"v2_{word}"), word)
    if options.mode is not None:
        _put(options, "objective", MODES[options.mode], "mode")
        options.set_direction = options.set_direction or options.direction or "ascent"
    for word, name in (("pgd_eps", "strength"), ("pgd_alpha", "step")):
        _put(options, name, _levels(word, getattr(options, word)), word)
    if options.max_adv_train_steps is not None:
        steps = options.max_adv_train_steps * (rounds if options.rounds is None else options.rounds)
        _put(options, "steps", steps, "max_adv_train_steps")


def _put(options: argparse.Namespace, name: str, value: object, word: str) -> None:
    if value is None:
        return
    if getattr(options, name) not in (None, []):
        ours = "INPUT" if name == "inputs" else f"--{name.replace('_', '-')}"
        raise SettingsError(f"--{word} and {ours} say the same thing. Use one of them.")
    setattr(options, name, value)


def _levels(word: str, share: float | None) -> float | None:
    if share is None:
        return None
    if not 0 <= share <= 2:
        raise SettingsError(
            f"Expected --{word} in Mist v2's unit, a share of the range from -1 to 1, as 0.05 or 8/255; got {share:g}. "
            "Grey levels go with our --strength and --step."
        )
    return share * LEVELS
