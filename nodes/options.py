"""MistOptions: what a beginner need not see."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .schema import CATEGORY, KEEP_SIZE, SIZES, Options, new_schema, output
from .widgets import option_controls, widgets


class MistOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistOptions",
            display_name="Mist Options",
            category=CATEGORY,
            description="Everything about the protection that rarely needs a change. The defaults are Mist Protect's "
            "own: connecting this node changes nothing by itself.",
            search_aliases=["mist settings", "mist advanced"],
            inputs=_inputs(),
            outputs=[output(Options, "options", "Connect it to Mist Protect or Mist Evaluate.")],
        )

    @classmethod
    def execute(cls, **options: Any) -> io.NodeOutput:
        return io.NodeOutput(options)


def _inputs() -> list[io.Input]:
    first, rest = option_controls()
    size = io.Combo.Input(
        "output_size",
        options=SIZES,
        default=KEEP_SIZE,
        tooltip="keep: the picture keeps its size. working size: a larger picture is first reduced to it (its "
        "aspect kept).",
    )
    return [*widgets(first), size, *widgets(rest)]
