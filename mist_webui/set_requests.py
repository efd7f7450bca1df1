"""`POST /mist/v1/protect-set`: the shape of a request and of its answer, and what a request is checked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image
from pydantic import BaseModel, Field

from mist_attack.controls import BY_NAME, Settings
from mist_attack.errors import PictureError, SettingsError
from mist_attack.pictures.reading import MAX_PIXELS
from mist_attack.sets.settings import LEAST, SetSettings, require_possible, set_settings

from . import jobs, options, pictures, sets
from .jobs import Outcome

MOST = 100
"""Pictures of a request."""


class ProtectSetRequest(BaseModel, extra="allow"):  # what is unknown is refused in our own words
    images: list[str] = Field(title="Images", description="2 to 100 pictures of one style, as `image` of protect.")
    captions: list[str] = Field(
        default_factory=list,
        title="Captions",
        description="What each shows: one for each, one for all, or none, which is `prompt` of the settings.",
    )
    masks: list[str] = Field(
        default_factory=list,
        title="Masks",
        description="As `mask` of protect: one for each, one for all, or none. An empty one: everywhere.",
    )
    target: str = Field(default="", title="Target picture", description="As `target` of protect.")
    preset: str = Field(default="default", title="Preset", description="See GET /mist/v1/info.")
    settings: dict[str, Any] = Field(
        default_factory=dict, title="Settings", description="Controls over the preset; steps are of all rounds."
    )
    set: dict[str, Any] = Field(
        default_factory=dict, title="Set", description="rounds, lora_steps, ...; see `set_defaults` of /mist/v1/info."
    )
    output_size: int = Field(default=0, title="Output size", description="Pixels of the longer side; 0 keeps it.")
    include_difference: bool = Field(default=False, title="Include the amplified differences")
    force_task_id: str = Field(default="", title="Task id", description="To be asked for at /internal/progress.")


class OneOfSet(BaseModel):
    image: str = Field(default="", title="Image", description="PNG in base64, always lossless; empty where it failed.")
    difference: str = Field(default="", title="Amplified difference", description="PNG in base64, where asked for.")
    words: str = Field(default="", title="Words", description="What was done to it, in a few sentences.")
    report: dict[str, Any] = Field(default_factory=dict, title="Report", description="What was done, in numbers.")
    infotext: str = Field(default="", title="Infotext", description="As it is written into the PNG's `parameters`.")
    error: str = Field(default="", title="Error", description="Why it was left out of the set.")


class ProtectSetResponse(BaseModel):
    words: str = Field(title="Words", description="How many of the pictures are protected.")
    stopped: bool = Field(title="Stopped", description="It was interrupted: the pictures are as they were by then.")
    pictures: list[OneOfSet] = Field(title="Pictures", description="In the order of `images`.")


class File(NamedTuple):
    """What was in a picture's besides its pixels."""

    parameters: str | None
    notices: Sequence[str]


@dataclass(frozen=True)
class Asked:
    """A request, checked."""

    sent: list[sets.Sent]
    files: list[File]
    settings: Settings
    chosen: SetSettings
    target: Image.Image | None


def asked(request: ProtectSetRequest) -> Asked:
    """Raises SettingsError and PictureError, which name the field."""
    count = len(request.images)
    if not LEAST <= count <= MOST:
        raise SettingsError(f"images: expected {LEAST} to {MOST} pictures of one style; got {count}.")
    size, settings = jobs.checked_size(request.output_size), options.settings_from(request.settings, request.preset)
    try:
        chosen = set_settings(request.set)
    except SettingsError as error:
        raise SettingsError(f"set: {error}") from error
    require_possible(settings, chosen, count)
    captions = _captions(_each("captions", request.captions, count, settings.prompt))
    masks = _each("masks", request.masks, count, "")
    target = pictures.as_pil(pictures.decoded("target", request.target)) if request.target else None
    sent, files = _sent(request, size, captions, masks)
    return Asked(sent, files, settings, chosen, target)


def _each(name: str, given: Sequence[str], count: int, usual: str) -> Sequence[str]:
    """One for each picture."""
    if len(given) not in (0, 1, count):
        raise SettingsError(f"{name}: expected none, one for all, or one for each of {count} images; got {len(given)}.")
    return given if len(given) == count else [*given, usual][:1] * count


def _captions(captions: Sequence[str]) -> Sequence[str]:
    for number, caption in enumerate(captions):
        try:
            BY_NAME["prompt"].check(caption)
        except SettingsError as error:
            raise SettingsError(f"captions[{number}]: {error}") from error
    return captions


def _sent(
    request: ProtectSetRequest, size: int, captions: Sequence[str], masks: Sequence[str]
) -> tuple[list[sets.Sent], list[File]]:
    """All of them are in memory, so that together they have a bound too."""
    sent, files, pixels = list[sets.Sent](), list[File](), 0
    for number, (text, caption, mask) in enumerate(zip(request.images, captions, masks, strict=True)):
        picture = pictures.decoded(f"images[{number}]", text)
        colour = jobs.resized(pictures.as_pil(picture), size)
        pixels += colour.width * colour.height
        if pixels > MAX_PIXELS:
            raise PictureError(f"images: expected at most {MAX_PIXELS} pixels in all of them; send fewer, or smaller.")
        which = number if len(request.masks) > 1 else 0
        allowed = sets.mask_for(pictures.as_pil(pictures.decoded(f"masks[{which}]", mask)), colour) if mask else None
        sent.append(sets.Sent(colour, allowed, caption))
        files.append(File(pictures.parameters_of(picture), picture.notices))
    return sent, files


def answer(asked: Asked, outcomes: Sequence[Outcome | str], *, with_difference: bool) -> ProtectSetResponse:
    return ProtectSetResponse(
        words=sets.summary(outcomes),
        stopped=any(isinstance(outcome, Outcome) and outcome.report.stopped for outcome in outcomes),
        pictures=[
            OneOfSet(error=outcome)
            if isinstance(outcome, str)
            else OneOfSet(**pictures.answer(outcome, *file, asked.chosen, with_difference=with_difference))
            for outcome, file in zip(outcomes, asked.files, strict=True)
        ],
    )
