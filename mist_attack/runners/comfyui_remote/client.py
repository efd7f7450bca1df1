"""A running ComfyUI, asked over HTTP. Only what is passed here is sent: pictures under random names, and
a graph. Both are kept among the server's temporary files."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import uuid
from typing import Any

import httpx

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
        parts = _parsed(url)
        if parts.userinfo:
            raise SettingsError(
                "--url: expected an address without a log-in. Set MIST_COMFYUI_LOGIN=user:password instead."
            )
        self.is_local = is_loopback(parts.host)
        if not (self.is_local or allow_remote):
            raise SettingsError(f"--url {url} is another machine. To let pictures leave this one, add --allow-remote.")
        self.url = str(parts).rstrip("/")
        self.is_open = parts.scheme == "http" and not self.is_local
        self.headers = {"Authorization": f"Basic {base64.b64encode(log_in.encode()).decode()}"} if log_in else {}
        self._client = _client(self.headers, through_proxies=not self.is_local)

    def get(self, path: str) -> Any:
        return _json(self._ask("GET", path), self.url + path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._ask("POST", path, json=body)
        return _json(answer, self.url + path) if answer else None

    def download(self, file: dict[str, str]) -> bytes:
        """A file that a node named in its output."""
        wanted = {name: str(file.get(name, "")) for name in ("filename", "subfolder", "type")}
        return self._ask("GET", "/view", params=wanted)

    def upload(self, data: bytes) -> str:
        """A PNG, under a random name among the temporary files; its name for LoadImage."""
        image = (f"{uuid.uuid4().hex}.png", data, "image/png")
        fields = {"type": "temp", "subfolder": FOLDER, "overwrite": "true"}
        answer = self._ask("POST", "/upload/image", data=fields, files={"image": image})
        found = _json(answer, f"{self.url}/upload/image")
        return f"{found['subfolder']}/{found['name']} [temp]"

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, **request: Any) -> bytes:
        try:
            with self._client.stream(method, self.url + path, **request) as answer:
                if not answer.is_success:
                    raise _refusal(self.url, path, answer)
                found = _read(answer, MAX_BYTES + 1)
        except (httpx.HTTPError, OSError) as error:  # also what a certificate raises
            raise UnreachableError(f"{self.url} does not answer ({error or type(error).__name__}).") from error
        if len(found) > MAX_BYTES:
            raise UnreachableError(f"{self.url}{path} sends more than {MAX_BYTES} bytes. Is it a ComfyUI?")
        return found


def _parsed(url: str) -> httpx.URL:
    try:
        parts = httpx.URL(url)
        has_more = parts.query or parts.fragment or (parts.port or 0) >= 2**16
        if parts.scheme in ("http", "https") and parts.host and not has_more:
            return parts
    except (httpx.InvalidURL, ValueError) as error:
        raise SettingsError(f"--url {url}: expected an address like http://127.0.0.1:8188 ({error}).") from error
    raise SettingsError(f"--url {url}: expected an address like http://127.0.0.1:8188.")


def _client(headers: dict[str, str], *, through_proxies: bool) -> httpx.Client:
    """Follows no redirection: a server on this machine must not send pictures on to another one. Trusts whom the system
    trusts, as the websocket does. Keeps no connection: one that idles for a picture's time may be cut."""
    try:
        return httpx.Client(
            headers={**headers, "Accept-Encoding": "identity"},  # so that the bytes that are counted are all there are
            timeout=REQUEST_SECONDS,
            follow_redirects=False,
            verify=ssl.create_default_context(),
            trust_env=through_proxies,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
    except (ImportError, ValueError) as error:  # of a kind that needs another package, or none
        raise SettingsError(
            f"The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used: {error}"
        ) from error


def _read(answer: httpx.Response, limit: int) -> bytes:
    """No more than about `limit` bytes of it."""
    found = bytearray()
    for part in answer.iter_raw():
        found += part
        if len(found) >= limit:
            break
    return bytes(found)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _json(data: bytes, address: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnreachableError(f"{address}: expected JSON, as ComfyUI answers; got something else.") from error


def _refusal(url: str, path: str, answer: httpx.Response) -> MistError:
    code = answer.status_code
    if code in (401, 403):
        return UnreachableError(f"{url} asks for a log-in. Set MIST_COMFYUI_LOGIN=user:password.")
    if answer.is_redirect:
        return UnreachableError(
            f"{url}{path}: {code}, a redirection, which is not followed. Give --url the address it leads to."
        )
    if code != 400:
        return UnreachableError(f"{url}{path}: {code} {answer.reason_phrase}.")
    detail = _read(answer, 4000)[:4000].decode("utf-8", "replace")
    return MistError(f"{url} refuses the graph: {' '.join(_words(detail).split())[:500]}")


def _words(detail: str) -> str:
    """The messages in ComfyUI's answer to a graph that it refuses."""
    try:
        answer = json.loads(detail)
        errors = [error for node in answer["node_errors"].values() for error in node["errors"]] or [answer["error"]]
        return ", ".join(f"{error['message']} {error['details']}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return detail
