"""Folders, globs and lists: which pictures are meant, what results are called, what is done again and what not."""

import functools
import json
import os
import random
import shutil
import signal
import sys
import types
from dataclasses import make_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.command import Model, draw, files, levels_of, mist, toy_model  # noqa: F401
from PIL import Image

from mist_attack import controls
from mist_attack.errors import CheckpointError, SettingsError
from mist_attack.gallery import request, task
from mist_attack.gallery.manifest import MANIFEST, Manifest
from mist_attack.gallery.selection import select
from mist_attack.gallery.storage import Folder
from mist_attack.hosts.headless import diffusers
from mist_attack.pictures.reading import read_bytes
from mist_attack.runners import ray
from mist_attack.settings import Settings

pytestmark = pytest.mark.usefixtures("toy_model")
QUICK = ("--steps", 1)
OLD = ("--preset", "mist", "--keep-tone")  # what the default was until November 2026


def rows(folder="out", part=""):
    text = (Path(folder) / f"{MANIFEST}{part}.jsonl").read_text("utf-8")
    return {row["output"]: row for row in map(json.loads, text.splitlines())}


def protect(*words):
    return mist("protect", *words, "--out", "out", *QUICK)


@pytest.fixture
def computed(monkeypatch):
    """The names of the pictures that were at the model."""
    names, real = [], task.computed

    def counted(task, *others):
        names.append(task.source.name)
        return real(task, *others)

    monkeypatch.setattr(task, "computed", counted)
    return names


def test_folders_are_read_to_any_depth_and_the_tree_is_kept():
    draw("in/a.png"), draw("in/x/b.jpg"), draw("in/x/y/c.webp"), draw("in/.hidden/d.png"), draw("in/.e.png")
    Path("in/x/notes.txt").write_text("words")
    assert protect("in") == 0
    assert files("out") == ["a.png", "x/b.png", "x/y/c.webp"]


def test_globs_that_the_shell_did_not_expand():
    draw("in/a.png"), draw("in/x/b.png"), draw("in/x/y/b.jpg"), draw("in/x/y/c.png")
    assert protect("in/**/*.png") == 0
    assert files("out") == ["a.png", "x/b.png", "x/y/c.png"]


def test_a_file_whose_name_is_a_pattern_or_begins_with_an_at_sign_is_a_file():
    draw("a[1].png"), draw("@me.png"), draw("a1.png")
    assert protect("a[1].png", "@me.png") == 0
    assert files("out") == ["@me.png", "a[1].png"]


