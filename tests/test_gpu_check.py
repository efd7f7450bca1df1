"""`mist bench --gpu`: every part on the CPU at reduced size, with the device as a parameter as on a card."""

import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from bench.readme_figures import CARD_RESULTS
from mist_attack.bench import meters
from mist_attack.bench.gpu import check, command, cost, gradients, kernels, pictures, suite
from mist_attack.command import main
from mist_attack.command.flags import GPU_PARTS
from mist_attack.hosts.headless import checkpoints

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
needs_demo = pytest.mark.skipif(not (checkpoints.DEMO / "seed0").is_dir(), reason="the demo model is not in this copy")


@pytest.fixture
def request_():
    return check.Check(CPU, torch.float32, reduced=True, until=time.time() + 600)


def run(out, rows, monkeypatch, parts=("gradients",), **facts):
    """Whether all was right, and what was said, where each part gives these rows."""
    monkeypatch.setattr(command, "_rows", lambda name, check: iter(rows))
    said = []
    return command.run(CPU, torch.float32, out, parts, said.append, reduced=True), "\n".join(said)


@needs_demo
def test_gradients_agree_repeat_and_are_the_same_in_low_vram(request_, monkeypatch):
    monkeypatch.setattr(gradients, "DTYPES", (torch.float32, torch.bfloat16))
    monkeypatch.setattr(gradients, "WAYS", {name: gradients.WAYS[name] for name in ("textural", "fused")})
    rows = list(gradients.rows(request_))
    assert [row["what"] for row in rows] == [
        "textural, UNet in float32",
        "fused, UNet in float32",
        "fused, UNet in bfloat16",
        "textural, 5 steps",
        "fused, 5 steps",
    ]
    assert not any(map(check.failed, rows)) and rows[1]["agrees"] is rows[1]["low_vram_equal"] is True


@needs_demo
def test_a_gradient_that_is_wrong_fails_the_check(request_, monkeypatch):
    monkeypatch.setattr(gradients, "DTYPES", (torch.float32,))
    monkeypatch.setattr(gradients, "WAYS", {"textural": gradients.WAYS["textural"]})
    real, first = gradients.step_gradient, []

    def wrong(*arguments):
        found = real(*arguments)
        return found if not first and not first.append(1) else found.roll(1, -1)

    monkeypatch.setattr(gradients, "step_gradient", wrong)
    row = next(gradients.rows(request_))
    assert row["agrees"] is False and check.failed(row)


def test_every_way_of_a_step_is_measured_on_the_full_architecture(request_, monkeypatch):
    monkeypatch.setattr(cost, "STEPS", {True: (1, 2)})
    rows = list(cost.rows(request_))
    assert not any(map(check.failed, rows)), rows
    names = {row["what"].removesuffix(", 64 px") for row in rows}
    assert {"bare encoder", "bare exact", "bare exact, 4 pictures", "bare sds"} < names
    together = next(row for row in rows if "pictures" in row["what"])
    assert together["ms_a_picture"] > 0
    assert rows[0]["what"] == "the encoder's largest norms, 64 px" and min(rows[0]["own_ms"], rows[0]["spread_ms"]) > 0
    assert {"Mist's loop", "exact", "sds", "amortised", "textural", "exact, low-VRAM"} < names
    ours = next(row for row in rows if row["what"] == "exact, 64 px")
    assert ours["over_bare"] > 0 and ours["busy"] is ours["syncs_a_step"] is None
    assert ours["peak_GiB"] or not meters.CLEAR.exists()


def test_pictures_are_whole_or_reckoned_from_fewer_steps(request_, monkeypatch):
    monkeypatch.setattr(pictures, "preset_descriptions", lambda: {"quick": "", "gentle": ""})
    monkeypatch.setattr(pictures, "SIDES", {True: (64,)})
    seconds = iter([1.0, 8.0, 2.0] * 2)
    monkeypatch.setattr(pictures, "waited", lambda device, call: next(seconds))
    rows = list(islice(pictures.rows(request_), 2))
    assert [row["of_steps"] for row in rows] == ["4 of 15", "4 of 100"]
    assert [row["seconds"] for row in rows] == [8 + 2 * 11, 8 + 2 * 96]
    assert rows[0]["hours_for_100"] == pytest.approx(30 / 36)


def test_a_set_is_checked_for_its_budget_and_the_model_that_it_leaves(request_, monkeypatch):
    monkeypatch.setattr(pictures, "preset_descriptions", dict)
    [row] = pictures.rows(request_)
    assert row["what"] == "a set of two, 64 px" and row["seconds"] > 0
    assert row["changed_within_budget"] is row["model_unchanged"] is True

    def spoil(self):
        self.surrogate.unet.conv_in.bias.add_(1)
        yield from ()

    monkeypatch.setattr(pictures.SetProtection, "run", torch.no_grad()(spoil))
    [row] = pictures.rows(request_)
    assert check.failed(row)


