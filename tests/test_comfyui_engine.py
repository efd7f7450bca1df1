"""The remote engine against a stand-in for ComfyUI's API: what is sent, what comes back, and what may go wrong."""

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fakes.comfyui_command import protect, rows
from fakes.command import draw, files, levels_of, mist
from PIL import Image, PngImagePlugin

from mist_attack.errors import SettingsError
from mist_attack.gallery import task
from mist_attack.runners.comfyui_remote import client, graph
from mist_attack.runners.comfyui_remote.client import Server, UnreachableError, is_loopback
from mist_attack.runners.comfyui_remote.runner import graph_for
from mist_attack.settings import Settings, resolve

pytest_plugins = "fakes.comfyui_fixtures"
pytestmark = pytest.mark.usefixtures("quick")


def test_pictures_go_there_and_come_back_with_all_that_stayed_here(comfy):
    rgba = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    Path("in/my secret folder").mkdir(parents=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("Artist", "secret name")
    Image.fromarray(rgba, "RGBA").save("in/my secret folder/secret title.png", pnginfo=text, dpi=(300, 300))
    assert protect(comfy) == 0
    result = Image.open("out/my secret folder/secret title.png")
    assert np.array_equal(np.asarray(result)[..., 3], rgba[..., 3]) and result.text["Artist"] == "secret name"
    assert np.abs(np.asarray(result)[..., :3].astype(int) - rgba[..., :3]).max() == 1
    assert not [body for body in comfy.received if b"secret" in body or str(Path.cwd()).encode() in body]
    assert protect(comfy) == 0 and len(comfy.graphs) == 1  # done already


def test_settings_arrive_in_the_nodes_words():
    changed = {"strength": 8, "steps": 7, "objective": "textural", "step": 2, "seed": 5, "view": "tiles"}
    settings = resolve("default", changed | {"fusion_weight": 1.5})
    graph = graph_for(settings, "sd.safetensors", {"image": "a"})
    widgets = graph["protect"]["inputs"]
    expected = {"strength": 8, "steps": 7, "mode": "textural", "fusion_weight": 1.5, "seed": 5, "preset": "default"}
    assert {name: widgets[name] for name in expected} == expected and "model" not in widgets
    options = graph["options"]["inputs"]
    assert (options["step"], options["view"], options["direction"]) == (2, "tiles", settings.direction)


def test_a_mask_and_a_target_are_sent_and_the_budget_is_checked_here(comfy, capsys):
    draw("in/a.png"), draw("target.png", (30, 30), seed=5)
    half = np.zeros((24, 40), np.uint8)
    half[:, :20] = 255
    Image.fromarray(half).save("in/a.mask.png")
    assert protect(comfy, words=["--target", "target.png"]) == 1  # it moves what the mask forbids
    assert "more than was asked" in capsys.readouterr().err and files("out") == []
    kinds = [node["class_type"] for node in comfy.graphs[0].values()]
    assert kinds.count("LoadImage") == 2 and kinds.count("LoadImageMask") == 1
    comfy.shift = 40
    Path("in/a.mask.png").unlink()
    assert protect(comfy) == 1 and files("out") == []


def test_a_file_that_breaks_the_promise_is_not_saved(comfy, capsys, monkeypatch):
    real = task.encode_picture
    monkeypatch.setattr(
        task, "encode_picture", lambda path, images, *rest, **more: real(path, 1 - images, *rest, **more)
    )
    draw("in/a.png")
    assert protect(comfy) == 1 and files("out") == []
    assert "a value moves by" in capsys.readouterr().err


def test_built_in_targets_are_the_hosts_own():
    graph = graph_for(Settings(target="rings"), "sd.safetensors", {"image": "a"})
    assert graph["target"]["class_type"] == "MistTarget" and graph["protect"]["inputs"]["target"] == ["target", 0]
    assert "target" not in graph_for(Settings(), "sd.safetensors", {"image": "a"})


def test_several_servers_share_the_work(comfy, other):
    for index in range(6):
        draw(f"in/{index}.png", seed=index)
    comfy.seconds = other.seconds = 0.2
    assert protect(comfy, other) == 0
    assert len(comfy.graphs) + len(other.graphs) == 6 and min(len(comfy.graphs), len(other.graphs)) >= 2


def test_a_server_that_is_gone_is_left_out_and_the_rest_goes_on(comfy, other, capsys):
    for index in range(3):
        draw(f"in/{index}.png", seed=index)
    other.kinds = ()
    assert protect(comfy, other, "http://127.0.0.1:9") == 0
    said = capsys.readouterr().err
    assert "does not answer" in said and "custom_nodes" in said and len(comfy.graphs) == 3
    assert protect("http://127.0.0.1:9", out="nothing") == 1
    assert "No server is left" in capsys.readouterr().err


def test_a_proxy_that_fails_now_and_then_loses_nothing(comfy, capsys):
    draw("in/a.png"), draw("in/b.png", seed=1)
    comfy.hiccups = graph.PATIENCE - 1
    assert protect(comfy) == 0 and len(comfy.graphs) == 2
    comfy.hiccups = 1000
    assert protect(comfy, words=["--force"]) == 1
    assert "502" in capsys.readouterr().err


def test_a_server_that_never_answers_is_left_out_and_the_rest_goes_on(comfy, monkeypatch, capsys):
    monkeypatch.setattr(client, "REQUEST_SECONDS", 0.2)
    draw("in/a.png"), draw("in/b.png", seed=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert protect(url, comfy) == 0 and len(comfy.graphs) == 2
        assert f"{url} does not answer (timed out)" in capsys.readouterr().err
        assert protect(url, out="nothing") == 1


@pytest.mark.parametrize(
    "fault, said",
    [
        ({"fails": "Allocation on device"}, "Allocation on device"),
        ({"refuses": True}, "Value not in list strength"),
        ({"never_ends": True}, "--timeout"),
    ],
)
def test_what_goes_wrong_there_is_a_row_and_the_rest_goes_on(comfy, other, fault, said):
    draw("in/a.png"), draw("in/b.png", seed=1)
    for name, value in fault.items():
        setattr(comfy, name, value)
    assert protect(comfy, other, words=["--timeout", "0.5"]) in (0, 2)
    failed = [row for row in rows() if row["status"] == "failed"]
    assert failed and all(said in row["error"] for row in failed)
    assert len(failed) < 2 or fault.get("fails")
    if fault.get("never_ends"):
        assert ("POST", "/interrupt") in [(method, path) for method, path, _ in comfy.asked]


def test_only_this_machine_unless_allowed(capsys):
    draw("in/a.png")
    assert protect("http://192.0.2.1:8188") == 1
    assert "--allow-remote" in capsys.readouterr().err and not Path("out").exists()
    assert Server("http://192.0.2.1", allow_remote=True).is_open
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("localhost.example.org") and not is_loopback("10.0.0.1")


ADDRESSES = ["ftp://127.0.0.1", "127.0.0.1:8188", "http://user:secret@127.0.0.1"]
ADDRESSES += ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:8188?a=b", "http://127.0.0.1:8188#a"]


@pytest.mark.parametrize("url", ADDRESSES)
def test_addresses_that_cannot_be_meant(url):
    with pytest.raises(SettingsError):
        Server(url)


@pytest.mark.parametrize("words", [("--timeout", "0"), ("--workers", "2")])
def test_flags_that_cannot_be_meant(comfy, words, capsys):
    draw("in/a.png")
    assert protect(comfy, words=words) == 1 and words[0] in capsys.readouterr().err


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize("missing", ["--url", "--checkpoint"])
def test_what_the_servers_need_is_asked_for_first(missing, dry, capsys):
    draw("in/a.png")
    given = {"--url": "http://127.0.0.1:9", "--checkpoint": "sd.safetensors"}
    words = [word for flag, value in given.items() if flag != missing for word in (flag, value)]
    assert mist("protect", "in", "--out", "out", "--engine", "comfyui", *words, *dry) == 1
    assert f"needs {missing}" in capsys.readouterr().err and not Path("out").exists()


def test_a_redirection_is_not_followed(comfy, other, capsys):
    draw("in/a.png")
    comfy.redirects_to = other.url
    assert protect(comfy) == 1 and other.asked == []
    assert "redirection, which is not followed" in capsys.readouterr().err


def test_an_answer_is_read_up_to_a_limit(comfy, monkeypatch):
    monkeypatch.setattr(client, "MAX_BYTES", 1000)
    comfy.files = {"short": bytes(1000), "long": bytes(1001)}
    server = Server(comfy.url)
    assert server.download({"filename": "short"}) == bytes(1000)
    with pytest.raises(UnreachableError, match="more than 1000 bytes"):
        server.download({"filename": "long"})


def test_nothing_is_asked_of_the_environment_for_a_server_on_this_machine(comfy, other, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, other.url)
    assert Server(comfy.url).get("/system_stats") and other.asked == []


def test_a_log_in_is_sent_and_not_shown(comfy, monkeypatch, capsys):
    draw("in/a.png")
    monkeypatch.setenv("MIST_COMFYUI_LOGIN", "artist:secret")
    assert protect(comfy) == 0
    assert {headers.get("Authorization") for _, _, headers in comfy.asked} == {"Basic YXJ0aXN0OnNlY3JldA=="}
    assert "secret" not in capsys.readouterr().out + Path("out/mist-manifest.jsonl").read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_that_nobody_vouches_for_is_refused(comfy, tmp_path):
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    comfy.socket = context.wrap_socket(comfy.socket, server_side=True)
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        Server(comfy.url.replace("http://", "https://")).get("/system_stats")


def test_levels_come_back_as_they_were_sent(comfy):
    draw("in/a.png", (64, 64))
    assert protect(comfy) == 0
    assert np.abs(levels_of("out/a.png") - levels_of("in/a.png")).min() == 1