def test_lists_of_lines_and_of_nul_separated_names(monkeypatch):
    draw("in/x/a.png"), draw("in/y/b c.png"), draw("in/y/d\ne.png")
    Path("lines.txt").write_bytes(b"in/x/a.png\r\n\nin/y/b c.png\n")
    assert protect("@lines.txt") == 0
    assert files("out") == ["x/a.png", "y/b c.png"]
    shutil.rmtree("out")
    standard_input = types.SimpleNamespace(buffer=types.SimpleNamespace(read=lambda: b"in/x/a.png\0in/y/d\ne.png\0"))
    monkeypatch.setattr(sys, "stdin", standard_input)
    assert protect("@-") == 0
    assert files("out") == ["x/a.png", "y/d\ne.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_the_encodings_that_shells_and_editors_write(encoding):
    draw("in/a.png"), draw("in/\u00e9 b.png")
    text = "in/a.png\r\n\r\nin/\u00e9 b.png\r\n"
    Path("list.txt").write_bytes(text.encode(encoding))
    assert protect("@list.txt") == 0
    assert files("out") == ["a.png", "\u00e9 b.png"]


def test_a_marked_list_in_big_endian():
    draw("in/a.png")
    Path("list.txt").write_bytes("\ufeffin/a.png".encode("utf-16-be"))
    assert protect("@list.txt") == 0 and files("out") == ["a.png"]


BAD_LISTS = {
    b"in/a.png\n.\n": "line 2: . is a folder",
    b"/\n": "line 1: / is a folder",
    b"in/a.png\n\n..\n": "line 3: .. is a folder",
    b"in/a.png\0in\0": "line 2: in is a folder",
    b"\x89PNG\r\n\x1a\n\0\0": "is not text",
    b"\xff\xfei": "is not text",
    b"\n": "No pictures",
}


@pytest.mark.parametrize("content", BAD_LISTS)
def test_a_list_that_names_no_files_is_refused_in_one_line(content, capsys):
    draw("in/a.png"), Path("list.txt").write_bytes(content)
    assert protect("@list.txt") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "list.txt" in line and BAD_LISTS[content] in line and not Path("out").exists()


@pytest.mark.parametrize("words", ["@nowhere.txt", "in/*.gif", "in/nothing"])
def test_what_means_nothing_is_said(words, capsys):
    Path("in/nothing").mkdir(parents=True)
    assert protect(words) == 1
    assert words.removeprefix("@") in capsys.readouterr().err and not Path("out").exists()


def test_links_in_circles_and_broken_ones(capsys):
    draw("in/x/a.png")
    Path("in/x/up").symlink_to(Path("in").absolute())
    Path("in/x/further-up").symlink_to(Path().absolute())
    Path("in/x/self").symlink_to("self")
    Path("in/x/gone.png").symlink_to("nowhere.png")
    draw("elsewhere/b.png")
    Path("in/there").symlink_to(Path("elsewhere").absolute())
    assert protect("in") == 2
    assert files("out") == ["there/b.png", "x/a.png"]
    assert "gone.png" in capsys.readouterr().err


def test_results_inside_of_the_input_are_not_protected_again(computed):
    draw("in/a.png"), draw("in/x/b.png")
    for _ in range(2):
        assert mist("protect", "in", "--out", "in/protected", *QUICK) == 0
    assert files("in/protected") == ["a.png", "x/b.png"]
    shutil.rmtree("in/protected")
    for _ in range(2):
        assert mist("protect", "in", "--out", "in", "--name", "{stem}-mist", "--steps", 2) == 0
    assert computed == ["a.png", "b.png"] * 2
    assert files("in") == ["a-mist.png", "a.png", "x/b-mist.png", "x/b.png"]


@pytest.mark.parametrize(
    "template, expected",
    [
        ("{stem}-mist", "x/y/a-mist.png"),
        ("flat/{parent}_{stem}", "flat/y_a.png"),
        ("{dir}/new/{stem}", "x/y/new/a.png"),
    ],
)
def test_names_from_a_template(template, expected):
    draw("in/x/y/a.jpg")
    assert protect("in", "--name", template) == 0
    assert files("out") == [expected]


TEMPLATES = [
    ("{no}", "{stem}"),
    ("{}", "{stem}"),
    ("{stem", "brace"),
    ("stem}", "brace"),
    ("{stem!r}", "brace"),
    ("{{stem}}", "brace"),
    ("x/", "after the last /"),
    ("../{stem}", "leads out"),
    ("/{stem}", "leads out"),
]


@pytest.mark.parametrize("template, said", TEMPLATES)
def test_templates_that_cannot_be_meant(template, said, capsys):
    draw("in/a.png")
    assert protect("in", "--name", template) == 1
    assert said in capsys.readouterr().err and not Path("out").exists()


def test_two_results_of_one_name_in_a_folder_are_a_row_and_the_rest_goes_on(capsys):
    draw("in/A.png"), draw("in/a.jpg"), draw("in/b.png")
    assert protect("in") == 2
    assert files("out") == ["A.png", "b.png"]
    assert "would both become" in capsys.readouterr().err


def test_two_pictures_of_one_stem_are_two_rows_and_the_first_is_done_once(computed):
    draw("in/a.jpg"), draw("in/a.png", seed=1)
    for _ in range(2):
        assert protect(Path("in").absolute()) == 2
    assert computed == ["a.jpg"] and files("out") == ["a.png"]
    lines = Path("out/mist-manifest.jsonl").read_text().splitlines()
    found = {Path(row["input"]).name: (row["output"], row["status"]) for row in map(json.loads, lines)}
    assert found == {"a.jpg": ("a.png", "protected"), "a.png": (None, "failed")}


def test_a_mask_and_a_prompt_beside_the_picture_are_its_own():
    draw("in/a.png"), draw("in/b.png")
    half = np.zeros((24, 40), np.uint8)
    half[:, :20] = 255
    Image.fromarray(half).save("in/a.mask.png")
    Path("in/a.prompt.txt").write_text("line\n art \n", encoding="utf-8")
    assert mist("protect", "in", "--out", "out", "--steps", 2, "--step", 8) == 0
    assert files("out") == ["a.png", "b.png"]
    moved = {name: np.abs(levels_of(f"out/{name}.png") - levels_of(f"in/{name}.png")) for name in "ab"}
    assert moved["a"][:, 20:].max() == 0 < moved["a"][:, :20].max()
    assert moved["b"][:, 20:].max() > 0
    assert [row["settings"]["prompt"] for row in rows().values()] == ["line art", "a painting"]


def mask_at(path, level):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 24), level).save(path)


