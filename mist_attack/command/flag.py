"""How one flag is read: a path, a name, a control; and how a command line that is wrong is told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from ..control import Control
from ..errors import SettingsError
from ..presets import usual


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see '{self.prog} --help')")


def a_path(text: str) -> Path:
    return Path(a_name(text))


def a_name(text: str) -> str:
    """A variable of a shell that was never set gives an empty word."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def add_control(group: argparse._ActionsContainer, control: Control) -> None:
    default = control.shown(usual(control.name, control.default))
    words, help = _flags_of(control), f"{control.explained('command')} (default {default})"
    if control.kind is bool:
        group.add_argument(*words, action=argparse.BooleanOptionalAction, default=None, help=help)
    else:
        kind = a_name if control.name == "target" else control.kind
        group.add_argument(*words, type=kind, metavar=_metavar(control), help=help)


def _flags_of(control: Control) -> list[str]:
    return [*(["-s"] if control.name == "steps" else []), control.flag]


def _metavar(control: Control) -> str:
    if control.name == "target":
        return "FILE|NAME"
    return "|".join(control.offered) or control.scale.unit.upper() or ("TEXT" if control.kind is str else "N")