def test_the_tests_that_know_devices_run_on_this_one(request_, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k 'toy and (name or latents)' -p no:xdist")
    rows = list(suite.rows(request_))
    assert rows[0] == {"what": "passed", "tests": 4} and not any(map(check.failed, rows))


def test_what_failed_there_is_named(tmp_path):
    report = tmp_path / "report.xml"
    case = '<testcase classname="tests.x" name="{}">{}</testcase>'
    kinds = {
        "a": "",
        "b": '<failure message="no\nkernel"/>',
        "c": '<error message="oh"/>',
        "d": '<skipped message="s"/>',
    }
    report.write_text(
        f"<testsuites><testsuite>{''.join(case.format(*x) for x in kinds.items())}</testsuite></testsuites>"
    )
    assert list(suite._read(report)) == [
        {"what": "passed", "tests": 1},
        {"what": "tests.x::b", "error": "no kernel"},
        {"what": "tests.x::c", "error": "oh"},
        {"what": "left out: s", "tests": 1},
    ]


def test_a_part_has_a_process_and_what_it_gives_arrives(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    out = tmp_path / "new" / "found.json"
    said = []
    assert command.run(CPU, torch.float32, out, ["comfyui"], said.append, reduced=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["machine"]["device"] == "cpu" and found["machine"]["torch"] == torch.__version__
    assert found["parts"]["comfyui"]["rows"] == [{"what": "left out: COMFYUI_DIR names no ComfyUI"}]
    assert "left out" in said[-1]


def test_a_part_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "GRACE", 0.2)
    monkeypatch.setitem(command.SECONDS, "gradients", 0)
    assert not command.run(CPU, torch.float32, tmp_path / "x.json", ["gradients"], lambda _: None, reduced=True)
    (row,) = json.loads((tmp_path / "x.json").read_text())["parts"]["gradients"]["rows"]
    assert "its time was over" in row["error"]


def test_a_part_that_fails_is_told_and_the_next_one_runs(tmp_path, monkeypatch):
    def rows(name, check):
        yield {"what": name, "error": "RuntimeError: oh"} if name == "cost" else {"what": name, "ms": 1.0}

    monkeypatch.setattr(command, "_rows", rows)
    assert not command.run(CPU, torch.float32, tmp_path / "x.json", ["cost", "pictures"], lambda _: None, reduced=True)
    assert json.loads((tmp_path / "x.json").read_text())["parts"]["pictures"]["rows"] == [
        {"what": "pictures", "ms": 1.0}
    ]


def test_every_row_is_written_as_it_comes_and_a_cut_loses_none(tmp_path, monkeypatch):
    def rows():
        yield {"what": "one", "ms": 1.0}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "x.json", rows(), monkeypatch)
    assert json.loads((tmp_path / "x.json").read_text())["parts"]["gradients"]["rows"] == [{"what": "one", "ms": 1.0}]


def test_figures_of_another_machine_do_not_stay(tmp_path, monkeypatch):
    out = tmp_path / "x.json"
    run(out, [{"what": "a"}], monkeypatch, ["cost"])
    run(out, [{"what": "b"}], monkeypatch, ["pictures"])
    assert set(json.loads(out.read_text())["parts"]) == {"cost", "pictures"}
    monkeypatch.setattr(command, "described", lambda device: "cuda (NVIDIA L4)")
    run(out, [{"what": "c"}], monkeypatch, ["suite"])
    assert set(json.loads(out.read_text())["parts"]) == {"suite"}


def test_a_row_that_fails_gives_its_reason_in_a_line():
    def measure():
        raise RuntimeError("CUDA error: out of memory\nmore words")

    found = check.row("mist, 1024 px", measure)
    assert found == {"what": "mist, 1024 px", "error": "RuntimeError: CUDA error: out of memory more words"}
    assert check.failed(found) and check.failed({"what": "x", "agrees": False}) and not check.failed({"what": "x"})


def test_kernels_that_overlap_count_once():
    assert kernels.union([(0, 2), (1, 3), (5, 6), (5.5, 5.75)]) == 4
    assert kernels.union([]) == 0


def test_what_a_cpu_cannot_show_is_left_out():
    assert (
        kernels.replayed(CPU, print) is kernels.busy_share(CPU, print) is kernels.synchronisations(CPU, print) is None
    )


def test_the_command_takes_the_parts_and_says_what_was_wrong(tmp_path, monkeypatch, capsys):
    asked = []

    def rows(name, check):
        asked.append((name, check.device.type, check.dtype, check.reduced))
        yield {"what": name, "agrees": name != "cost"}

    monkeypatch.setattr(command, "_rows", rows)
    words = ["bench", "--gpu", "--device", "cpu", "--out", str(tmp_path / "x.json")]
    assert main.main([*words, "--only", "suite", "gradients"]) == 0
    assert asked == [(name, "cpu", torch.float32, True) for name in ("suite", "gradients")]
    assert main.main(words) == 2 and [name for name, *_ in asked[2:]] == list(GPU_PARTS)
    assert "| cost | **no** |" in capsys.readouterr().out
    assert main.main([*words, "--only", "tiles"]) == 1 and "gradients, cost, pictures" in capsys.readouterr().err
    assert main.main(["bench", "--only", "suite"]) == 1 and "costs256" in capsys.readouterr().err


def test_a_cpus_figures_do_not_take_a_cards_place():
    assert command.default_out(CPU) != CARD_RESULTS == command.default_out(torch.device("cuda"))


def test_our_tests_run_in_a_host_whose_folder_has_no_tests(tmp_path):
    """`addopts` names a folder that is relative to ours."""
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "cli_args.py").write_text("class args: pass\n")
    script = ROOT / "tests" / "host" / "comfyui" / "inside" / "run.py"
    words = [
        sys.executable,
        script,
        tmp_path,
        tmp_path,
        Path(pytest.__file__).parents[1],
        ROOT / "tests" / "test_ratios.py",
    ]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
