"""A part of gradio 3's face. Apart: gradio 4 writes a file beside every component that it sees defined."""

from __future__ import annotations

from typing import Any

import gradio as gr

NOTHING_PAINTED = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)


class Canvas(gr.Image):
    """gradio 3's, which fails on what the page sends in the moment after a picture was chosen: no mask yet."""

    def get_block_name(self) -> str:
        return "image"

    def preprocess(self, x: Any) -> Any:
        value = {"image": x, "mask": None} if isinstance(x, str) else x
        if value is not None and not value["mask"]:
            value = {**value, "mask": NOTHING_PAINTED}
        return super().preprocess(value)