def moved(name):
    return np.abs(levels_of(f"out/{name}") - levels_of(f"in/{name}")).max()


@pytest.mark.parametrize("words", [("in",), ("in/*",), ("@list.txt",), ("in/x.png", "in/x.MASK.png", "in/Y.png")])
@pytest.mark.parametrize("mask", ["x.MASK.png", "x.mask.jpg", "x.mask.PNG", "X.Mask.webp"])
def test_a_mask_is_a_mask_whatever_its_case_and_suffix_and_is_never_protected(mask, words, capsys):
    draw("in/x.png"), draw("in/Y.png", seed=1), mask_at(f"in/{mask}", 0)
    Path("list.txt").write_text(f"in/x.png\nin/{mask}\nin/Y.png\n")
    words = tuple(f"in/{mask}" if "MASK" in word else word for word in words)
    assert protect(*words) == 0
    assert files("out") == ["Y.png", "x.png"] and moved("x.png") == 0 < moved("Y.png")
    assert capsys.readouterr().err == ""


def test_a_mask_in_other_capitals_is_not_taken_from_the_picture_that_it_belongs_to():
    draw("in/a.png"), draw("in/A.webp"), mask_at("in/a.mask.png", 0)
    Path("in/A.webp").rename("in/A.png")
    assert mist("protect", "in/A.png", "--out", "out", *QUICK) == 0
    assert np.abs(levels_of("out/A.png") - levels_of("in/A.png")).max() > 0


@pytest.mark.parametrize("name", ["c.mask.png", "c.prompt.txt"])
def test_a_companion_whose_picture_is_not_there_is_told(name, capsys):
    draw("in/a.png"), mask_at("in/c.mask.png", 0)
    Path("in/c.mask.png").rename(f"in/{name}")
    assert protect("in") == 3
    assert files("out") == ["a.png"]
    said = capsys.readouterr().err
    assert f"in/{name}: a {name.split('.')[1]} by its name, but no picture c in its folder" in said


def test_a_mask_named_alone_is_not_protected(capsys):
    mask_at("in/a.mask.png", 0)
    assert protect("in/a.mask.png") == 1
    assert "a mask by its name" in capsys.readouterr().err and not Path("out").exists()


UNCLEAR = {"two": "several masks", "gone": "no such file", "unread": "expected a picture"}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_a_picture_whose_mask_is_not_clear_is_not_protected_whole(kind, capsys):
    draw("in/a.png"), draw("in/b.png")
    if kind == "two":
        mask_at("in/a.mask.png", 0), mask_at("in/a.mask.webp", 255)
    elif kind == "gone":
        Path("in/a.mask.png").symlink_to("nowhere.png")
    else:
        Path("in/a.mask.psd").write_bytes(b"8BPS")
    assert protect("in") == 2
    assert files("out") == ["b.png"] and UNCLEAR[kind] in capsys.readouterr().err


PROMPTS = {
    b"": "",
    b" \n": "",
    "line\nart".encode("utf-8-sig"): "line art",
    "l\u00ednea".encode("utf-16"): "l\u00ednea",
    "line art".encode("utf-16-le"): "line art",
}


@pytest.mark.parametrize("content", PROMPTS)
def test_prompts_as_editors_save_them_and_empty_ones(content):
    draw("in/a.png")
    Path("in/a.PROMPT.txt").write_bytes(content)
    assert protect("in") == 0
    assert rows()["a.png"]["settings"]["prompt"] == PROMPTS[content]


UNREAD_NAMES = ["a.jp2", "b.PSD", "c.dng", "d.tga", "x/e.CR2"]


