"""`mist protect --engine comfyui` against the real server with our nodes."""

import json

import numpy as np
import pytest
from PIL import Image

from mist_attack.cli import main


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
