"""The remote engine follows a prompt over the websocket of a stand-in for ComfyUI: what it shows and survives."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from fakes.comfyui_command import protect, rows
from fakes.comfyui_server import FakeComfy
from fakes.command import draw, files

from mist_attack.errors import MistError
from mist_attack.runners.comfyui_remote import client
from mist_attack.runners.comfyui_remote import socket as remote_socket
from mist_attack.runners.comfyui_remote.client import Server, UnreachableError
from mist_attack.runners.comfyui_remote.graph import CancelledError, run
from mist_attack.runners.comfyui_remote.runner import graph_for
from mist_attack.runners.comfyui_remote.socket import Listener
from mist_attack.settings import resolve

pytest_plugins = "fakes.comfyui_fixtures"
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def hasty(monkeypatch):
    for module in (client, remote_socket):
        monkeypatch.setattr(module, "REQUEST_SECONDS", 0.3)


def follow(server, *, steps=10, seconds=60.0, cancelled=None):
    """Queue a graph there; the progress that was told, and the outputs."""
    here, told = Server(server.url), []
    levels = Path("a.png")
    draw(levels)
    graph = graph_for(resolve("default", {"steps": steps}), "sd", {"image": here.upload(levels.read_bytes())})
    outputs = run(here, graph, seconds, cancelled or threading.Event(), lambda *step: told.append(step))
    return told, outputs


def asked(server, path):
    return [found for _, found, _ in server.asked if found.startswith(path)]


def test_every_step_is_told_and_nothing_is_asked_in_between(comfy):
    comfy.seconds = 0.5
    told, outputs = follow(comfy)
    assert told == [(step, 10) for step in range(1, 11)] and outputs["report"]
    assert len(asked(comfy, "/ws")) == 1
    # once where the queue moved before the prompt began, once at the end: 0.5 s are 50 times the interval of asking
    assert 1 <= len(asked(comfy, "/history/")) <= 3


def test_a_bar_for_each_picture_where_somebody_looks(comfy, other, monkeypatch, capsys):
    for index in range(4):
        draw(f"in/{index}.png", seed=index)
    comfy.seconds = other.seconds = 0.5
    assert protect(comfy, other) == 0 and "%|" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert protect(comfy, other, words=["--force", "--quiet"]) == 0 and "%|" not in capsys.readouterr().err
    assert protect(comfy, other, words=["--force"]) == 0
    shown = capsys.readouterr().err
    for index in range(4):
        steps = [int(step) for step in re.findall(rf"{index}\.png: +\d+%\|[^|]*\| (\d+)/15", shown)]
        assert len(set(steps)) > 2 and steps == sorted(steps)


@pytest.mark.parametrize("deaf", [False, True], ids=["listens again", "hears nothing more"])
@pytest.mark.parametrize("drops", [1, 3])
def test_a_drop_in_mid_picture_costs_nothing(comfy, drops, deaf):
    """Deaf: a host that notices a drop late forgets the new socket of a client together with the old one."""
    for index in range(drops):
        draw(f"in/{index}.png", seed=index)
    comfy.seconds, comfy.drops, comfy.deaf = 0.4, drops, deaf
    assert protect(comfy, words=["--timeout", "10", "--retries", "0"]) == 0
    assert comfy.drops == 0 and len(comfy.graphs) == drops and len(asked(comfy, "/ws")) == 2 * drops


def test_messages_go_on_after_a_drop(comfy):
    comfy.seconds, comfy.drops = 1.0, 1
    told, _ = follow(comfy)
    assert told[:5] == [(step, 10) for step in range(1, 6)] and told[-1][0] > 5


def test_a_result_that_came_during_a_drop_is_not_lost(comfy, monkeypatch):
    comfy.seconds, comfy.drops = 0.3, 1
    at_once = Listener.open

    def late(listener):
        while comfy.dropped and not comfy.done:
            time.sleep(0.01)
        at_once(listener)

    monkeypatch.setattr(Listener, "open", late)
    told, outputs = follow(comfy, seconds=5)
    assert outputs["picture"]["images"] and len(comfy.graphs) == 1 and told[-1][0] <= 5


def test_a_socket_that_stays_away_is_made_up_for_by_asking(comfy):
    draw("in/a.png")
    comfy.seconds, comfy.drops, comfy.ws_after = 0.5, 1, 502
    assert protect(comfy) == 0
    assert len(asked(comfy, "/history/")) > 5 and len(comfy.graphs) == 1


def test_an_error_after_a_drop_is_still_the_servers_own(comfy):
    comfy.seconds, comfy.drops, comfy.fails = 0.3, 1, "Allocation on device"
    with pytest.raises(MistError, match="Allocation on device"):
        follow(comfy)


def test_a_server_that_dies_in_mid_picture_leaves_it_to_another(other, capsys):
    draw("in/a.png")
    with FakeComfy() as dying:
        dying.never_ends = dying.drops = True

        def die():
            while not dying.dropped:
                time.sleep(0.01)
            dying.shutdown(), dying.server_close()

        threading.Thread(target=die).start()
        assert protect(dying, other) == 0
    assert "does not answer" in capsys.readouterr().err and len(other.graphs) == 1


def test_a_prompt_that_a_restarted_server_forgot_is_sent_again(comfy):
    draw("in/a.png")
    comfy.never_ends = comfy.drops = 1

    def restart():
        while not comfy.dropped:
            time.sleep(0.01)
        comfy.never_ends = False
        comfy.done = _Forgetful("prompt0")
        comfy.interrupted.add("prompt0")

    threading.Thread(target=restart).start()
    assert protect(comfy, words=["--retries", "1"]) == 0 and len(comfy.graphs) == 2


class _Forgetful(dict):
    def __init__(self, forgotten):
        self.forgotten = forgotten

    def __contains__(self, name):
        return name != self.forgotten and super().__contains__(name)


def test_a_websocket_that_says_nothing_leaves_the_server_out(comfy, other, hasty, capsys):
    draw("in/a.png"), draw("in/b.png", seed=1)
    comfy.mute = True
    assert protect(comfy, other) == 0
    assert f"{comfy.url}/ws: no websocket (timed out" in capsys.readouterr().err
    assert comfy.graphs == [] and len(other.graphs) == 2


def test_a_handshake_that_is_never_answered(hasty):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with closing(Listener(server)) as listener, pytest.raises(UnreachableError, match="timed out"):
            listener.open()


def test_silence_at_work_ends_with_the_timeout(comfy):
    comfy.never_ends = True
    with pytest.raises(MistError, match=r"not done after 0\.3 s"):
        follow(comfy, seconds=0.3)
    assert asked(comfy, "/interrupt") and len(asked(comfy, "/ws")) == 1


@pytest.mark.parametrize("status", [400, 404, 502])
def test_a_proxy_that_lets_no_websocket_through_is_named(comfy, status, capsys):
    draw("in/a.png")
    comfy.ws_status = status
    assert protect(comfy) == 1 and comfy.graphs == []
    said = capsys.readouterr().err
    assert str(status) in said and "A proxy in between" in said and files("out") == []


def test_a_redirection_of_the_websocket_is_not_followed(comfy, other):
    draw("in/a.png")
    comfy.ws_status, comfy.ws_elsewhere = 302, other.url.replace("http", "ws")
    assert protect(comfy) == 1 and other.asked == []


def test_a_prompt_that_is_interrupted_there_is_a_row(comfy):
    draw("in/a.png")
    comfy.never_ends = True
    comfy.interrupted |= {"prompt0", "prompt1", "prompt2", "prompt3"}
    assert protect(comfy) == 1
    assert [row["status"] for row in rows()] == ["failed"] and "interrupted there" in rows()[0]["error"]


def test_a_prompt_that_is_taken_out_of_the_queue_there_is_a_row_at_once(comfy):
    draw("in/a.png")
    comfy.forgets = 1
    assert protect(comfy, words=["--retries", "0"]) == 1
    assert "taken out of the queue there" in rows()[0]["error"]


def test_a_run_that_is_ended_here_takes_its_prompt_back(comfy):
    comfy.never_ends, cancelled = True, threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    with pytest.raises(CancelledError):
        follow(comfy, cancelled=cancelled)
    assert asked(comfy, "/queue") and asked(comfy, "/interrupt") and comfy.interrupted == {"prompt0"}


def test_messages_that_are_none_are_passed_over(comfy):
    kinds = [b"{", b"{}", b'{"type": "progress", "data": null}', b'{"type": "progress", "data": {"node": "protect"}}']
    tell = comfy.tell

    def noisy(client, kind, **data):
        tell(client, kind, **data)
        for noise in (*kinds, b'{"type": "progress", "data": {"prompt_id": "prompt0", "node": "protect"}}'):
            if client in comfy.sockets:
                comfy.sockets[client].put(noise)

    comfy.tell = noisy
    told, outputs = follow(comfy)
    assert len(told) == 10 and outputs["picture"]


@pytest.mark.parametrize("package", ["httpx", "websockets.exceptions"])
def test_the_packages_are_asked_for_only_where_they_are_used(comfy, monkeypatch, capsys, package):
    draw("in/a.png")
    known = "{'httpx', 'websockets'} & set(sys.modules)"
    script = f"import sys, mist_attack.command.main, mist_attack.runners.choice; sys.exit(bool({known}))"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent.parent).returncode == 0
    monkeypatch.setitem(sys.modules, package, None)
    assert protect(comfy) == 1 and not Path("out").exists()
    assert 'pip install "mist-protect[remote]"' in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_certificates_are_verified_for_the_websocket_too(comfy, monkeypatch):
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        ["openssl", *words.split(), "-keyout", "key.pem", "-out", "cert.pem"], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    comfy.socket = context.wrap_socket(comfy.socket, server_side=True)
    comfy.url = comfy.url.replace("http://", "https://")
    with closing(Listener(Server(comfy.url))) as listener, pytest.raises(UnreachableError, match="VERIFY_FAILED"):
        listener.open()
    monkeypatch.setenv("SSL_CERT_FILE", "cert.pem")  # now somebody vouches for it
    comfy.seconds = 0.3
    told, _ = follow(comfy)
    assert told[-1] == (10, 10)
