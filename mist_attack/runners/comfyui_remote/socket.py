"""ComfyUI's messages to one client, over its websocket."""

from __future__ import annotations

import json
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .client import REQUEST_SECONDS, Server, UnreachableError

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PING_SECONDS = 20.0
MAX_MESSAGE = 2**24
"""Bytes: previews of pictures come this way too."""

Message = tuple[str, dict[str, Any]]
NOTHING: Message = ("", {})


class Listener:
    """What a server tells the client of this name. Certificates and redirections are treated as `Server` does."""

    def __init__(self, server: Server) -> None:
        self.client = uuid.uuid4().hex
        self._server = server
        self._opened = ExitStack()
        self._connection: ClientConnection | None = None

    def open(self) -> None:
        """Also again, after a drop: from here on no message is missed. Raises UnreachableError."""
        from websockets.exceptions import WebSocketException

        self.close()
        try:
            self._connection = self._opened.enter_context(_connected(self._server, self.client))
            self._connection.recv(timeout=REQUEST_SECONDS)  # its greeting: it knows this client now
        except (OSError, WebSocketException, ImportError) as error:  # ImportError: a proxy of a kind that needs more
            self.close()
            raise UnreachableError(
                f"{self._server.url}/ws: no websocket ({error or type(error).__name__}). "
                "A proxy in between has to let it through."
            ) from error

    def hear(self, seconds: float) -> Message:
        """The next message, or NOTHING within this time. Raises UnreachableError where the socket has dropped."""
        from websockets.exceptions import ConnectionClosed

        if self._connection is None:
            raise UnreachableError(f"{self._server.url}/ws is closed.")
        try:
            return _parsed(self._connection.recv(timeout=seconds))
        except TimeoutError:
            return NOTHING
        except (ConnectionClosed, OSError) as error:
            self.close()
            raise UnreachableError(f"{self._server.url}/ws dropped ({error}).") from error

    def close(self) -> None:
        self._connection = None
        self._opened.close()


def _connected(server: Server, client: str) -> ClientConnection:
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.sync.client import ClientConnection, connect

    class Unredirected(ClientConnection):
        def handshake(self, *arguments: Any, **named: Any) -> None:
            try:
                super().handshake(*arguments, **named)
            except InvalidStatus as error:  # of which the package would follow a redirection
                raise InvalidHandshake(str(error)) from error

    return connect(  # pyright: ignore[reportReturnType]  # of newer versions; a context manager in all
        f"ws{server.url[4:]}/ws?clientId={client}",
        additional_headers=server.headers,
        proxy=None if server.is_local else True,
        open_timeout=REQUEST_SECONDS,
        ping_interval=PING_SECONDS,
        ping_timeout=REQUEST_SECONDS,
        close_timeout=1,
        max_size=MAX_MESSAGE,
        create_connection=Unredirected,
    )


def _parsed(message: str | bytes) -> Message:
    if isinstance(message, bytes):  # a preview
        return NOTHING
    try:
        found = json.loads(message)
        return str(found["type"]), dict(found["data"])
    except (ValueError, KeyError, TypeError):
        return NOTHING
