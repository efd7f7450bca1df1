"""The paths of a command: what is read is never written to, nothing is written for two purposes, and all of it is
known before anything is computed."""

import json
import os
import sys
from pathlib import Path

import pytest
from fakes.command import draw, files, mist, toy_model  # noqa: F401
from PIL import Image

from mist_attack.errors import SettingsError
from mist_attack.gallery import task
from mist_attack.gallery.paths import require_apart

pytestmark = pytest.mark.usefixtures("toy_model")
OUR_RESULT = "protect in --out out --steps 1"
MISTS_RESULT = "outputs/images/m_16_1_64_1_2_1_0_0.png"
MISTS = "protect --output_name m --steps 1 --input_size 64"

CLASHES = {
    f"{OUR_RESULT} --report out/a.png": "a result",
    f"{OUR_RESULT} --report OUT/A.png": "a result",
    f"{OUR_RESULT} --report in/a.png": "an input",
    f"{OUR_RESULT} --report in/A.PNG": "an input",
    f"{OUR_RESULT} --report in/../in/a.png": "an input",
    f"{OUR_RESULT} --report link.json": "an input",
    f"{OUR_RESULT} --report hard.json": "an input",
    f"{OUR_RESULT} --report in/a.mask.png": "a mask",
    f"{OUR_RESULT} --report in/b.prompt.txt": "a prompt",
    f"{OUR_RESULT} --report mask.png --mask-file mask.png": "the mask",
    f"{OUR_RESULT} --report target.png --target target.png": "the target",
    f"{OUR_RESULT} --report c.yaml --config c.yaml": "the settings file",
    f"{OUR_RESULT} --report toy": "the checkpoint",
    "protect @list.txt --out out --steps 1 --report list.txt": "a list",
    f"{OUR_RESULT} --report out/mist-manifest.jsonl": "manifest",
    f"{OUR_RESULT} --report out/mist-manifest-1-of-2.jsonl": "manifest",
    f"{OUR_RESULT} --report out/Mist-Manifest.jsonl": "manifest",
    f"{OUR_RESULT} --report out/.mist/rows/x.json": "state",
    f"{OUR_RESULT} --name .mist/rows/{{stem}}": "state",
    f"{OUR_RESULT} --report out": "inside the report",
    f"{OUR_RESULT} --report out/a.png/r.json": "inside a result",
    f"{OUR_RESULT} --report in/a.png/r.json": "is a file",
    f"{OUR_RESULT} --report .": "is a folder",
    f"{OUR_RESULT} --report in": "is a folder",
    f"{OUR_RESULT} --report notes.txt": "not a report that Mist wrote",
    f"{OUR_RESULT} --report in/passed.psd": "not a report that Mist wrote",
    "protect in --out folders --steps 1": "is a folder",
    "protect in --out links --steps 1": "an input",
    "protect in --out hard --steps 1": "an input",
    "protect in/a.png --out . --name IN/A --steps 1": "an input",
    "protect in --out toy/out --steps 1": "is a file",
    f"{MISTS} -img {MISTS_RESULT}": "an input",
    f"{MISTS} -img in/a.png --report {MISTS_RESULT}": "a result",
    f"{MISTS} -img in/a.png --mask --mask_path mask.png --report mask.png": "the mask",
    "bench --out notes.txt --only steps": "not a report that Mist wrote",
    "bench --out in --only steps": "is a folder",
}


def everything():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.fixture
def world():
    draw("in/a.png"), draw("in/b.png", seed=1), draw("target.png"), draw(MISTS_RESULT)
    Image.new("L", (40, 24), 255).save("in/a.mask.png")
    Image.new("L", (40, 24), 255).save("mask.png")
    for name in ("toy", "notes.txt", "in/b.prompt.txt", "in/passed.psd"):
        Path(name).write_text("words")
    Path("c.yaml").write_text("strength: 8")
    Path("list.txt").write_text("in/a.png")
    Path("folders/a.png").mkdir(parents=True)
    for folder in ("links", "hard"):
        Path(folder).mkdir()
    Path("link.json").symlink_to("in/a.png")
    Path("links/a.png").symlink_to("../in/a.png")
    os.link("in/a.png", "hard.json"), os.link("in/a.png", "hard/a.png")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
