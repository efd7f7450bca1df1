"""Which web UI this process is. Asked as a fact: catching ImportError would take a broken install for another host."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import CheckpointError
from ..surrogate import Surrogate


def webui() -> str:
    """ "a1111", "forge", "reforge" (reForge and Forge Classic), "sdnext", or "none"."""
    if find_spec("modules") is None:
        return "none"
    if find_spec("modules.scripts_manager"):
        return "sdnext"
    if find_spec("modules_forge"):
        return "forge" if find_spec("backend") else "reforge"
    return "a1111" if find_spec("modules.sd_hijack") else "none"


def loaded_model(*, keep_extra_networks: bool = False, small: bool = False) -> Surrogate:
    """The model of the web UI we are in; see `loaded` in its adapter. small: the small autoencoder that the web UI has
    for it. Raises CheckpointError where we have none."""
    model = _loaded_model(keep_extra_networks)
    if not small:
        return model
    from .taesd import small_of

    return small_of(model)


def _loaded_model(keep_extra_networks: bool) -> Surrogate:
    host = webui()
    if host == "a1111":
        from .webui import loaded

        return loaded(keep_extra_networks=keep_extra_networks)
    if host == "forge":
        from .forge import loaded

        return loaded(keep_extra_networks=keep_extra_networks)
    names = {"sdnext": "SD.Next", "reforge": "reForge or Forge Classic"}
    raise CheckpointError(
        f"Mist cannot use the model loaded in {names.get(host, 'this program')}. "
        "Use AUTOMATIC1111's web UI, Forge, ComfyUI, or the command `mist`."
    )
