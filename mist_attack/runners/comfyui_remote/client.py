"""A running ComfyUI, asked over HTTP. Only what is passed here is sent: pictures under random names, and
a graph. Both are kept among the server's temporary files."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

from ...errors import MistError, SettingsError
from ...pictures.reading import MAX_BYTES

REQUEST_SECONDS = 60.0
FOLDER = "mist"

Graph = dict[str, dict[str, Any]]


class UnreachableError(MistError):
    """The server does not answer, or not as a ComfyUI with these nodes does: nothing is wrong with the picture."""


class Server:
    """One ComfyUI. Certificates are verified, redirections are not followed.

    Raises SettingsError for an address that is none, and for another machine's unless `allow_remote`. All methods
    raise UnreachableError where the server does not answer, and MistError for what it refuses.
    """

    def __init__(self, url: str, *, allow_remote: bool = False, log_in: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"--url {url}: expected an address like http://127.0.0.1:8188.")
        if parts.username or parts.password:
            raise SettingsError("--url: a log-in is given as MIST_COMFYUI_LOGIN=user:password, not in the address.")
        self.is_local = is_loopback(parts.hostname)
        if not (self.is_local or allow_remote):
            raise SettingsError(f"--url {url} is another machine, and pictures would leave this one: --allow-remote.")
        self.url = url.rstrip("/")
        self.is_open = parts.scheme == "http" and not self.is_local
        self.headers = {"Authorization": f"Basic {base64.b64encode(log_in.encode()).decode()}"} if log_in else {}
        handlers: list[Any] = [_NoRedirection(), *([urllib.request.ProxyHandler({})] if self.is_local else [])]
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Any:
        return _json(self._ask(self._request(path)), self.url + path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._ask(self._request(path, json.dumps(body).encode(), "application/json"))
        return _json(answer, self.url + path) if answer else None

    def download(self, file: dict[str, str]) -> bytes:
        """A file that a node named in its output."""
        wanted = {name: str(file.get(name, "")) for name in ("filename", "subfolder", "type")}
        return self._ask(self._request(f"/view?{urllib.parse.urlencode(wanted)}"))

    def upload(self, data: bytes) -> str:
        """A PNG, under a random name among the temporary files; its name for LoadImage."""
        name, boundary = f"{uuid.uuid4().hex}.png", uuid.uuid4().hex
        fields = {"type": "temp", "subfolder": FOLDER, "overwrite": "true"}
        lines = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()
        ]
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        body = (
            "".join([*lines, head, "Content-Type: image/png\r\n\r\n"]).encode()
            + data
            + f"\r\n--{boundary}--\r\n".encode()
        )
        kind = f"multipart/form-data; boundary={boundary}"
        found = _json(self._ask(self._request("/upload/image", body, kind)), f"{self.url}/upload/image")
        return f"{found['subfolder']}/{found['name']} [temp]"

    def _request(self, path: str, body: bytes | None = None, kind: str | None = None) -> urllib.request.Request:
        address = self.url + path
        headers = {**self.headers, **({"Content-Type": kind} if kind else {})}
        return urllib.request.Request(address, body, headers)

    def _ask(self, request: urllib.request.Request) -> bytes:
        try:
            with self._opener.open(request, timeout=REQUEST_SECONDS) as answer:
                found = answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise _refusal(self.url, request.selector, error) from error
        except (OSError, http.client.HTTPException) as error:  # also what a certificate raises
            raise UnreachableError(
                f"{self.url} does not answer ({getattr(error, 'reason', None) or error})."
            ) from error
        if len(found) > MAX_BYTES:
            raise UnreachableError(f"{self.url} answers without end.")
        return found


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A server on this machine must not send pictures on to another one."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _json(data: bytes, address: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnreachableError(f"{address} answers as no ComfyUI does.") from error


def _refusal(url: str, path: str, error: urllib.error.HTTPError) -> MistError:
    if error.code in (401, 403):
        return UnreachableError(f"{url} asks for a log-in: MIST_COMFYUI_LOGIN=user:password.")
    if error.code != 400:
        return UnreachableError(f"{url}{path.partition('?')[0]}: {error.code} {error.reason}.")
    detail = error.read(4000).decode("utf-8", "replace")
    return MistError(f"{url} refuses the graph: {' '.join(_words(detail).split())[:500]}")


def _words(detail: str) -> str:
    """The messages in ComfyUI's answer to a graph that it refuses."""
    try:
        answer = json.loads(detail)
        errors = [error for node in answer["node_errors"].values() for error in node["errors"]] or [answer["error"]]
        return ", ".join(f"{error['message']} {error['details']}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return detail
