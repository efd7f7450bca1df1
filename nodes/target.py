"""MistTarget: what the model shall see instead of the picture."""

from __future__ import annotations

import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..mist_attack.controls import BY_NAME
from .layout import to_engine, to_host
from .packages import engine
from .request import one_of, settings_of
from .schema import CATEGORY, FITS, PATTERNS, new_schema, output
from .widgets import advanced, widget

WORKING_SIZE_TIP = "As in Mist Options: patterns are drawn at the scale at which the model looks."


class MistTarget(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistTarget",
            display_name="Mist Target",
            category=CATEGORY,
            description="What the model shall see instead of the picture, in textural and fused modes: a built-in "
            "pattern or a picture of yours, scaled to the picture to protect.",
            search_aliases=["mist pattern", "target image"],
            inputs=_inputs(),
            outputs=[output(io.Image, "target", "Connect it to Mist Protect's target.")],
        )

    @classmethod
    def execute(
        cls, image: Tensor, pattern: str, fit: str, working_size: int, picture: Tensor | None = None
    ) -> io.NodeOutput:
        height, width = to_engine(image).shape[2:]
        one_of("pattern", pattern, PATTERNS)
        one_of("fit", fit, FITS)
        working_size = settings_of("default", {"working_size": working_size}, None).working_size
        if picture is None:
            return io.NodeOutput(to_host(_pattern(pattern, height, width, working_size)))
        return io.NodeOutput(to_host(_scaled(to_engine(picture[:1]), height, width, fit)))


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="The picture to protect; only its size counts here."),
        io.Combo.Input(
            "pattern",
            options=PATTERNS,
            default="lattice",
            tooltip="A built-in pattern. High contrast pulls best; lattice is Mist Protect's own.",
        ),
        io.Combo.Input(
            "fit",
            options=FITS,
            default="crop",
            tooltip="How a picture of yours meets the aspect of the one to protect.",
        ),
        advanced(widget(BY_NAME["working_size"], WORKING_SIZE_TIP)),
        io.Image.Input("picture", optional=True, tooltip="A picture of yours in place of the pattern; the first one."),
    ]


def _pattern(name: str, height: int, width: int, working_size: int) -> Tensor:
    with engine():
        from ..mist_attack.targets import pattern
        from ..mist_attack.views import plan
    (view,) = plan(height, width, "whole", working_size, 64)
    return pattern(name, height, width) if view.gain == 1.0 else pattern(name, view.model_height, view.model_width)


def _scaled(picture: Tensor, height: int, width: int, fit: str) -> Tensor:
    with engine():
        from ..mist_attack.targets import crop_to_aspect
    if fit == "crop":
        picture = crop_to_aspect(picture, height / width)
    return F.interpolate(picture, (height, width), mode="bilinear", antialias=True)
