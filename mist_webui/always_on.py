"""In txt2img and img2img: each finished image is protected before the web UI saves it. Off by default."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from modules import errors, scripts, shared
from modules.ui_components import InputAccordion

from mist_attack.errors import MistError

from . import controls, infotext, options, progress
from .gradio_versions import warn
from .jobs import protect_picture

OURS = re.compile(r",? ?\bMist[\w \-/]*: (?:\"(?:\\.|[^\\\"])+\"|[^,\n]*)")
MARK = "mist_protected"  # on a PIL image that we made
HIDDEN = import_module("modules.stealth_infotext") if find_spec("modules.stealth_infotext") else None
"""Where Forge hides the infotext in the pixels too; it has done so before we are asked."""


class MistScript(scripts.Script):
    """Written after face restoration, colour correction and the overlay of inpainting have done their work."""

    def title(self) -> str:
        return "Mist"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        where = "img2img" if is_img2img else "txt2img"
        with InputAccordion(False, label="Mist", elem_id=f"mist_{where}_enable") as enabled:
            widgets = controls.create(where)
        enabled.do_not_save_to_config = True
        return [enabled, *widgets.values()]

    def postprocess_image_after_composite(self, p: Any, pp: Any, enabled: bool = False, *arguments: Any) -> None:
        if not enabled:
            return
        try:
            reason = _protect(p, pp, controls.values_from(arguments))
        except MistError as error:
            reason = str(error)
        except Exception as error:  # what goes wrong here must not lose the user's picture
            errors.report("Mist could not protect an image", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            _say(p, f"Mist: NOT protected: image {p.iteration * p.batch_size + p.batch_index + 1}. {reason}")


def _protect(p: Any, pp: Any, values: dict[str, Any]) -> str | None:
    """Put the protected image in the place of the finished one; or why it was not."""
    settings = options.settings_from(values)
    if progress.stopped():
        return "The generation was interrupted."
    shared.state.job_count += 1  # the bar is at its end by now
    outcome = protect_picture(pp.image, settings, keep_extra_networks=True)
    shared.state.job_no += 1
    if outcome.report.stopped:
        return "The protection was interrupted."
    outcome.image.info = dict(pp.image.info)
    setattr(outcome.image, MARK, True)
    pp.image = outcome.image
    keys = infotext.keys_of(outcome.report)
    notices = [*outcome.report.notices, *infotext.lossy_notices(*outcome.image.size)]
    if notices:
        keys["Mist note"] = "; ".join(notices)
        _say(p, f"Mist: {'; '.join(notices)}")
    _write(p, keys)
    return None


def _say(p: Any, message: str) -> None:
    p.comment(message)
    warn(message)


def _write(p: Any, keys: dict[str, str]) -> None:
    """Into the infotext of this image alone: the next ones', and copies from before, are not protected."""
    if not hasattr(p, "mist_keys"):
        p.mist_keys = {}
    p.mist_keys[p.iteration, p.batch_index] = keys
    for key in keys:
        p.extra_generation_params[key] = _OfImage(key)


class _OfImage:
    """The web UI calls what it finds in `extra_generation_params`, and leaves out a None."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, p: Any, index: int = 0, use_main_prompt: bool = False, **_: Any) -> str | None:
        if use_main_prompt:  # of a grid: true only of all of its images
            values = [keys.get(self.key) for keys in p.mist_keys.values()]
            return values[0] if len(values) == p.n_iter * p.batch_size else None
        return p.mist_keys.get((p.iteration, index), {}).get(self.key)


def strip_from_copies(params: Any) -> None:
    """Before the web UI saves a file: masks and composites get their image's infotext, but are not protected."""
    keys = getattr(params.p, "mist_keys", None)
    text = params.pnginfo.get("parameters")
    if not keys or not text or getattr(params.image, MARK, False) or _is_grid(params):
        return
    params.pnginfo["parameters"] = OURS.sub("", text)
    if HIDDEN is not None and shared.opts.enable_pnginfo:
        HIDDEN.add_stealth_pnginfo(params)


def _is_grid(params: Any) -> bool:
    width, height = params.image.size
    return width * height > params.p.width * params.p.height * 1.5
