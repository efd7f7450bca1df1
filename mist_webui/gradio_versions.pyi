"""Where gradio 3.41 (AUTOMATIC1111) and 4.40 (Forge) differ. Nothing else in the face asks for a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

MAJOR = int(gr.__version__.split(".")[0])

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

def picture(kind: type[gr.Image] = gr.Image, **options: Any) -> gr.Image:
    """A picture to drop, paste or choose, as PIL with its alpha."""
    source = {"source": "upload"} if MAJOR < 4 else {"sources": ["upload", "clipboard"]}
    return kind(type="pil", image_mode="RGBA", interactive=True, **source, **options)

def canvas(**options: Any) -> Any:
    """A picture that can be painted on; see `painted`."""
    if MAJOR < 4:
        return picture(Canvas, tool="sketch", brush_color="#ffffff", **options)
    brush = gr.Brush(colors=["#ffffff"], color_mode="fixed")
    return gr.ImageEditor(type="pil", image_mode="RGBA", brush=brush, transforms=(), **options)

def painted(value: Any) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture of a `canvas`, and what was painted on it: white in an "L" picture, or None for nothing."""
    if not isinstance(value, dict):
        return value, None
    if "layers" not in value:
        return value.get("image"), _whitened(value.get("mask"))
    layers = [layer.getchannel("A") for layer in value["layers"] if layer is not None]
    return value.get("background"), _whitened(layers[0] if layers else None)

def _whitened(mask: Image.Image | None) -> Image.Image | None:
    if mask is None:
        return None
    mask = mask.convert("L").point(lambda level: 255 if level >= 128 else 0)
    return mask if mask.getbbox() else None

def gallery(**options: Any) -> gr.Gallery:
    """Pictures that other tabs can take."""
    return gr.Gallery(**options) if MAJOR < 4 else gr.Gallery(type="pil", interactive=False, **options)

def on_click(button: Any, function: Callable[..., Any] | None, *, js: str | None = None, **options: Any) -> None:
    button.click(fn=function, show_progress=False, **{"_js" if MAJOR < 4 else "js": js}, **options)

def warn(message: str) -> None:
    """Tell the page, where the caller has one; from the API or a console there is none, and this does nothing."""
    gr.Warning(message)
