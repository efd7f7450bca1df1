"""What stands beside a picture: cat.jpg, cat.mask.png (or another picture's suffix), cat.prompt.txt.

Names count in capitals or not.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePath
from typing import Literal

from ..pictures.reading import PICTURE_SUFFIXES, UNREAD
from .paths import folded

Kind = Literal["mask", "prompt"]
_MASK, _PROMPT = ".mask", ".prompt.txt"


def kind_of(name: str) -> Kind | None:
    """Is it a mask or a prompt, by its name?"""
    path = PurePath(name.lower())
    if path.name.endswith(_PROMPT):
        return "prompt"
    return "mask" if path.stem.endswith(_MASK) and looks_like_picture(name) else None


def looks_like_picture(name: str) -> bool:
    """Whether it can be read here or not."""
    suffix = PurePath(name).suffix.lower()
    return suffix in PICTURE_SUFFIXES or suffix in UNREAD


def stem_of(name: str) -> str:
    """Of the picture that a mask or a prompt stands beside."""
    return name[: -len(_PROMPT)] if kind_of(name) == "prompt" else PurePath(name).stem[: -len(_MASK)]


class Beside:
    """The companions in a folder. Raises OSError where it cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._companions: dict[tuple[Kind, str], list[str]] = defaultdict(list)
        self._stems: set[str] = set()
        for name in sorted(os.listdir(folder)):  # noqa: PTH208  # names only
            if kind := kind_of(name):
                self._companions[kind, folded(stem_of(name))].append(name)
            elif looks_like_picture(name):
                self._stems.add(PurePath(name).stem)

    def of(self, kind: Kind, stem: str) -> list[Path]:
        """One in other capitals than the picture's counts where it is not another picture's."""
        meant = self._companions.get((kind, folded(stem)), [])
        exact = [name for name in meant if stem_of(name) == stem]
        return [self.folder / name for name in exact or meant if exact or stem_of(name) not in self._stems]