@pytest.mark.parametrize("words", [("in",), ("in/**/*",), ("@list.txt",)])
def test_what_looks_like_a_picture_and_is_not_read_is_counted_and_named_at_the_end(words, capsys):
    draw("in/z.png"), draw("in/x/z.png")
    for name in UNREAD_NAMES:
        Path("in", name).write_bytes(b"something")
    Path("list.txt").write_text("\n".join(f"in/{name}" for name in [*UNREAD_NAMES, "z.png", "x/z.png"]))
    assert protect(*words, "--report", "r.json") == 3
    assert files("out") == ["x/z.png", "z.png"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"mist: {len(UNREAD_NAMES)} file(s)")
    assert all(any(f"in/{name}: " in line for line in said) for name in UNREAD_NAMES)
    written = json.loads(Path("r.json").read_text())
    assert {Path(row["input"]).as_posix() for row in written if row["status"] == "passed over"} == {
        f"in/{name}" for name in UNREAD_NAMES
    }
    assert mist("protect", *words, "--out", "out", *QUICK, "--dry-run") == 3
    assert "in/b.PSD" in capsys.readouterr().err


def test_passed_over_is_told_of_where_nothing_else_is_and_beside_failures(capsys):
    draw("other/a.png"), Path("in").mkdir(), Path("other/b.png").write_bytes(b"words")
    for folder in ("in", "other"):
        Path(folder, "x.psd").write_bytes(b"8BPS")
    assert protect("in") == 1
    assert "No pictures in in. in/x.psd" in capsys.readouterr().err
    assert protect("other") == 2 and "other/x.psd" in capsys.readouterr().err
    Path("other/a.png").unlink()
    assert protect("other") == 1
    Path("other/b.png").unlink()
    assert protect("other/x.psd") == 1 and "painting program" in capsys.readouterr().err  # named, so it is tried


def test_a_prompt_that_the_model_cannot_read_is_that_pictures_own_error(monkeypatch):
    class Mute(Model):
        def conditioning(self, prompt):
            if prompt == "unspeakable":
                raise CheckpointError("no such word")
            return super().conditioning(prompt)

    monkeypatch.setattr(diffusers, "load", lambda *_: Mute())
    draw("in/a.png"), draw("in/b.png")
    Path("in/a.prompt.txt").write_text("unspeakable")
    assert protect("in") == 2
    assert files("out") == ["b.png"]
    assert mist("protect", "in/b.png", "--out", "all", "--prompt", "unspeakable") == 1


def test_a_second_run_computes_only_what_changed(computed, capsys):
    for name in "abc":
        draw(f"in/{name}.png", seed=ord(name))
    assert protect("in") == 0
    assert protect("in") == 0
    assert computed == ["a.png", "b.png", "c.png"]
    assert "protected already" in capsys.readouterr().out
    draw("in/a.png", seed=50)  # another content
    Path("out/b.png").unlink()  # a result is gone
    draw("out/c.png", seed=51)  # a result is another
    draw("in/d.png", seed=52)  # a new one
    assert protect("in") == 0
    assert computed[3:] == ["a.png", "b.png", "c.png", "d.png"]
    assert mist("protect", "in", "--out", "out", "--steps", 2) == 0  # other settings
    Image.new("L", (40, 24), 200).save("in/d.mask.png")
    assert mist("protect", "in", "--out", "out", "--steps", 2) == 0  # another mask
    assert computed[7:] == ["a.png", "b.png", "c.png", "d.png", "d.png"]
    assert mist("protect", "in", "--out", "out", "--steps", 2, "--force") == 0
    assert len(computed) == 16


def test_what_failed_is_tried_again_when_it_is_mended():
    draw("in/a.png")
    Path("in/b.png").write_bytes(b"no picture")
    assert protect("in") == 2
    assert rows()["b.png"]["status"] == "failed" and "b.png" in rows()["b.png"]["error"]
    draw("in/b.png")
    assert protect("in") == 0
    assert rows()["b.png"]["status"] == "protected" and rows()["b.png"]["error"] is None


