"""`mist protect --engine comfyui` against the real server with our nodes."""

import io
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mist_attack.command.main import main
from mist_attack.errors import MistError
from mist_attack.runners.comfyui_remote.client import Server
from mist_attack.runners.comfyui_remote.graph import run
from mist_attack.runners.comfyui_remote.runner import graph_for
from mist_attack.settings import resolve

from .client import BaseFolder, Comfy
from .relay import Relay


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    for index, name in enumerate(("a.png", "sub/b.png")):
        levels = np.random.default_rng(index).integers(0, 256, (64, 64 + 16 * index, 4), dtype=np.uint8)
        Image.fromarray(levels, "RGBA").save(tmp_path / "in" / name)
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(tmp_path / "in/a.mask.png")
    return tmp_path


@pytest.fixture
def relay(comfy):
    with Relay(comfy.url) as between:
        yield between


@pytest.fixture(scope="module")
def second(host, tmp_path_factory):
    with another(host, tmp_path_factory) as server:
        yield server


def another(host, tmp_path_factory):
    """A server with a folder of its own: hosts empty their temporary files when they start."""
    base = BaseFolder(host, tmp_path_factory.mktemp("another"))
    base.need("sd1")
    return Comfy(base)


def follow(url, on_progress=lambda step, steps: None, *, steps=8, seed=0, seconds=300.0, checkpoint="sd1.safetensors"):
    """One picture of noise, protected there."""
    picture = io.BytesIO()
    levels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(levels).save(picture, "PNG")
    here, settings = Server(url), resolve("default", {"steps": steps, "objective": "textural"})
    graph = graph_for(settings, checkpoint, {"image": here.upload(picture.getvalue())})
    return run(here, graph, seconds, threading.Event(), on_progress)


def levels_of(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("objective", ["fused", "textural"])
def test_a_gallery_goes_through_a_running_host(comfy, gallery, objective):
    words = f"protect in --out out --engine comfyui --url {comfy.url} --checkpoint sd1.safetensors"
    assert main([*words.split(), "--steps", "2", "--strength", "8", "--step", "4", "--objective", objective]) == 0
    rows = [json.loads(line) for line in (gallery / "out/mist-manifest.jsonl").read_text().splitlines()]
    assert [row["output"] for row in rows] == ["a.png", "sub/b.png"]
    for row in rows:
        before, after = levels_of(gallery / "in" / row["output"]), levels_of(gallery / "out" / row["output"])
        moved = np.abs(after - before)[..., :3]
        assert 0 < moved.max() <= 8 and np.array_equal(before[..., 3], after[..., 3])
        assert moved.max() == row["report"]["budget_used_levels"] and row["settings"]["steps"] == 2
    assert not np.abs(levels_of(gallery / "out/a.png") - levels_of(gallery / "in/a.png"))[:, 32:].any()


def test_two_addresses_share_the_work_and_a_dead_one_is_left_out(comfy, gallery, capsys):
    """Both lead to the one host: two pictures are in its queue at once."""
    addresses = ["http://127.0.0.1:9", comfy.url, comfy.url.replace("127.0.0.1", "localhost")]
    assert len(set(addresses)) == 3
    urls = [word for address in addresses for word in ("--url", address)]
    words = "protect in --out out --engine comfyui --checkpoint sd1.safetensors --steps 1 --objective textural"
    assert main([*words.split(), *urls]) == 0
    assert "127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert len((gallery / "out/mist-manifest.jsonl").read_text().splitlines()) == 2
    assert main([*words.split(), *urls]) == 0 and "protected already" in capsys.readouterr().out


def test_the_host_says_what_it_lacks(comfy, gallery, capsys):
    words = f"protect in --out out --engine comfyui --url {comfy.url} --checkpoint nowhere.safetensors"
    assert main(words.split()) == 1
    assert "has no checkpoint nowhere.safetensors" in capsys.readouterr().err


def test_two_hosts_share_a_gallery_and_give_the_bytes_of_one(comfy, second, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for index in range(6):
        levels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"in/{index}.png")
    before = [len(server.get("/history")) for server in (comfy, second)]
    words = ["--engine", "comfyui", "--checkpoint", "sd1.safetensors", "--steps", "6", "--strength", "8", "--step", "2"]
    assert main(["protect", "in", "--out", "both", *words, "--url", comfy.url, "--url", second.url]) == 0
    done = [len(server.get("/history")) - old for server, old in zip((comfy, second), before, strict=True)]
    print(f"the hosts did {done[0]} and {done[1]} of 6 pictures")
    assert sum(done) == 6 and min(done) >= 2
    assert main(["protect", "in", "--out", "one", *words, "--url", second.url]) == 0
    for index in range(6):
        names = [tmp_path / folder / f"{index}.png" for folder in ("both", "one")]
        assert names[0].read_bytes() == names[1].read_bytes()
        assert 0 < np.abs(levels_of(names[0]) - levels_of(tmp_path / f"in/{index}.png")).max() <= 8


def test_a_host_that_is_killed_in_mid_picture_leaves_it_to_the_other(comfy, host, tmp_path_factory, gallery, capsys):
    with another(host, tmp_path_factory) as dying:

        def kill():
            while not dying.get("/queue")["queue_running"]:
                time.sleep(0.1)
            os.killpg(dying.process.pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        words = "protect in --out out --engine comfyui --checkpoint sd1.safetensors --steps 30 --objective textural"
        assert main([*words.split(), "--url", dying.url, "--url", comfy.url]) == 0
    assert f"{dying.url} does not answer" in capsys.readouterr().err
    rows = [json.loads(line) for line in (gallery / "out/mist-manifest.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["protected"] * 2


def test_the_host_tells_every_step_and_is_not_asked(relay):
    told = []
    follow(relay.url, lambda *step: told.append(step))
    assert told == [(step, 8) for step in range(1, 9)]
    assert sum(path.startswith("/ws") for path in relay.asked) == 1
    assert sum(path.startswith("/history") for path in relay.asked) <= 3


@pytest.mark.parametrize("late", [0.0, 1.0], ids=["the host learns of it", "the host learns of it late"])
def test_websockets_that_are_cut_in_mid_picture_cost_nothing(relay, late):
    cut = []

    def on_progress(step, steps):
        if step in (2, 5) and len(cut) < 2:
            cut.append(relay.cut(late=late))

    outputs = follow(relay.url, on_progress, steps=40, seed=1)
    assert outputs["picture"]["images"] and cut[0] == 1
    assert relay.asked.count("/prompt") == 1 and sum(path.startswith("/ws") for path in relay.asked) == 1 + len(cut)


def test_the_hosts_own_words_for_an_error(comfy, base):
    broken = base.path / "models/checkpoints/broken.safetensors"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(MistError, match=r"(?i)header|safetensors|deserializ"):
        follow(comfy.url, checkpoint=broken.name)


def test_a_prompt_that_is_interrupted_or_deleted_there(comfy):
    begun = threading.Event()
    with ThreadPoolExecutor() as threads:
        first = threads.submit(follow, comfy.url, lambda *step: begun.set(), steps=500, seed=2)
        assert begun.wait(120)
        waiting = threads.submit(follow, comfy.url, steps=500, seed=3)
        while not comfy.get("/queue")["queue_pending"]:
            assert not first.done()
        comfy.post("/queue", {"clear": True})
        with pytest.raises(MistError, match="taken out of the queue there"):
            waiting.result(60)
        comfy.post("/interrupt")
        with pytest.raises(MistError, match="interrupted there"):
            first.result(60)
