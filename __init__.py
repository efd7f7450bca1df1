"""ComfyUI loads the repository by this file. Nothing happens here where there is no ComfyUI."""

import importlib.util
import logging
import sys

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    """ComfyUI's way to ask a pack for its nodes."""
    from .nodes import MistExtension

    return MistExtension()


def _what_is_missing() -> str | None:
    """A sentence for the console; None where all is well, or where no ComfyUI is loading us."""
    if "folder_paths" not in sys.modules or "comfy" not in sys.modules:
        return None
    try:
        from comfy_api.latest import ComfyExtension, io  # noqa: F401
    except ImportError:
        return "this ComfyUI is too old for Mist's nodes (they need its V3 node API, as in 0.3.64). Update ComfyUI."
    if importlib.util.find_spec("omegaconf") is None:
        return f"omegaconf is not installed. Run: {sys.executable} -m pip install -r {__path__[0]}/requirements.txt"
    return None


if _message := _what_is_missing():
    logging.getLogger(__name__).warning("Mist: %s", _message)