@pytest.mark.parametrize("words", CLASHES)
def test_a_path_that_has_a_purpose_gets_no_second_one(words, world, monkeypatch, capsys):
    monkeypatch.setattr(task, "computed", lambda *_: pytest.fail("it was computed"))
    before = everything()
    assert mist(*words.split()) == 1
    assert CLASHES[words] in capsys.readouterr().err
    assert everything() == before


def test_files_apart_are_no_clash(world):
    assert mist(*OUR_RESULT.split(), "--report", "new/r.json") == 3  # the raw photograph is passed over
    assert mist(*OUR_RESULT.split(), "--report", "new/r.json") == 3  # a report of ours may be written again
    assert files("out") == ["a.png", "b.png"] and len(json.loads(Path("new/r.json").read_text())) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none")
def test_a_device_is_never_replaced_by_a_file(world, capsys):
    os.mkfifo("pipe")
    assert mist(*OUR_RESULT.split(), "--report", "pipe") == 1
    assert "device or pipe" in capsys.readouterr().err and Path("pipe").is_fifo() and not Path("out").exists()


def test_a_checkpoint_that_is_a_folder_is_read_as_a_whole(capsys):
    draw("in/a.png"), Path("toy").mkdir()
    assert mist("protect", "in", "--out", "toy/unet", "--steps", 1) == 1
    assert "inside the checkpoint" in capsys.readouterr().err


def test_letters_with_composed_accents_are_the_same_letters():
    with pytest.raises(SettingsError, match="never overwritten"):
        require_apart([(Path("caf\u00e9.png"), "an input")], [(Path("CAFE\u0301.png"), "the report")])


@pytest.mark.parametrize("url", ["file://{here}/in", "local://{here}/in", "simplecache::file://{here}/in"])
def test_a_folder_of_this_machine_is_no_bucket(url, capsys):
    """There its files would be written in place, inputs among them."""
    pytest.importorskip("fsspec")
    before = draw("in/a.png").read_bytes()
    assert mist("protect", "in", "--out", url.format(here=Path.cwd()), "--steps", 1) == 1
    assert "path alone" in capsys.readouterr().err and Path("in/a.png").read_bytes() == before


def test_a_name_in_a_bucket_is_no_file_of_this_folder():
    fsspec = pytest.importorskip("fsspec")
    draw("top.png")
    assert mist("protect", "top.png", "--out", "memory://apart", "--steps", 1) == 0
    assert fsspec.filesystem("memory").exists("/apart/top.png")


ROOT = Path(Path.cwd().anchor)
ROOTS = [
    ("protect", ROOT, "--out", "out"),
    ("protect", f"{ROOT}**/*.png", "--out", "out"),
    ("protect", "in", "--out", ROOT),
    ("protect", "up", "--out", "out"),
    ("protect", "--input_dir_path", ROOT),
]


@pytest.mark.parametrize("words", ROOTS)
def test_the_root_of_a_disk_is_never_what_is_meant(words, monkeypatch, capsys):
    draw("in/a.png"), Path("up").symlink_to(ROOT)
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("it was read"))
    monkeypatch.setattr(os, "listdir", lambda *_: [])
    assert mist(*words, "--steps", 1) == 1
    assert "root of a disk" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["protect '' --out out", "protect in --out ''", "protect in --out out --report ''", "info --checkpoint ''"]
)
def test_an_empty_word_names_nothing(words, capsys):
    """A variable of a shell that was never set; as a path it would be the folder one is in."""
    draw("in/a.png")
    assert mist(*(word.strip("'") for word in words.split())) == 1
    assert "expected a name, got nothing" in capsys.readouterr().err and not Path("out").exists()
