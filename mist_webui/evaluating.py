"""One pair of the web UI's pictures judged by the model now loaded: PIL in, figures and words out."""

from __future__ import annotations

from typing import Any

import numpy as np
from modules import shared
from PIL import Image

from mist_attack.budget import to_levels
from mist_attack.errors import Stop
from mist_attack.evaluation.judging import TRANSPARENT, judge, require_pair
from mist_attack.evaluation.results import Pair, results
from mist_attack.pictures.reading import from_u8
from mist_attack.settings import Settings

from . import jobs, progress

STOPPED = "The evaluation was interrupted: nothing was judged."


def evaluate(
    before: Image.Image, after: Image.Image, settings: Settings, target: Image.Image | None = None
) -> tuple[dict[str, Any], Pair]:
    """`results.results` of the pair, and the pair. Call it inside the web UI's queue lock.

    Raises MistError, and Stop where the user interrupts."""
    first, second = (to_levels(_unit(picture)) for picture in (before, after))
    require_pair(first, second)
    pulled = None if target is None else _unit(target)
    with progress.shown(0, "Mist: evaluating"):
        judged = judge(jobs.loaded_model(), first, second, settings, target=pulled, on_part=_on_part)
    notices = [TRANSPARENT] if any(_is_transparent(picture) for picture in (before, after)) else []
    pair = Pair("original", "protected", first, second, [judged], notices)
    return results([pair.figures()], {}, {}), pair


def _unit(picture: Image.Image) -> Any:
    return from_u8(np.asarray(jobs.in_colour(picture))[..., :3])


def _is_transparent(picture: Image.Image) -> bool:
    """gradio gives every picture an alpha channel."""
    colour = jobs.in_colour(picture)
    return colour.mode == "RGBA" and colour.getchannel("A").getextrema() != (255, 255)


def _on_part(words: str) -> None:
    shared.state.textinfo = f"Mist: {words}"
    if progress.stopped():
        raise Stop(STOPPED)
