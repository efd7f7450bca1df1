"""MistOptions: what a beginner need not see."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .schema import CATEGORY, KEEP_SIZE, SIZES, Options, advanced, new_schema, output


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
    return [*_gradient(), *_view(), *_rest()]


def _gradient() -> list[io.Input]:
    return [
        io.Combo.Input(
            "gradient",
            options=["exact", "sds", "amortised"],
            default="exact",
            tooltip="The semantic gradient: exact, through the UNet; sds, score distillation, without the UNet's "
            "derivative: faster, and with less memory; or amortised, sds at every third step: faster still.",
        ),
        advanced(
            io.Combo.Input(
                "direction",
                options=["ascent", "descent"],
                default="ascent",
                tooltip="Make the denoising loss larger (Mist) or smaller (Xue et al. 2024), which looks smoother.",
            )
        ),
        io.Float.Input(
            "step",
            default=1.0,
            min=0.1,
            max=255.0,
            step=0.1,
            round=0.01,
            tooltip="How far one step moves a value, in grey levels. Mist's is 1.",
        ),
        advanced(
            io.Boolean.Input(
                "step_decay", default=False, tooltip="Steps shrink towards zero, so that few large ones end finely."
            )
        ),
    ]


def _view() -> list[io.Input]:
    return [
        io.Combo.Input(
            "view",
            options=["whole", "tiles", "both"],
            default="whole",
            tooltip="Tiling: what the model sees of a picture larger than the working size. whole: all of it, "
            "reduced, as imitators train. tiles: overlapping tiles at native scale. both: the two together.",
        ),
        io.Int.Input(
            "working_size",
            default=512,
            min=64,
            max=4096,
            step=64,
            tooltip="Side in pixels of the square that the model sees at once: 512 for SD 1 and 2.0-base, 768 for SD "
            "2, 1024 for SDXL. The picture keeps its size.",
        ),
        io.Combo.Input(
            "output_size",
            options=SIZES,
            default=KEEP_SIZE,
            tooltip="keep: the picture keeps its size. working size: a larger picture is first reduced to it (its "
            "aspect kept).",
        ),
        io.Boolean.Input(
            "low_vram",
            default=False,
            tooltip="Less memory for more time: parts of the model are computed twice. Done by itself when memory "
            "runs out.",
        ),
    ]


def _rest() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "keep_tone",
            default=True,
            tooltip="The picture gets neither darker, lighter nor tinted. Off: as Mist was published.",
        ),
        io.String.Input(
            "prompt",
            default="a painting",
            tooltip="What the semantic part tells the model that it sees; needs clip. Empty: no prompt. A connected "
            "conditioning takes its place.",
        ),
        advanced(
            io.Float.Input(
                "momentum",
                default=0.0,
                min=0.0,
                max=0.99,
                step=0.05,
                round=0.01,
                tooltip="Share of the earlier gradients that a step keeps. 0.5 makes few large steps reach further.",
            )
        ),
    ]
