"""MistProtect: the picture in, the protected picture out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from .layout import alpha_for, mask_for, to_engine, to_host
from .model import ABSENT, check_links, surrogate_for
from .progress import ProgressBar
from .request import settings_of, wants_working_size
from .schema import (
    ALIASES,
    CATEGORY,
    model_inputs,
    new_schema,
    options_input,
    output,
    vae_input,
)
from .size import resized
from .widgets import named, preset_widget, protect_controls, widgets

if TYPE_CHECKING:
    from ..mist_attack.report import Report


class MistProtect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistProtect",
            display_name="Mist Protect",
            category=CATEGORY,
            description="Changes a picture slightly, within a strength you choose, so that diffusion models mis-read "
            "it. Uses the model that the graph has already loaded.",
            search_aliases=ALIASES,
            inputs=[*_required(), *model_inputs(), *_optional()],
            outputs=[
                output(io.Image, "protected", "The protected picture. Save it losslessly: Mist Save Image."),
                output(io.Image, "difference", "What changed, 8 times as large, around mid-grey."),
                output(io.String, "report", "What was done and measured, one JSON object for each picture."),
                output(io.String, "words", "What was done, in a few sentences, then the main numbers."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, mode: str | None = None, model: Any = ABSENT, clip: Any = ABSENT, conditioning: Any = ABSENT
    ) -> str | bool:
        return check_links(mode, model, clip, conditioning)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        preset: str,
        model: Any = None,
        clip: Any = None,
        conditioning: Any = None,
        mask: Tensor | None = None,
        alpha: Tensor | None = None,
        target: Tensor | None = None,
        options: dict[str, Any] | None = None,
        **chosen: Any,
    ) -> io.NodeOutput:
        settings, reduces = settings_of(preset, named(chosen), options), wants_working_size(options)
        surrogate = surrogate_for(settings.objective, vae, model, clip, conditioning)
        pictures, channel = to_engine(image), alpha_for(image, alpha)
        allowed = mask_for(image, mask)
        if reduces:
            pictures, allowed, channel = resized(pictures, allowed, channel, settings, surrogate)
        protected, reports = _protect_each(pictures, allowed, target, surrogate, settings, conditioning)
        changes = _difference(pictures, protected)
        return io.NodeOutput(to_host(protected, channel), changes, _as_json(reports), _as_words(reports))


def _required() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="The pictures to protect: one, or a batch."),
        vae_input(),
        preset_widget(),
        *widgets(protect_controls()),
    ]


def _optional() -> list[io.Input]:
    return [
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where to protect: white = protect, grey = less. One for all pictures or one for each. Without a "
            "mask the whole picture is protected.",
        ),
        io.Mask.Input(
            "alpha",
            optional=True,
            tooltip="Load Image's MASK of a transparent picture: the result keeps its transparency. It does not say "
            "where to protect.",
        ),
        io.Image.Input(
            "target",
            optional=True,
            tooltip="What the model shall see instead (textural, fused): any picture, or a Mist Target. Without it, "
            "Mist's lattice.",
        ),
        options_input(),
    ]


def _protect_each(
    pictures: Tensor, mask: Tensor | None, target: Tensor | None, surrogate: Any, settings: Any, conditioning: Any
) -> tuple[Tensor, list[Report]]:
    """Picture by picture, so that one bar runs over the batch; all are checked before the first."""
    from ..mist_attack.protection import check, protect

    target = None if target is None else to_engine(target[:1])
    masks = check(pictures, mask, target)
    bar = ProgressBar(len(pictures), settings.steps)
    results = [
        protect(
            pictures[i : i + 1],
            surrogate,
            settings,
            mask=masks[i : i + 1],
            target=target,
            conditioning=conditioning,
            on_step=bar.of_picture(i),
        )
        for i in range(len(pictures))
    ]
    return torch.cat([result.images for result in results]), [result.reports[0] for result in results]


def _difference(before: Tensor, after: Tensor) -> Tensor:
    from ..mist_attack.evaluation import amplified

    return to_host(amplified(before, after))


def _as_json(reports: list[Report]) -> str:
    rows = [{"words": report.words(), "summary": report.summary(), **report.as_dict()} for report in reports]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _as_words(reports: list[Report]) -> str:
    names = [f"Picture {i + 1}: " if len(reports) > 1 else "" for i in range(len(reports))]
    return "\n\n".join(name + report.as_text() for name, report in zip(names, reports, strict=True))