def test_a_row_tells_hashes_settings_report_and_environment():
    source = draw("in/a.png").read_bytes()
    assert protect("in", "--threads", 1) == 0
    row = rows()["a.png"]
    from mist_attack.gallery.manifest import sha256

    assert row["source_sha256"] == sha256(source)
    assert row["output_sha256"] == sha256(Path("out/a.png").read_bytes())
    assert row["settings"]["steps"] == 1 and row["report"]["budget_used_levels"] > 0
    assert {"mist", "torch", "device", "threads"} <= set(row) and row["threads"] == 1


def test_order_parts_and_limits_change_no_byte(computed):
    for index in range(7):
        draw(f"in/{index}.png", seed=index)
    assert protect("in") == 0
    expected = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}

    def same(folder):
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()} == expected

    assert mist("protect", "in", "--out", "shuffled", *QUICK, "--shuffle") == 0
    assert same("shuffled") and computed[7:] != sorted(computed[7:])
    while mist("protect", "in", "--out", "limited", *QUICK, "--limit", 3) == 0 and not same("limited"):
        assert len(files("limited")) in (3, 6)
    assert same("limited")
    for part in (1, 2, 3):
        assert mist("protect", "in", "--out", "parts", *QUICK, "--shard", f"{part}/3") == 0
    parts = [rows("parts", f"-{part}-of-3") for part in (1, 2, 3)]
    assert sum(map(len, parts)) == 7 and set().union(*parts) == {f"{index}.png" for index in range(7)}
    before = len(computed)
    assert mist("protect", "in", "--out", "parts", "--steps", 1) == 0  # everything is known from the parts
    assert len(computed) == before
    assert all(Path("parts", name).read_bytes() == data for name, data in expected.items() if name.endswith(".png"))


def test_fail_fast_stops_and_retries_are_for_machines_only(monkeypatch, computed):
    Path("in").mkdir()
    Path("in/0.png").write_bytes(b"no picture")
    draw("in/1.png"), draw("in/2.png")
    assert protect("in", "--retries", 3) == 2
    assert computed == ["1.png", "2.png"]
    shutil.rmtree("out")
    assert protect("in", "--fail-fast") == 1
    assert files("out") == []
    real, failures = task.protect, [RuntimeError("a driver"), OSError("a disk"), MemoryError()]

    def shaky(*arguments, **named):
        if failures:
            raise failures.pop()
        return real(*arguments, **named)

    monkeypatch.setattr(task, "protect", shaky)
    assert protect("in/1.png", "--retries", 1) == 1
    assert protect("in/1.png", "--retries", 1) == 0


@pytest.fixture
def handlers():
    """Signals mean afterwards what they meant before."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_signal_does_not_cut_winding_up_short(monkeypatch, handlers, capsys, first):
    """A container's init and its script both tell the command."""

    def told_to_end(*_):
        os.kill(os.getpid(), getattr(signal, first))
        raise AssertionError("the signal was not heeded")

    def told_again(self, name):
        os.kill(os.getpid(), signal.SIGTERM)
        leave(self, name)

    leave = Manifest.leave
    monkeypatch.setattr(task, "computed", told_to_end)
    monkeypatch.setattr(Manifest, "leave", told_again)
    draw("in/a.png")
    assert protect("in") == 130 and "interrupted" in capsys.readouterr().err
    assert not list(Path("out/.mist/begun").iterdir())


def test_a_folder_of_results_that_is_removed_while_the_run_goes_on(monkeypatch, capsys):
    for index in range(3):
        draw(f"in/{index}.png", seed=index)
    real = Folder.write

    def removes(self, name, data):
        if name == "2.png":
            shutil.rmtree("out")
        real(self, name, data)

    monkeypatch.setattr(Folder, "write", removes)
    assert protect("in", "--report", "report.json") == 2
    assert [row["status"] for row in rows().values()] == ["failed", "failed", "protected"]
    assert [row["status"] for row in json.loads(Path("report.json").read_text())] == ["failed", "failed", "protected"]
    assert "was removed" in capsys.readouterr().err
    assert protect("in") == 0


def test_a_disk_without_room_costs_no_computing(monkeypatch, computed):
    draw("in/a.png")
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    assert protect("in") == 1
    assert computed == [] and rows()["a.png"]["status"] == "failed"


