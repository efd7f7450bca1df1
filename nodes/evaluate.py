"""MistEvaluate: what a model makes of a picture before and after protection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..mist_attack.controls import BY_NAME
from ..mist_attack.errors import PictureError
from .layout import to_engine, to_host
from .model import ABSENT, check_links, surrogate_for
from .request import settings_of
from .schema import CATEGORY, model_inputs, new_schema, options_input, output, vae_input
from .widgets import advanced

if TYPE_CHECKING:
    from ..mist_attack.evaluation import Comparison


class MistEvaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistEvaluate",
            display_name="Mist Evaluate",
            category=CATEGORY,
            description="Looks at a picture before and after protection through the same model: how far its latents "
            "moved, what the objective says, and what the model's autoencoder keeps of each.",
            search_aliases=["mist report", "latent shift", "reconstruction"],
            inputs=_inputs(),
            outputs=[
                output(io.Image, "reconstructions", "What the autoencoder keeps: left before, right after."),
                output(io.String, "report", "The figures, one JSON object for each picture."),
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
        found = _compare_each(to_engine(before), to_engine(after), surrogate, settings, target, conditioning)
        sheet = torch.cat([torch.cat(pair.reconstructions, dim=3).cpu() for pair in found])
        return io.NodeOutput(to_host(sheet), json.dumps([pair.figures for pair in found], indent=2))


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("before", tooltip="The picture as it was."),
        io.Image.Input("after", tooltip="The protected picture, of the same size: Mist Protect's first output."),
        vae_input(),
        io.Combo.Input(
            "mode",
            options=BY_NAME["objective"].offered,
            default="textural",
            tooltip="Which objective to measure: textural, the distance to the target through the VAE alone; "
            "semantic, the model's denoising loss; fused, both.",
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


def _compare_each(
    before: Tensor, after: Tensor, surrogate: Any, settings: Any, target: Tensor | None, conditioning: Any
) -> list[Comparison]:
    from ..mist_attack.evaluation import compare

    if before.shape != after.shape:
        raise PictureError(
            f"Expected before and after of one size and number; got {tuple(before.shape)} and {tuple(after.shape)}."
        )
    found = []
    for i in range(len(before)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        pair = before[i : i + 1], after[i : i + 1]
        found.append(compare(surrogate, *pair, settings, target=target, conditioning=conditioning))
    return found
