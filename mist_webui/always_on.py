"""In txt2img and img2img: each finished image is protected before the web UI saves it. Off by default."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from modules import errors, images, scripts, shared
from modules.ui_components import InputAccordion
from PIL import Image

from mist_attack.errors import MistError
from mist_attack.settings import Settings

from . import controls, infotext, made, progress
from .gradio_versions import warn
from .jobs import protect_picture

HIDDEN = import_module("modules.stealth_infotext") if find_spec("modules.stealth_infotext") else None
"""Where Forge hides the infotext in the pixels too; it has done so before we are asked."""
SECTIONS = ("parameters", "postprocessing", "extras")
"""Of a file's text, where infotext is."""


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
            reason = _protect(p, pp, controls.settings_from(arguments))
            known = True
        except MistError as error:
            reason, known = str(error), True
        except Exception as error:  # what goes wrong here must not lose the user's picture
            reason, known = f"{type(error).__name__}: {error}", False
            errors.report("Mist could not protect an image", exc_info=True)
        if reason is not None:
            _fail(p, reason, reason if known else "an unexpected error; the console has it")


def _protect(p: Any, pp: Any, settings: Settings) -> str | None:
    """Put the protected image in the place of the finished one; or why it was not."""
    if progress.stopped():
        return "The generation was interrupted."
    shared.state.job_count += 1  # the bar is at its end by now
    outcome = protect_picture(pp.image, settings, keep_extra_networks=True)
    shared.state.job_no += 1
    if outcome.report.stopped:
        return "The protection was interrupted."
    outcome.image.info = dict(pp.image.info)
    pp.image = outcome.image
    keys = infotext.keys_of(outcome.report)
    notices = [*outcome.report.notices, *infotext.lossy_notices(*outcome.image.size)]
    if notices:
        keys["Mist note"] = "; ".join(notices)
        _say(p, f"Mist: {'; '.join(notices)}")
    p.comment(f"Mist: image {_number(p)}. {outcome.report.words()}")
    _write(p, keys, outcome.image)
    return None


def _fail(p: Any, reason: str, published: str) -> None:
    """Said on the page, on the console and, for programs, in the infotext: the image comes back all the same."""
    message = f"Mist: NOT protected: image {_number(p)}. {reason}"
    errors.report(message)
    _say(p, message)
    _write(p, {infotext.ERROR: f"not protected: {published}"})


def _number(p: Any) -> int:
    return p.iteration * p.batch_size + p.batch_index + 1


def _say(p: Any, message: str) -> None:
    p.comment(message)
    warn(message)


def _write(p: Any, keys: dict[str, str], image: Image.Image | None = None) -> None:
    """Into the infotext of this image alone: the next ones', and copies from before, are not protected."""
    if not hasattr(p, "mist_keys"):
        p.mist_keys, p.mist_images = {}, []
    p.mist_keys[p.iteration, p.batch_index] = keys
    p.mist_images += [] if image is None else [image]
    for key in keys:
        p.extra_generation_params[key] = _OfImage(key)


class _OfImage:
    """The web UI calls what it finds in `extra_generation_params`, and leaves out a None."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, p: Any, index: int = 0, use_main_prompt: bool = False, **_: Any) -> str | None:
        if not use_main_prompt:
            return p.mist_keys.get((p.iteration, index), {}).get(self.key)
        found = [value for keys in p.mist_keys.values() if (value := keys.get(self.key)) is not None]
        whole = self.key == infotext.ERROR or len(found) == p.n_iter * p.batch_size
        return found[0] if found and whole else None  # of a grid: true only of all of its images


def strip_from_copies(params: Any) -> None:
    """Before the web UI saves a file: only the pixels of a protected image may be called protected.

    Masks and composites get their image's infotext, an upscaled picture keeps that of its source."""
    before = {name: text for name in SECTIONS if isinstance(text := params.pnginfo.get(name), str)}
    after = {name: infotext.without(infotext.CLAIMS, text) for name, text in before.items() if "Mist" in text}
    if all(before[name] == text for name, text in after.items()) or _is_protected(params):
        return
    params.pnginfo.update(after)
    if HIDDEN is not None and shared.opts.enable_pnginfo:
        HIDDEN.add_stealth_pnginfo(params)


def _is_protected(params: Any) -> bool:
    parts = getattr(params.p, "mist_images", [])
    if len(parts) > 1 and len(parts) == params.p.n_iter * params.p.batch_size:
        made.remember(images.image_grid(parts, params.p.batch_size))
    return made.is_ours(params.image)
