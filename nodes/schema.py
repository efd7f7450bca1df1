"""What the nodes' schemas share: the two hosts' V3 APIs differ in a few words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "image/protection"
ALIASES = ["glaze", "nightshade", "anti-ai", "cloak", "mist", "protect", "adversarial"]
PATTERNS = ["lattice", "crosses", "checker", "rings"]
SIZES = KEEP_SIZE, WORKING_SIZE = ["keep", "working size"]
FITS = ["crop", "stretch"]
FORMATS = ["png", "webp"]
DATA_MINING = ["off", "allowed", "prohibited"]

Options = io.Custom("MIST_OPTIONS")
"""A dict of controls by name (`mist_attack/controls.py`), and `output_size`."""


def new_schema(**wanted: Any) -> io.Schema:
    """A schema without the fields that this host does not know (search aliases before 0.4)."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in wanted.items() if name in known})


def output(kind: Any, id: str, tooltip: str) -> io.Output:
    """0.3.64 shows the type where an output has no display name."""
    return kind.Output(id, display_name=id, tooltip=tooltip)


def vae_input() -> io.Input:
    return io.Vae.Input("vae", tooltip="The autoencoder of the loaded checkpoint. Textural mode needs nothing else.")


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", optional=True, tooltip="The loaded checkpoint's model. Needed by semantic and fused."),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="The loaded checkpoint's CLIP: encodes Mist's own prompt, 'a painting'. "
            "Semantic and fused need it, or a conditioning.",
        ),
        io.Conditioning.Input(
            "conditioning",
            optional=True,
            tooltip="A prompt of your own (CLIP Text Encode) instead of Mist's: say what the picture shows.",
        ),
    ]


def options_input() -> io.Input:
    return Options.Input("options", optional=True, tooltip="Everything else, from a Mist Options node.")
