"""The model of this process never waits: pictures are read before it, and files made after it, in other threads."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
from fakes.command import draw, files, mist, toy_model  # noqa: F401

from mist_attack.errors import OutputError
from mist_attack.gallery import journal, task
from mist_attack.gallery.manifest import Manifest
from mist_attack.pictures.reading import size_in
from mist_attack.runners import line

pytestmark = pytest.mark.usefixtures("toy_model")
PATIENCE = 20  # seconds, after which a test has failed


class Moments(dict):
    """Things that happen, by name and picture; who waits for one that does not come fails."""

    def __missing__(self, key):
        return self.setdefault(key, threading.Event())

    def require(self, *key):
        assert self[key].wait(PATIENCE), f"{key} did not happen meanwhile"


@pytest.fixture
def moments(monkeypatch):
    """ "read", "model" and "file" happen before each of these, and `before[key]` is called in between."""
    found, before = Moments(), {}
    found.before = before

    def told(name, function, task_of):
        def call(*arguments, **named):
            key = name, task_of(arguments[0]).source.name
            found[key].set()
            before.get(key, lambda *_: None)(*arguments)
            return function(*arguments, **named)

        monkeypatch.setattr(task, function.__name__, call)
        if function.__name__ in vars(line):
            monkeypatch.setattr(line, function.__name__, call)

    told("read", task.ready, lambda given: given)
    told("model", task.computed, lambda given: given)
    told("file", task.result_of, lambda made: made.task)
    return found


@pytest.fixture
def gallery():
    for index in range(4):
        draw(f"in/{index}.png", seed=index)


def protect(*words):
    return mist("protect", "in", "--out", "out", "--steps", 1, *words)


def statuses():
    return [json.loads(row)["status"] for row in Path("out/mist-manifest.jsonl").read_text().splitlines()]


def begun():
    return list(Path("out/.mist/begun").iterdir())


def test_the_next_picture_is_read_and_the_last_one_written_while_the_model_is_at_work(gallery, moments):
    moments.before["model", "0.png"] = lambda *_: moments.require("read", "1.png")
    moments.before["file", "0.png"] = lambda *_: moments.require("model", "1.png")
    assert protect() == 0 and statuses() == ["protected"] * 4


def test_rows_come_in_order_whichever_file_is_ready_first(gallery, moments, capsys, monkeypatch):
    monkeypatch.setattr(line, "processors", lambda: 2)
    moments.before["file", "0.png"] = lambda *_: moments.require("file", "2.png")
    assert protect("--report", "report.json") == 0
    assert [row["input"] for row in json.loads(Path("report.json").read_text())] == [f"in/{i}.png" for i in range(4)]
    said = capsys.readouterr().out
    assert re.findall(r"\[(\d)/4\] (\d).png", said) == [("1", "0"), ("2", "1"), ("3", "2"), ("4", "3")]


def test_the_same_bytes_as_one_picture_at_a_time(gallery, monkeypatch):
    assert protect() == 0
    Path("out").rename("beside")
    monkeypatch.setattr(line, "PIXELS", 1)
    assert protect() == 0
    for name in (*files("out"), "mist-manifest.jsonl"):
        assert Path("out", name).read_bytes() == Path("beside", name).read_bytes()


@pytest.mark.parametrize("bound", [("PIXELS", 2 * 40 * 24), ("AHEAD", -1)])
def test_pictures_in_memory_are_counted_and_so_are_their_pixels(gallery, moments, monkeypatch, bound):
    monkeypatch.setattr(line, "processors", lambda: 2)
    monkeypatch.setattr(line, *bound)
    early = []
    moments.before["model", "0.png"] = lambda *_: early.append(moments["read", "2.png"].wait(0.5))
    assert protect() == 0 and early == [False]


def test_an_interruption_keeps_the_picture_whose_file_is_being_made(gallery, moments, capsys):
    def interrupted(*_):
        moments["interrupted", ""].set()
        raise KeyboardInterrupt

    moments.before["file", "0.png"] = lambda *_: moments.require("interrupted", "")
    moments.before["model", "1.png"] = interrupted
    assert protect() == 130 and "interrupted" in capsys.readouterr().err
    assert files("out") == ["0.png"] and statuses() == ["protected"] and not begun()
    moments.before.clear()
    assert protect() == 0 and statuses() == ["protected"] * 4


@pytest.mark.parametrize("stage", ["read", "model", "file"])
@pytest.mark.parametrize("error", [OSError("a disk"), RuntimeError("a driver"), MemoryError()])
def test_an_error_anywhere_is_its_pictures_own(gallery, moments, capsys, stage, error):
    def fails(*_):
        raise error

    moments.before[stage, "1.png"] = fails
    assert protect() == 2
    assert statuses() == ["protected", "failed", "protected", "protected"]
    assert "in/1.png" in capsys.readouterr().err


def test_a_fatal_error_leaves_pictures_that_were_read_already_untried(gallery, moments, capsys, monkeypatch):
    def fails(*_):
        moments.require("read", "3.png")
        raise RuntimeError("the device is lost")

    moments.before["model", "0.png"] = fails
    monkeypatch.setattr(task, "_can_step", lambda *_: False)
    assert protect() == 1
    assert "the other 3 would fail in the same way" in capsys.readouterr().err
    assert statuses() == ["failed"] and not begun() and ("model", "1.png") not in moments


def test_what_ends_the_gallery_ends_the_picture_at_the_model(gallery, moments, monkeypatch, capsys):
    """The report cannot be written, which is found when the first picture is done."""

    def endless(task, found, model, on_step):
        for _ in range(PATIENCE * 100):
            on_step(None)
            threading.Event().wait(0.01)
        raise AssertionError("nobody ended it")

    def refused(path, text):
        raise OutputError("the report cannot be written")

    moments.before["model", "1.png"] = endless
    monkeypatch.setattr(journal, "write_text", refused)
    assert protect("--report", "report.json") == 1
    assert "the report cannot be written" in capsys.readouterr().err


def test_a_picture_that_a_worker_died_at_goes_alone(gallery, moments, monkeypatch):
    """In this process nobody could tell which of several a death is of."""
    assert protect() == 0
    shutil.rmtree("out")
    monkeypatch.setattr(Manifest, "deaths", lambda self, name: name in {"1.png", "2.png"})
    alone = []

    def file(made):
        alone.append(made.task.name)
        assert not [name for name, picture in moments if name == "read" and picture not in (*alone, "3.png", "0.png")]

    moments.clear()
    moments.before |= {("file", f"{index}.png"): file for index in (1, 2)}
    assert protect() == 0 and alone == ["1.png", "2.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif", "bmp"])
def test_a_header_tells_the_size(suffix):
    assert size_in(draw(f"a.{suffix}", (30, 20)).read_bytes()) == (30, 20)
    assert size_in(b"no picture") == (0, 0)
