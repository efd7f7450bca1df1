"""The command as a user types it: files, messages, exit codes; nothing half-written, nothing overwritten."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.command import draw, files, levels_of, mist, toy_model  # noqa: F401
from PIL import Image

from mist_attack.command.main import main
from mist_attack.controls import CONTROLS, controls_from
from mist_attack.gallery import run, task
from mist_attack.hosts.headless import checkpoints
from mist_attack.presets import usual
from mist_attack.settings import resolve

DEMO = checkpoints.DEMO / "seed0"
pytestmark = pytest.mark.usefixtures("toy_model")


def test_protects_files_and_folders_and_reports(capsys):
    draw("in/a.png", seed=1), draw("in/b.jpg", seed=2), draw("c.webp", seed=3)
    Path("in/notes.txt").write_text("not a picture")
    assert (
        mist("protect", "in", "c.webp", "--out", "out", "--steps", 2, "--step", 8, "--report", "out/report.json") == 0
    )
    assert files("out") == ["a.png", "b.png", "c.webp", "report.json"]
    moved = np.abs(levels_of("out/a.png") - levels_of("in/a.png"))
    assert 0 < moved.max() <= 16
    rows = json.loads(Path("out/report.json").read_text("utf-8"))
    assert [row["status"] for row in rows] == ["protected"] * 3
    assert rows[0]["report"]["budget_used_levels"] == moved.max()
    assert rows[0]["report"]["settings"]["steps"] == 2
    told = capsys.readouterr().out
    (words,) = re.findall(r"a\.png: (Changed by at most \d+ levels; .*)", told)
    assert "times as far as noise" in words and told.index(words) < told.index("\n  PSNR ") < told.index("-> ")


def test_the_file_says_what_was_done_to_it_without_paths():
    draw("secret-folder/a.png")
    mist("protect", "secret-folder/a.png", "--out", "out", "--steps", 1)
    text = Image.open("out/a.png").text["Mist"]
    assert json.loads(text)["steps"] == 1 and "secret" not in text


def test_every_control_has_a_flag_that_arrives(monkeypatch):
    seen = {}
    monkeypatch.setattr(run, "run", lambda order, *_, **__: seen.update(order.settings.as_dict()) or [])
    draw("a.png")
    words = "--strength 8 --steps 3 --step 2 --objective semantic --fusion-weight 2 --gradient sds --direction descent"
    more = "--view tiles --working-size 256 --prompt x --target rings --low-vram --seed 5 --preset mist"
    mist("protect", "a.png", "--out", "out", *words.split(), *more.split())
    assert seen["epsilon"] == pytest.approx(8 / 255) and seen["step_size"] == pytest.approx(2 / 255)
    assert seen["semantic_weight"] == pytest.approx(1e5)
    expected = {"steps": 3, "objective": "semantic", "gradient": "sds", "direction": "descent", "view": "tiles"}
    expected |= {"working_size": 256, "prompt": "x", "target": "rings", "low_vram": True, "seed": 5, "keep_tone": False}
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--preset quick", {"momentum": 0.8, "step_decay": True, "keep_tone": True}),
        ("--preset quick --momentum 0.3 --no-step-decay", {"momentum": 0.3, "step_decay": False, "steps": 15}),
        ("--preset mist --keep-tone --step-decay", {"keep_tone": True, "step_decay": True}),
        ("--config mine.yaml --no-low-vram --no-keep-tone", {"low_vram": False, "keep_tone": False, "momentum": 0.4}),
    ],
)
def test_a_preset_fills_the_controls_and_flags_win(monkeypatch, words, expected):
    seen = {}
    monkeypatch.setattr(run, "run", lambda order, *_, **__: seen.update(order.settings.as_dict()) or [])
    draw("a.png"), Path("mine.yaml").write_text("low_vram: true\nmomentum: 0.4\n")
    mist("protect", "a.png", "--out", "out", *words.split())
    assert {name: seen[name] for name in expected} == expected


def test_every_control_has_a_flag_and_help_that_are_the_tables(capsys):
    with pytest.raises(SystemExit):
        main(["protect", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for control in CONTROLS:
        if "command" not in control.faces:
            assert control.flag not in told
            continue
        default = control.shown(controls_from(resolve())[control.name])  # what counts where nobody asks
        assert control.flag in told and f"{control.explained('command')} (default {default})" in told


def test_a_config_file_and_a_mask_and_a_target_picture():
    draw("a.png", (40, 24)), draw("target.png", (30, 30), seed=5)
    mask = np.zeros((24, 40), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save("mask.png")
    Path("mine.yaml").write_text("strength: 4\nsteps: 2\nstep: 4\n", encoding="utf-8")
    arguments = ["--config", "mine.yaml", "--mask-file", "mask.png", "--target", "target.png", "--report", "r.json"]
    assert mist("protect", "a.png", "--out", "out", *arguments) == 0
    moved = np.abs(levels_of("out/a.png") - levels_of("a.png"))
    assert moved[:, 20:].max() == 0 < moved[:, :20].max() <= 4
    assert json.loads(Path("r.json").read_text("utf-8"))[0]["report"]["target"] == "picture"


def test_a_mask_of_another_size_is_stretched_and_said(capsys):
    draw("a.png", (40, 24))
    Image.new("L", (10, 6), 255).save("mask.png")
    assert mist("protect", "a.png", "--out", "out", "--steps", 1, "--mask-file", "mask.png") == 0
    assert "stretched" in capsys.readouterr().out


def test_a_black_mask_and_strength_0_change_nothing_and_say_so(capsys):
    draw("a.png")
    Image.new("L", (40, 24), 0).save("mask.png")
    assert mist("protect", "a.png", "--out", "masked", "--steps", 1, "--mask-file", "mask.png") == 0
    for strength in (0, 0.4, 0.99):
        assert mist("protect", "a.png", "--out", f"at{strength}", "--steps", 1, "--strength", strength) == 0
    for folder in ("masked", "at0", "at0.4", "at0.99"):
        assert np.array_equal(levels_of(f"{folder}/a.png"), levels_of("a.png"))
    said = capsys.readouterr().out
    assert "all black" in said and "strength 1 changes nothing" not in said
    for strength in (0, 0.4, 0.99):
        assert f"strength {strength} changes nothing: the pixels are the original's" in said


BAD_FILES = {
    "missing.png": None,
    "empty.png": b"",
    "words.png": b"these are words",
    "cut.png": "cut",
    "animated.gif": "animated",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_one_bad_file_is_told_and_the_others_go_on(name, capsys):
    draw("good.png")
    content = BAD_FILES[name]
    if content == "cut":
        whole = draw("whole.png").read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2])
    elif content == "animated":
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(name, save_all=True, append_images=frames[1:])
    elif content is not None:
        Path(name).write_bytes(content)
    assert mist("protect", name, "good.png", "--out", "out", "--steps", 1, "--report", "out/r.json") == 2
    assert files("out") == ["good.png", "r.json"]
    assert name in capsys.readouterr().err
    rows = json.loads(Path("out/r.json").read_text("utf-8"))
    assert [row["status"] for row in rows] == ["failed", "protected"] and rows[0]["error"]
    assert mist("protect", name, "--out", "out2", "--steps", 1) == 1
    assert files("out2") == [] if Path("out2").exists() else True


@pytest.mark.parametrize("failure", [RuntimeError("CUDA out of memory"), MemoryError(), OSError(28, "No space left")])
def test_a_failure_of_the_machine_in_one_picture_does_not_stop_the_next(failure, monkeypatch, capsys):
    draw("a.png"), draw("b.png")
    real, calls = task.protect, []

    def fails_first(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            raise failure
        return real(*arguments, **named)

    monkeypatch.setattr(task, "protect", fails_first)
    assert mist("protect", "a.png", "b.png", "--out", "out", "--steps", 1) == 2
    assert files("out") == ["b.png"]
    assert type(failure).__name__ in capsys.readouterr().err


def test_ctrl_c_keeps_finished_files_and_no_half_written_one(monkeypatch, capsys):
    for name in ("a.png", "b.png", "c.png"):
        draw(name)
    real, calls = task.protect, []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(task, "protect", interrupted)
    assert mist("protect", "a.png", "b.png", "c.png", "--out", "out", "--steps", 1, "--report", "out/r.json") == 130
    assert files("out") == ["a.png", "r.json"]
    assert len(json.loads(Path("out/r.json").read_text("utf-8"))) == 1
    assert "finished are kept" in capsys.readouterr().err


def test_ctrl_c_in_the_middle_of_a_write_leaves_the_older_file(monkeypatch):
    draw("a.png")
    older = draw("out/a.png", seed=9).read_bytes()

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    assert mist("protect", "a.png", "--out", "out", "--steps", 1) == 130
    assert files("out") == ["a.png"] and Path("out/a.png").read_bytes() == older


@pytest.mark.parametrize(
    "words, said",
    [
        ("protect", "Expected pictures"),
        ("protect a.png", "Expected pictures"),
        ("protect a.png --out out --strength 300", "strength"),
        ("protect a.png --out out --steps 0", "steps"),
        ("protect a.png --out out --preset strongest", "gentle"),
        ("protect a.png --out out --target nowhere.png", "lattice"),
        ("protect a.png --out out --objective both", "textural"),
        ("protect a.png --out out --quality 80", "jpeg"),
        ("protect a.png --out out --threads 0", "--threads"),
        ("protect a.png --out a.png", "need a folder"),
        ("protect a.png --out .", "never overwritten"),
        ("protect a.png --out out --report a.png", "never overwritten"),
        ("protect a.png --out sub --mask-file sub/a.png", "never overwritten"),
        ("protect a.png --out sub --target sub/a.png", "never overwritten"),
        ("protect a.png sub/a.png --out out", "would both become"),
        ("protect empty --out out", "No pictures"),
        ("protect a.png --out out --config nowhere.yaml", "nowhere.yaml"),
        ("protect a.png --out out --frobnicate", "--frobnicate"),
        ("protect a.png --out out --device warp", "warp"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(words, said, capsys):
    draw("a.png"), draw("sub/a.png")
    Path("empty").mkdir()
    before = files()
    assert mist(*words.split()) == 1
    assert said in capsys.readouterr().err
    assert files() == before


def test_a_missing_checkpoint_lists_what_is_accepted(monkeypatch, capsys, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    draw("a.png")
    assert mist("protect", "a.png", "--out", "out", "--checkpoint", "nowhere.safetensors") == 1
    assert "nowhere.safetensors does not exist" in capsys.readouterr().err
    assert not Path("out").exists()


def test_jpeg_only_when_asked_and_with_a_warning(capsys):
    draw("a.png", (64, 64))
    assert mist("protect", "a.png", "--out", "out", "--steps", 1, "--format", "jpeg", "--quality", 90) == 0
    assert Image.open("out/a.jpg").format == "JPEG"
    assert "lossy" in capsys.readouterr().err


def test_a_dry_run_writes_nothing_and_estimates(capsys):
    draw("a.png")
    assert mist("protect", "a.png", "--out", "out", "--dry-run", "--report", "r.json") == 0
    said = capsys.readouterr().out
    assert "would protect a.png -> out" in said and "GiB" in said
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_a_dry_run_needs_no_model(monkeypatch, capsys, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    draw("a.png")
    assert mist("protect", "a.png", "--out", "out", "--dry-run") == 0
    said = capsys.readouterr()
    assert "would protect" in said.out and "no estimate" in said.err


def test_a_dry_run_opens_the_headers_and_speaks_of_strength(capsys):
    draw("in/a.png"), draw("in/alpha.png", mode="RGBA")
    Path("in/words.png").write_bytes(b"words")
    Path("in/cut.png").write_bytes(draw("whole.png").read_bytes()[:30])
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save("in/two.gif", save_all=True, append_images=frames[1:])
    Image.new("L", (40, 24), 0).save("in/a.mask.png")
    assert mist("protect", "in", "--out", "out", "--dry-run", "--strength", 8, "--fusion-weight", 2) == 2
    said = capsys.readouterr()
    for name in ("words.png", "cut.png", "two.gif"):
        assert said.err.count(f"would fail: in/{name}: ") == said.err.count(f"in/{name}") == 1
    assert "strength 8," in said.out and f"step {usual('step', 0):g}," in said.out and "fusion weight 2," in said.out
    assert "epsilon" not in said.out and "2 picture(s)" in said.out
    Path("in/a.mask.png").write_bytes(b"words")
    assert mist("protect", "in/a.png", "in/alpha.png", "--out", "out", "--dry-run", "--format", "jpeg") == 1
    said = capsys.readouterr().err
    assert "in/a.png: in/a.mask.png: expected a picture" in said and "in/alpha.png: alpha.jpg: JPEG cannot hold" in said


@pytest.mark.parametrize("words", [("--format", "jpeg"), ("--format", "webp")])
def test_what_the_format_cannot_hold_is_told_before_the_steps(words, monkeypatch, capsys):
    monkeypatch.setattr(task, "protect", lambda *_, **__: pytest.fail("it was computed"))
    draw("a.png", (16400, 2), mode="RGBA")  # WebP ends at 16383
    assert mist("protect", "a.png", "--out", "out", *words) == 1
    assert "a.png" in capsys.readouterr().err


def test_more_threads_than_the_machine_has_are_not_taken(monkeypatch, capsys):
    threads = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    draw("a.png")
    assert mist("protect", "a.png", "--out", "out", "--steps", 1, "--threads", 9999) == 0
    assert "--threads 9999: this machine has" in capsys.readouterr().err
    assert len(threads) == 1 and threads[0] <= os.cpu_count()


def test_an_error_says_the_path_once(capsys):
    draw("in/A.png"), draw("in/a.jpg"), Path("in/c.png").write_bytes(b"words")
    assert mist("protect", "in", "in/nowhere.png", "--out", "out", "--steps", 1) == 2
    said = capsys.readouterr().err
    for name in ("in/a.jpg", "in/c.png", "in/nowhere.png"):
        assert said.count(name) == 1


def test_quiet_says_nothing_but_errors(capsys):
    draw("a.png")
    assert mist("protect", "a.png", "missing.png", "--out", "out", "--steps", 1, "--quiet") == 2
    said = capsys.readouterr()
    assert said.out == "" and "missing.png" in said.err


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_names_that_are_not_text_or_have_spaces_and_quotes(capfd):
    draw("plain.png")
    names = [b"a b 'c' \"d\".png", b"caf\xe9.png", "\u4e2d\U0001f600.png".encode()]
    for name in names:
        os.link(b"plain.png", name)
    assert mist("protect", *map(os.fsdecode, names), "--out", "out", "--steps", 1, "--report", "out/r.json") == 0
    assert {os.fsencode(path.name) for path in Path("out").iterdir() if path.is_file()} == {
        *names,
        b"r.json",
        b"mist-manifest.jsonl",
    }
    assert len(json.loads(Path("out/r.json").read_text("utf-8"))) == 3


def test_same_command_same_bytes():
    draw("a.png")
    for folder in ("one", "two"):
        mist("protect", "a.png", "--out", folder, "--steps", 3)
    assert Path("one/a.png").read_bytes() == Path("two/a.png").read_bytes()


def test_alpha_and_metadata_come_through():
    rgba = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save("a.png", dpi=(300, 300))
    mist("protect", "a.png", "--out", "out", "--steps", 1)
    result = Image.open("out/a.png")
    assert np.array_equal(np.asarray(result)[..., 3], rgba[..., 3])
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_info_answers_without_a_checkpoint(monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    assert mist("info") == 0
    said = capsys.readouterr().out
    assert "device: " in said and "preset gentle" in said and "Accepted" in said


@pytest.mark.parametrize("named", ["nowhere.safetensors", "words.txt", "demo:9"])
@pytest.mark.parametrize("by_flag", [True, False])
def test_info_fails_for_a_checkpoint_that_was_named_and_cannot_be_used(named, by_flag, monkeypatch, capsys, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("words")
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    if not by_flag:
        monkeypatch.setenv("MIST_CHECKPOINT", named)
    assert mist("info", *(["--checkpoint", named] if by_flag else [])) == 1
    said = capsys.readouterr()
    assert named in said.err and "preset gentle" in said.out


def test_help_is_quick_because_it_loads_nothing():
    script = "import sys, mist_attack.command.main as cli; sys.argv[1:] = ['protect', '--help']; cli.main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", script], capture_output=True, text=True)
    assert "--input_dir_path" in done.stdout and "--strength" in done.stdout
    assert "torch" not in done.stderr and "numpy" not in done.stderr


@pytest.mark.skipif(not DEMO.is_dir(), reason="the demo model is not in this copy")
def test_the_real_command_end_to_end_on_the_demo_model(tmp_path):
    draw("a.png", (64, 64))
    words = ["protect", "a.png", "--out", "out", "--checkpoint", "demo", "--steps", "2", "--threads", "1"]
    done = subprocess.run([sys.executable, "-m", "mist_attack", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "does not protect against real models" in " ".join(done.stderr.split())
    assert 0 < np.abs(levels_of("out/a.png") - levels_of("a.png")).max() <= 16


def test_threads_are_told_to_wait_briefly_before_torch_reads_it():
    """OpenMP reads its environment when it is loaded."""
    script = """
import os, sys
from mist_attack import __main__
assert "torch" not in sys.modules
sys.argv = ["mist", "--version"]
try:
    __main__.main()
finally:
    print(os.environ["GOMP_SPINCOUNT"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    run = lambda **more: subprocess.run(  # noqa: E731
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment | more
    )
    assert run().stdout.split()[-1] == "1000"
    assert run(GOMP_SPINCOUNT="7").stdout.split()[-1] == "7"


@pytest.mark.parametrize(("told", "code"), [(True, 130), (False, None)])
def test_a_library_that_replaces_the_interrupt_by_an_error_of_its_own_is_an_interrupt(monkeypatch, capsys, told, code):
    def command(_):
        if told:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except KeyboardInterrupt:
                pass
        raise AttributeError("cut short")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr("mist_attack.command.main._info", command)
    try:
        if told:
            assert main(["info"]) == code and "interrupted" in capsys.readouterr().err
        else:
            with pytest.raises(AttributeError):
                main(["info"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
