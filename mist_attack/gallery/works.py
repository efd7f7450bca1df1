"""Which file each result becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SettingsError
from .selection import MASK, PROMPT, Source

KEPT_SUFFIXES = {".png", ".tif", ".tiff", ".webp"}  # lossless as we write them; all else becomes .png
FIELDS = ("dir", "stem", "parent")


@dataclass(frozen=True)
class Work:
    """One picture to protect."""

    source: Path
    output: Path
    mask: Path | None = None
    """Its own, beside it."""
    prompt: Path | None = None
    """A text file of its own, beside it."""
    refused: str | None = None
    """Why it cannot be done, where that is known before."""


def works_for(
    sources: Iterable[Source], folder: Path, suffix: str | None = None, template: str | None = None
) -> list[Work]:
    """Results in `folder`: the tree and the names of the sources, or those of a template, with a suffix that is
    lossless unless another is asked for.

    Template: a path without its suffix, of the fields {stem}, {parent} (the folder's name) and {dir} (the tree,
    which is kept where the template has no folders). Of two results with one name (in capitals or not) the first in
    order wins and the other is refused; raises SettingsError instead where the user named both, where a result
    would replace an input, and for a template that leads out of `folder`.
    """
    sources = list(sources)
    spared = {os.path.realpath(source.path) for source in sources}
    taken: dict[str, Source] = {}
    works = []
    for source in sources:
        output = folder / _name(source, suffix or _lossless(source.path), template)
        if os.path.realpath(output) in spared:
            raise SettingsError(f"{output} is an input, and inputs are never overwritten. Choose another --out.")
        other = taken.setdefault(str(output).casefold(), source)
        refused = None if other is source else _collision(other, source, output)
        works.append(Work(source.path, output, refused=refused))
    return works


def with_companions(work: Work) -> Work:
    """The same work with the mask and the prompt that stand beside its picture."""
    mask, prompt = (work.source.with_name(work.source.stem + kind) for kind in (MASK, PROMPT))
    return replace(work, mask=_if_file(mask), prompt=_if_file(prompt))


def _if_file(path: Path) -> Path | None:
    try:
        return path if path.is_file() else None
    except OSError:  # the name is too long
        return None


def _collision(first: Source, second: Source, output: Path) -> str:
    message = f"{first.path} and {second.path} would both become {output}."
    if first.named and second.named:
        raise SettingsError(f"{message} Run them apart.")
    return f"{message} Rename one, or run it apart into another folder."


def _lossless(path: Path) -> str:
    return path.suffix if path.suffix.lower() in KEPT_SUFFIXES else ".png"


def _name(source: Source, suffix: str, template: str | None) -> Path:
    if template is None:
        return source.folder / (source.path.stem + suffix)
    where = template if "/" in template else "{dir}/" + template
    parent = source.path.absolute().parent.name
    fields = {"dir": source.folder.as_posix(), "stem": source.path.stem, "parent": parent}
    named = Path(re.sub(r"\{(\w*)\}", lambda match: _field(match[1], fields), where) + suffix)
    if named.is_absolute() or ".." in named.parts:
        raise SettingsError(f"--name {template}: {named} leads out of the folder of results.")
    return named


def _field(name: str, fields: dict[str, str]) -> str:
    if name not in fields:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise SettingsError(f"--name has no field {{{name}}}. Known: {known}; the suffix is added to it.")
    return fields[name]
