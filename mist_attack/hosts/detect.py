"""Which web UI this process is. Asked as a fact: catching ImportError would take a broken install for another host."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ..errors import CheckpointError
from ..surrogate import Surrogate


def webui() -> str:
    """ "a1111", "forge", "classic" (Forge Classic and reForge), "other forge", "sdnext", or "none"."""
    if find_spec("modules") is None:
        return "none"
    if find_spec("modules.scripts_manager"):
        return "sdnext"
    if find_spec("modules_forge"):
        return next((host for part, host in FORGES.items() if find_spec(part)), "other forge")
    return "a1111" if find_spec("modules.sd_hijack") else "none"


FORGES = {"backend": "forge", "ldm_patched": "classic"}
ADAPTERS = {"a1111": "webui", "forge": "forge", "classic": "classic"}
NAMES = {"sdnext": "SD.Next", "forge": "this version of Forge", "classic": "this version of Forge Classic or reForge"}
NAMES |= {"other forge": "this relative of Forge"}


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
    if host not in ADAPTERS:
        raise _refused(host)
    try:
        adapter = import_module(f".{ADAPTERS[host]}", __package__)
    except ImportError as error:  # a relative, or a version, whose modules are others
        raise _refused(host, f" ({error})") from error
    return adapter.loaded(keep_extra_networks=keep_extra_networks)


def _refused(host: str, why: str = "") -> CheckpointError:
    return CheckpointError(
        f"Mist cannot use the model loaded in {NAMES.get(host, 'this program')}{why}. "
        "Use AUTOMATIC1111's web UI, Forge, ComfyUI, or the command `mist`."
    )
