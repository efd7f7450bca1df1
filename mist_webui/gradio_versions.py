"""Where gradio 3.41 (AUTOMATIC1111) and 4.40 (Forge) differ. Nothing else in the face asks for a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

MAJOR = int(gr.__version__.split(".")[0])


def picture(kind: type[gr.Image] = gr.Image, **options: Any) -> gr.Image:
    """A picture to drop, paste or choose, as PIL with its alpha."""
    source = {"source": "upload"} if MAJOR < 4 else {"sources": ["upload", "clipboard"]}
    return kind(type="pil", image_mode="RGBA", interactive=True, **source, **options)


def canvas(**options: Any) -> tuple[Any, Any]:
    """A picture that can be painted on: two inputs, whose values go to `painted`.

    In gradio 4 the painting has a canvas of its own, Forge's: a picture that has been on one comes back drawn anew,
    without its profile and its metadata, and with the colours of transparent pixels lost.
    """
    if MAJOR < 4:
        from .gradio3_canvas import Canvas

        return picture(Canvas, tool="sketch", brush_color="#ffffff", **options), gr.State(None)
    from modules_forge.forge_canvas.canvas import ForgeCanvas

    chosen = picture(**options)
    with gr.Accordion("Paint a mask", open=False, elem_id=f"{options['elem_id']}_painting"):
        easel = ForgeCanvas(
            no_upload=True,
            scribble_color="#ffffff",
            scribble_color_fixed=True,
            scribble_alpha=80,
            scribble_alpha_fixed=True,
            scribble_softness_fixed=True,
            height=options["height"],
            elem_id=f"{options['elem_id']}_easel",
        )
    chosen.change(fn=_on_easel, inputs=[chosen], outputs=[easel.background, easel.foreground], show_progress="hidden")
    return chosen, easel.foreground


def _on_easel(chosen: Image.Image | None) -> tuple[Image.Image | None, None]:
    """Small enough to be sent, and nothing painted."""
    if chosen is None:
        return None, None
    small = chosen.copy()
    small.thumbnail((1024, 1024))
    return small, None


def painted(value: Any, drawn: Image.Image | None = None) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture of a `canvas`, and what was painted on it: white in an "L" picture, or None for nothing."""
    if isinstance(value, dict):
        return value.get("image"), _whitened(value.get("mask"))
    return value, None if drawn is None else _whitened(drawn.getchannel("A"))


def _whitened(mask: Image.Image | None) -> Image.Image | None:
    if mask is None:
        return None
    mask = mask.convert("L").point([0] * 128 + [255] * 128)
    return mask if mask.getbbox() else None


def gallery(**options: Any) -> gr.Gallery:
    """Pictures that other tabs can take."""
    return gr.Gallery(**options) if MAJOR < 4 else gr.Gallery(type="pil", interactive=False, **options)


def on_click(button: Any, function: Callable[..., Any] | None, *, js: str | None = None, **options: Any) -> None:
    button.click(fn=function, show_progress=False, **{"_js" if MAJOR < 4 else "js": js}, **options)


def warn(message: str) -> None:
    """Tell the page, where the caller has one; from the API or a console there is none, and this does nothing."""
    gr.Warning(message)