def test_a_manifest_that_is_not_ours_is_left_alone(capsys):
    draw("in/a.png")
    Path("out").mkdir()
    Path("out/mist-manifest.jsonl").write_text("my notes\n")
    assert protect("in") == 1
    assert "not a line that Mist wrote" in capsys.readouterr().err
    assert Path("out/mist-manifest.jsonl").read_text() == "my notes\n"


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_names_as_file_systems_allow_them(capfd):
    names = ["a b.png", "'q\".png", "two\nlines.png", "\U0001f600.png", "n" * 251 + ".png", "\U0001f600" * 62 + ".png"]
    for index, name in enumerate([*map(os.fsencode, names), b"in/caf\xe9.png"[3:]]):
        draw("plain.png", seed=index)
        Path("in").mkdir(exist_ok=True)
        shutil.copyfile(b"plain.png", b"in/" + name)
    assert protect("in") == 0
    assert {os.fsencode(path.name) for path in Path("out").glob("*.png")} == {
        *map(os.fsencode, names),
        b"caf\xe9.png",
    }
    assert len(rows()) == 7
    assert protect("in") == 0
    said = capfd.readouterr().out
    assert said.count("protected already") == 7 and "two\\nlines.png" in said


def test_a_name_that_only_its_new_suffix_makes_too_long_is_a_row():
    draw("in/a.png"), draw("in/" + "n" * 251 + ".png")
    assert protect("in", "--format", "tiff") == 2
    assert [row["status"] for row in rows().values()] == ["protected", "failed"]


def test_a_bucket_gets_the_same_files_as_a_folder(computed):
    fsspec = pytest.importorskip("fsspec")
    draw("in/a.png"), draw("in/x/b.png")
    assert protect("in") == 0
    for _ in range(2):
        assert mist("protect", "in", "--out", "memory://bucket/results", *QUICK) == 0
    assert len(computed) == 4
    memory = fsspec.filesystem("memory")
    for name in ("a.png", "x/b.png", "mist-manifest.jsonl"):
        assert memory.cat_file(f"/bucket/results/{name}") == Path("out", name).read_bytes()
    assert not [path for path in memory.find("/bucket/results") if "begun" in path or "rows" in path]


BAD_NUMBERS = [
    ("--limit", 0),
    ("--retries", -1),
    ("--shard", "3/2"),
    ("--shard", "x"),
    ("--url", "x"),
    ("--threads", 0),
    ("--workers", 0),
    ("--gpus-per-worker", "nan"),
    ("--timeout", 0),
    ("--timeout", "nan"),
    ("--timeout", "inf"),
    ("--device", "warp"),
    ("--quality", 0),
    ("--quality", 101),
    ("--quality", -1),
    ("--mask-file", "nowhere.png"),
]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize("words", BAD_NUMBERS)
def test_a_value_that_cannot_be_meant_is_refused_at_once(words, more, capsys):
    draw("in/a.png")
    chosen = {"--workers": "ray", "--gpus-per-worker": "ray", "--timeout": "comfyui"}.get(words[0], "single")
    words += ("--format", "jpeg") if words[0] == "--quality" else ()
    assert protect("in", *words, *more, "--engine", chosen) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words[0].removesuffix("-file").removeprefix("--mask") in line and not Path("out").exists()


