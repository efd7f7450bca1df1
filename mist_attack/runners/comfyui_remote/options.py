"""Which servers are asked, and what for. Needs neither of the packages that reach them."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingsError

TIMEOUT = 3600.0


@dataclass(frozen=True)
class RemoteOptions:
    """urls: of the servers. checkpoint: its name in their lists. allow_remote: pictures may leave this machine.
    seconds: for one picture. bars: show one for each picture at work. Raises SettingsError where one is missing."""

    urls: tuple[str, ...]
    checkpoint: str
    allow_remote: bool = False
    seconds: float = TIMEOUT
    bars: bool = False

    def __post_init__(self) -> None:
        if not self.urls:
            raise SettingsError("--engine comfyui needs --url http://127.0.0.1:8188, once for each server.")
        if not self.checkpoint:
            raise SettingsError("--engine comfyui needs --checkpoint NAME: its name in the servers' list.")

    @staticmethod
    def require_packages() -> None:
        """Raises SettingsError where a package is missing, or websockets older than its proxies and pings."""
        try:
            import httpx  # noqa: F401
            from websockets.exceptions import InvalidProxy  # noqa: F401  # new in the first version that will do
        except ImportError as error:
            raise SettingsError(
                f'--engine comfyui needs httpx and websockets >= 15 ({error}): pip install "mist-protect[remote]"'
            ) from error
