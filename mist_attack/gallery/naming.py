"""Which file each result becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SettingsError
from .companions import Beside, Kind
from .paths import folded, too_long
from .selection import Source

KEPT_SUFFIXES = {".png", ".tif", ".tiff", ".webp"}  # lossless as we write them; all else becomes .png
FIELDS = ("dir", "stem", "parent")
Folders = dict[Path, Beside]


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
    if template is not None:
        _require_template(template)
    spared = {os.path.realpath(source.path) for source in sources}
    taken: dict[str, Source] = {}
    works = []
    for source in sources:
        output = folder / _name(source, suffix or _lossless(source.path), template)
        if os.path.realpath(output) in spared:
            raise SettingsError(f"{output} is an input, and inputs are never overwritten. Choose another --out.")
        other = taken.setdefault(folded(output), source)
        refused = None if other is source else _collision(other, source, output)
        if not refused and (why := too_long(output)):
            refused = f"{output}: {why}"
        works.append(Work(source.path, output, refused=refused))
    return works


def with_companions(work: Work, folders: Folders | None = None) -> Work:
    """The same work with the mask and the prompt that stand beside its picture; refused where it is not clear which.

    folders: what stands in each, filled here, for the next work."""
    folder, folders = work.source.parent, {} if folders is None else folders
    try:
        beside = folders.get(folder) or folders.setdefault(folder, Beside(folder))
        mask, prompt = (_only(kind, beside.of(kind, work.source.stem)) for kind in ("mask", "prompt"))
    except (FileNotFoundError, NotADirectoryError):
        return work
    except OSError as error:
        why = f"the folder it is in cannot be read ({error.strerror}), so that its mask is not known"
        return replace(work, refused=work.refused or why)
    except SettingsError as error:
        return replace(work, refused=work.refused or str(error))
    return replace(work, mask=mask, prompt=prompt)


def _only(kind: Kind, found: list[Path]) -> Path | None:
    if len(found) > 1:
        raise SettingsError(f"it has several {kind}s ({', '.join(path.name for path in found)}); keep one")
    return found[0] if found else None


def _collision(first: Source, second: Source, output: Path) -> str:
    message = f"{first.path} and {second.path} would both become {output}."
    if first.named and second.named:
        raise SettingsError(f"{message} Protect them in separate runs.")
    return f"{message} Rename one, or protect it into another folder in a run of its own."


def _lossless(path: Path) -> str:
    return path.suffix if path.suffix.lower() in KEPT_SUFFIXES else ".png"


def _name(source: Source, suffix: str, template: str | None) -> Path:
    if template is None:
        return source.folder / (source.path.stem + suffix)
    where = template if "/" in template else "{dir}/" + template
    parent = source.path.absolute().parent.name
    fields = {"dir": source.folder.as_posix(), "stem": source.path.stem, "parent": parent}
    named = re.sub(r"\{(\w*)\}", lambda match: _field(match[1], fields), where)
    return inside(named + suffix, f"--name {template}")


def inside(name: str, flag: str) -> Path:
    """A name relative to the folder of results, as a path that stays in it. Raises SettingsError."""
    path = Path(name)
    if path.anchor or ".." in path.parts:
        raise SettingsError(f"{flag}: {name} leads out of the folder of results. Choose a name inside it.")
    return path


def _require_template(template: str) -> None:
    for field in re.findall(r"\{(\w*)\}", template):
        _field(field, dict.fromkeys(FIELDS, ""))
    rest = re.sub(r"\{\w*\}", "x", template)
    if "{" in rest or "}" in rest:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise SettingsError(
            f"--name {template}: expected braces in pairs, as in {{stem}}; found one alone. Fields: {known}."
        )
    if not rest.rpartition("/")[2].strip(". "):
        raise SettingsError(f"--name {template}: expected a name after the last /, as '{{stem}}-mist'.")


def _field(name: str, fields: dict[str, str]) -> str:
    if name not in fields:
        known = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise SettingsError(f"--name has no field {{{name}}}. Known: {known}; the suffix is added to it.")
    return fields[name]