def test_selection_is_sorted_whatever_the_file_system_says(monkeypatch):
    for index in range(5):
        draw(f"in/{index}.png")
    expected, real = [source.path for source in select([Path("in")], None)], os.scandir

    class Shuffled(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def shuffled(path):
        with real(path) as found:
            entries = list(found)
        random.Random(1).shuffle(entries)
        return Shuffled(entries)

    monkeypatch.setattr(os, "scandir", shuffled)
    assert [source.path for source in select([Path("in")], None)] == expected == sorted(expected)


def test_an_enormous_file_is_refused_unread(monkeypatch):
    from mist_attack.errors import PictureError
    from mist_attack.pictures import reading

    draw("a.png")
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(PictureError, match="at most 10 bytes"):
        read_bytes("a.png")


def test_nothing_named_is_an_error():
    with pytest.raises(SettingsError):
        select([], None)


FINISHED = Path(__file__).parent / "data" / "gallery_of_2026"
CHOSEN = ["--preset", "quick", "--steps", 2, "--strength", 7.3, "--target", "rings", "--prompt", "a cat"]


@pytest.mark.parametrize(
    ("out", "words"), [("plain", ["in", "--steps", 1, *OLD]), ("chosen", ["in/a.png", *CHOSEN])], ids=str
)
def test_a_gallery_that_an_earlier_version_has_finished_stays_so(out, words, computed, tmp_path):
    shutil.copytree(FINISHED, tmp_path, dirs_exist_ok=True)
    manifest = Path(out, f"{MANIFEST}.jsonl").read_bytes()
    assert mist("protect", *words, "--out", out) == 0
    assert computed == [] and Path(out, f"{MANIFEST}.jsonl").read_bytes() == manifest
    assert mist("protect", *words, "--out", out, "--seed", 5) == 0
    assert len(computed) == len(list(Path(out).glob("*.png")))


def test_a_setting_that_a_later_version_adds_leaves_finished_galleries_alone(computed, tmp_path, monkeypatch):
    """The manifest's key holds it only where it differs from what was done before there was one."""
    later = make_dataclass("Later", [("stripes", int, 0)], bases=(Settings,), frozen=True, kw_only=True)
    shutil.copytree(FINISHED, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(request, "Settings", later)
    for stripes, done in ((0, []), (3, ["a.png", "b.png"])):
        made = functools.partial(later, stripes=stripes)
        monkeypatch.setattr(controls, "Settings", made)
        assert mist("protect", "in", "--out", "plain", "--steps", 1, *OLD) == 0
        assert sorted(computed) == done


@pytest.fixture
def wrong_files(monkeypatch):
    """An encoder that writes other pixels than it is given; and where they land."""
    real = task.encode_picture

    def encode(path, images, picture, **options):
        return real(path, images.clone().add_(40 / 255).clamp_(0, 1), picture, **options)

    monkeypatch.setattr(task, "encode_picture", encode)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "bmp"])
def test_a_file_that_breaks_the_promise_is_not_saved(wrong_files, capsys, suffix):
    draw(f"in/a.{suffix}")
    assert protect(f"in/a.{suffix}") == 1 and files("out") == []
    assert "a value moves by" in capsys.readouterr().err


def test_a_file_that_breaks_the_mask_is_not_saved(monkeypatch, capsys):
    """By one level of one value, which the strength would allow."""
    real = task.encode_picture

    def encode(path, images, picture, **options):
        nudged = images.clone()
        nudged[0, 0, 0, 0] = picture.images[0, 0, 0, 0] + (1 if picture.images[0, 0, 0, 0] < 0.5 else -1) / 255
        return real(path, nudged, picture, **options)

    monkeypatch.setattr(task, "encode_picture", encode)
    draw("in/a.png"), draw("in/b.png")
    Image.new("L", (40, 24), 255).save("in/a.mask.png")
    black = Image.new("L", (40, 24), 255)
    black.putpixel((0, 0), 0)
    black.save("in/b.mask.png")
    assert protect("in") == 2 and files("out") == ["a.png"]
    assert "moves by" in capsys.readouterr().err


def test_a_file_that_loses_its_transparency_is_not_saved(monkeypatch, capsys):
    real = task.encode_picture

    def encode(path, images, picture, **options):
        return real(path, images, replace(picture, alpha=None), **options)

    monkeypatch.setattr(task, "encode_picture", encode)
    draw("in/a.png", mode="RGBA")
    assert protect("in") == 0
    Image.new("RGBA", (40, 24), (90, 90, 90, 120)).save("in/b.png")
    assert protect("in") == 2 and files("out") == ["a.png"]
    assert "transparency is not the original's" in capsys.readouterr().err


def test_a_lossy_file_makes_no_such_promise(wrong_files):
    draw("in/a.jpg")
    assert protect("in/a.jpg", "--format", "jpeg") == 0


def test_a_workers_file_is_checked_on_the_worker(wrong_files):
    worker = ray.Worker(ray.ModelOptions("toy", threads=torch.get_num_threads()), None)
    worker.model = task.Model(Model())
    data = read_bytes(draw("in/a.png"))
    wanted = task.Task("a.png", Path("in/a.png"), data, Settings(steps=1, working_size=64))
    result, error, again, fatal = worker.protect(wanted)
    assert result is None and "a value moves by" in error and not (again or fatal)
