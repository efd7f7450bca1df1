"""MistProtectSet: pictures of one style in, protected together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from ..mist_attack.control import SEMANTIC
from ..mist_attack.controls import BY_NAME
from ..mist_attack.errors import PictureError, SettingsError
from ..mist_attack.sets.settings import SET_CONTROLS
from .layout import alpha_for, mask_for, to_engine, to_host
from .model import ABSENT, check_links, surrogate_for
from .packages import engine
from .progress import SetBar
from .request import settings_of
from .schema import ALIASES, CATEGORY, model_inputs, new_schema, options_input, output, vae_input
from .widgets import later, named, preset_widget, protect_controls, widgets

if TYPE_CHECKING:
    from ..mist_attack.attack import Protected
    from ..mist_attack.sets.alternation import Member


_LATER = [known for known in SET_CONTROLS if known.name == "set_direction"]
"""After all that saved workflows have: the values of widgets are kept there by their order."""


class MistProtectSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistProtectSet",
            display_name="Mist Protect Set",
            category=CATEGORY,
            description="Protects pictures of one style together, against a LoRA that is fine-tuned on all of them: in "
            "rounds, a LoRA of its own learns from the pictures as they are by then, on the loaded model, which is "
            "left as it was. Cancel keeps what is reached.",
            search_aliases=[*ALIASES, "lora", "style", "anti-dreambooth", "ace", "mist v2"],
            inputs=[*_required(), *model_inputs(), *_optional()],
            outputs=[
                io.Image.Output(
                    "protected",
                    display_name="protected",
                    tooltip="The protected pictures, in order, a list. One that failed is left out: see words.",
                    is_output_list=True,
                ),
                output(io.String, "report", "What was done and measured, one JSON object for each picture."),
                output(io.String, "words", "What was done to each picture, in a few sentences."),
            ],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(
        cls, mode: Any = None, model: Any = ABSENT, clip: Any = ABSENT, conditioning: Any = ABSENT
    ) -> str | bool:
        return check_links(_first(mode), model, clip, conditioning)

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        vae: list[Any],
        preset: list[str],
        model: list[Any] | None = None,
        clip: list[Any] | None = None,
        conditioning: list[Any] | None = None,
        captions: list[str] | None = None,
        masks: list[Tensor] | None = None,
        target: list[Tensor] | None = None,
        options: list[dict[str, Any]] | None = None,
        **chosen: list[Any],
    ) -> io.NodeOutput:
        values = {name: _first(value) for name, value in chosen.items()}
        own = {known.name: values.pop(known.name) for known in SET_CONTROLS if known.name in values}
        settings = settings_of(_first(preset), named(values), _first(options))
        surrogate = surrogate_for(settings.objective, _first(vae), _first(model), _first(clip), _first(conditioning))
        pictures = [image[i : i + 1] for image in images for i in range(len(image))]
        members = _members(pictures, _each(masks), captions or [], settings.prompt)
        aim = None if not target else to_engine(target[0][:1])
        made, failed = _protect(members, surrogate, settings, own, aim)
        channels = {member.name: alpha_for(picture, None) for member, picture in zip(members, pictures, strict=True)}
        shown = [to_host(protected.images, channels[name]) for name, protected in made.items()]
        return io.NodeOutput(shown, _as_json(members, made, failed), _as_words(members, made, failed))


def _required() -> list[io.Input]:
    mode = replace(BY_NAME["objective"], choices=SEMANTIC)
    controls = [mode if known.name == mode.name else known for known in protect_controls()]
    tip = "The pictures of one style: a batch, or a list of any sizes. Ten or more, as imitators have them."
    return [
        io.Image.Input("images", tooltip=tip),
        vae_input(),
        preset_widget(),
        *widgets(controls),
        *widgets([known for known in SET_CONTROLS if known not in _LATER]),
    ]


def _optional() -> list[io.Input]:
    return [
        io.String.Input(
            "captions",
            optional=True,
            multiline=True,
            default="",
            tooltip="What each picture shows, one a line, in order; one line for all; or none. Needs clip.",
        ),
        io.Mask.Input(
            "masks",
            optional=True,
            tooltip="Where to protect: white = protect. One for all pictures, or one for each.",
        ),
        io.Image.Input(
            "target",
            optional=True,
            tooltip="What the model shall see instead (lunet, fused): any picture, or a Mist Target. Without it, "
            "Mist's lattice.",
        ),
        options_input(),
        *map(later, widgets(_LATER)),
    ]


def _first(value: Any) -> Any:
    """Every input of this node comes as a list."""
    return (value[0] if value else None) if isinstance(value, list) else value


def _each(masks: list[Tensor] | None) -> list[Tensor]:
    """(1, H, W) each."""
    flat = [mask.reshape(-1, *mask.shape[-2:]) for mask in masks or []]
    return [mask[i : i + 1] for mask in flat for i in range(len(mask))]


def _members(pictures: list[Tensor], masks: list[Tensor], captions: list[str], usual: str) -> list[Member]:
    """Raises PictureError and SettingsError."""
    with engine():
        from ..mist_attack.sets.alternation import Member

    lines = [line.strip() for caption in captions for line in caption.splitlines() if line.strip()] or [usual]
    each = f"for all or one for each of {len(pictures)} pictures"
    if len(lines) not in (1, len(pictures)):
        raise SettingsError(f"Expected one caption {each}; got {len(lines)}.")
    if len(masks) not in (0, 1, len(pictures)):
        raise PictureError(f"Expected one mask {each}; got {len(masks)}.")

    def reader(picture: Tensor, mask: Tensor | None) -> Any:
        return lambda: (to_engine(picture), mask_for(picture, mask))

    members = []
    for i, picture in enumerate(pictures):
        mask = masks[min(i, len(masks) - 1)] if masks else None
        height, width = picture.shape[1:3]
        prompt = lines[min(i, len(lines) - 1)]
        members.append(Member(f"Picture {i + 1}", height, width, reader(picture, mask), prompt))
    return members


def _protect(
    members: list[Member], surrogate: Any, settings: Any, own: dict[str, Any], target: Tensor | None
) -> tuple[dict[str, Protected], dict[str, str]]:
    """By the pictures' names: what is protected, and why the others are not."""
    from ..mist_attack.sets.alternation import SetProtection
    from ..mist_attack.sets.settings import set_settings

    failed: dict[str, str] = {}
    protection = SetProtection(
        members,
        surrogate,
        settings,
        set_settings(own),
        target=target,
        on_step=SetBar().on_step,
        cancels=(comfy.model_management.InterruptProcessingException,),  # from any layer of the model
        on_failure=lambda member, error: failed.update({member.name: error}),
    )
    return {member.name: protected for member, protected in protection.run()}, failed


def _as_json(members: list[Member], made: dict[str, Protected], failed: dict[str, str]) -> str:
    rows = []
    for member in members:
        if member.name in failed:
            rows.append({"picture": member.name, "error": failed[member.name]})
            continue
        report = made[member.name].reports[0]
        rows.append({"picture": member.name, "words": report.words(), "summary": report.summary(), **report.as_dict()})
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _as_words(members: list[Member], made: dict[str, Protected], failed: dict[str, str]) -> str:
    told = []
    for member in members:
        text = f"failed, and left out: {failed[member.name]}" if member.name in failed else None
        told.append(f"{member.name}: {text or made[member.name].reports[0].as_text()}")
    return "\n\n".join(told)
