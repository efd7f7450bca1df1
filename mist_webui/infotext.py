"""What is written into protected files, and what is said about lossy copies of them."""

from __future__ import annotations

import json
import re
from typing import Any

from modules import infotext_utils, shared

from mist_attack import __version__
from mist_attack.controls import CONTROLS, controls_from
from mist_attack.report import Report
from mist_attack.sets.settings import SET_CONTROLS, SetSettings

ERROR = "Mist error"
"""The key of an image that was to be protected and is not: what a program looks for."""
_OURS = r"(?:^|, ?)Mist{}[\w \-/]{{0,30}}: (?:\"(?:\\.|[^\\\"])*\"(?=,|\n|$)|[^,\n]*)"
OURS = re.compile(_OURS.format(""))
CLAIMS = re.compile(_OURS.format("(?! error:)"))
"""All of ours but the error."""
LOSSY = {"jpg": "JPEG", "jpeg": "JPEG", "avif": "AVIF", "gif": "GIF"}


def keys_of(report: Report, of_set: SetSettings | None = None) -> dict[str, str]:
    """Infotext keys and values, all that is needed to do it again; all begin with "Mist". of_set: where it was one of a
    set, how."""
    used = [known for known in CONTROLS if known.changes_picture and report.settings["objective"] in known.uses]
    values = controls_from(report.settings)
    keys = {f"Mist {known.label.lower()}": _one_value(known.written(values[known.name])) for known in used}
    done = {"Mist": __version__, **keys, "Mist steps": f"{report.steps_done}", "Mist model": report.model}
    if report.target is not None:
        done["Mist target"] = report.target
    if of_set is not None:
        done |= {f"Mist {known.label.lower()}": known.written(getattr(of_set, known.name)) for known in SET_CONTROLS}
    return done


def _one_value(text: str) -> str:
    """In quotation marks where the web UI's reader would make something else of it, and its writer sets none."""
    is_bare = not any(mark in text for mark in ",:\n")
    return (
        json.dumps(text, ensure_ascii=False) if is_bare and (not text or text[0] in '" ' or text[-1] == " ") else text
    )


def line_of(keys: dict[str, Any]) -> str:
    """As the web UI writes and reads it."""
    return ", ".join(f"{key}: {infotext_utils.quote(value)}" for key, value in keys.items())


def appended(parameters: str | None, keys: dict[str, Any]) -> str:
    """Generation parameters of a picture with ours at their end; earlier ones of ours are replaced."""
    kept = without(OURS, parameters or "")
    between = "" if not kept or kept.endswith("\n") else ", "
    return kept + between + line_of(keys)


def without(pattern: re.Pattern[str], parameters: str) -> str:
    """Generation parameters without keys of ours; they stand in the last line, and a prompt is left alone."""
    *lines, last = parameters.rstrip().split("\n")
    return "\n".join([*lines, pattern.sub("", last).lstrip(", ")])


def lossy_notices(width: int, height: int) -> list[str]:
    """What the web UI's own saving will do to a protected picture of that size, where it is not lossless."""
    opts, notices = shared.opts, []
    kind = opts.samples_format.lower()
    if kind in LOSSY or (kind == "webp" and not opts.webp_lossless):
        name = LOSSY.get(kind, "WebP")
        notices.append(f"saved as {name}, which is lossy and weakens the protection; choose png in Settings > Saving")
    elif opts.export_for_4chan:
        oversize = max(width, height) > opts.target_side_length
        if oversize or width * height * 3 > opts.img_downscale_threshold * 1024 * 1024:
            notices.append(
                "a JPEG copy may be saved beside it, which is lossy and weaker; switch off "
                "'Save copy of large images as JPG' in Settings > Saving"
            )
    if kind == "png" and getattr(opts, "stealth_pnginfo_option", None) == "RGB":
        notices.append(
            "the hidden infotext may move values by one grey level more; choose Alpha or None "
            "for 'Stealth infotext mode' in Settings > Infotext"
        )
    return notices
