"""MistEvaluate: what a model makes of a picture before and after protection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..mist_attack.controls import BY_NAME
from ..mist_attack.errors import PictureError
from .layout import to_engine, to_host
from .model import ABSENT, check_links, surrogate_for
from .packages import engine
from .request import settings_of
from .schema import CATEGORY, model_inputs, new_schema, options_input, output, vae_input
from .widgets import advanced

if TYPE_CHECKING:
    from ..mist_attack.evaluation.results import Pair


class MistEvaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistEvaluate",
            display_name="Mist Evaluate",
            category=CATEGORY,
            description="Judges a protection through a model: what one sees of it, how far the model's view of the "
            "picture moved, what the model makes of it, and what is left after JPEG, reductions and filters.",
            search_aliases=["mist report", "latent shift", "reconstruction"],
            inputs=_inputs(),
            outputs=[
                output(
                    io.Image,
                    "reconstructions",
                    "What the autoencoder keeps, left before, right after; with the whole model, variations below.",
                ),
                output(io.String, "report", "What the protection is worth, in words, and the figures."),
                output(io.String, "json", "All figures with their intervals, as JSON."),
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
        before: Tensor,
        after: Tensor,
        vae: Any,
        mode: str,
        seed: int,
        model: Any = None,
        clip: Any = None,
        conditioning: Any = None,
        target: Tensor | None = None,
        options: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        settings = settings_of("default", {"objective": mode, "seed": seed}, options)
        surrogate = surrogate_for(mode, vae, model, clip, conditioning)
        target = None if target is None else to_engine(target[:1])
        pairs = _judge_each(to_engine(before), to_engine(after), surrogate, settings, target, conditioning)
        return _output(pairs)


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("before", tooltip="The picture as it was."),
        io.Image.Input("after", tooltip="The protected picture, of the same size: Mist Protect's first output."),
        vae_input(),
        io.Combo.Input(
            "mode",
            options=BY_NAME["objective"].offered,
            default="textural",
            tooltip="What judges: textural, the VAE alone; semantic and fused, the whole model, with its denoising "
            "loss, img2img and inpainting too.",
        ),
        advanced(_seed()),
        *model_inputs(),
        io.Image.Input("target", optional=True, tooltip="The target that Mist Protect was given, if any."),
        options_input(),
    ]


def _seed() -> io.Input:
    seed = BY_NAME["seed"]
    tip = "Both pictures are judged by the same random draws."
    return io.Int.Input("seed", default=seed.default, min=seed.least, max=seed.most, tooltip=tip)


def _judge_each(
    before: Tensor, after: Tensor, surrogate: Any, settings: Any, target: Tensor | None, conditioning: Any
) -> list[Pair]:
    with engine():
        from ..mist_attack.budget import to_levels
        from ..mist_attack.evaluation.judging import judge
        from ..mist_attack.evaluation.results import Pair

    if before.shape != after.shape:
        raise PictureError(
            f"Expected before and after of one size and number; got {tuple(before.shape)} and {tuple(after.shape)}."
        )
    found = []
    for i in range(len(before)):
        first, second = (to_levels(pictures[i : i + 1]).cpu() for pictures in (before, after))
        judged = judge(surrogate, first, second, settings, target=target, conditioning=conditioning, on_part=_on_part)
        found.append(Pair(f"before {i + 1}", f"after {i + 1}", first, second, [judged]))
    return found


def _on_part(words: str) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _output(pairs: list[Pair]) -> io.NodeOutput:
    from ..mist_attack.budget import to_unit
    from ..mist_attack.evaluation.results import as_json, results
    from ..mist_attack.evaluation.words import as_text

    found = results([pair.figures() for pair in pairs], {}, {})
    sheets = torch.cat([to_unit(pair.sheet()) for pair in pairs])
    return io.NodeOutput(to_host(sheets), as_text(found), as_json(found))
