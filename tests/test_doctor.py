"""`mist doctor`: what works is said, what does not is said with the reason, in a line, and never by a traceback."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from mist_attack import devices
from mist_attack.command.main import main
from mist_attack.devices import doctor
from mist_attack.devices.agreement import agreement, agrees
from mist_attack.errors import DeviceError
from mist_attack.hosts.borrowing import lean
from mist_attack.hosts.headless import checkpoints, diffusers

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not (checkpoints.DEMO / "seed0").is_dir(), reason="the demo model is not in this copy")
CONTIGUOUS = "Expected X.is_contiguous(memory_format) to be true, but got false"
NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call."
)


def said(capsys, *words):
    """Exit code and lines; every line is a line, on either stream."""
    code = main(["doctor", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out.splitlines() + err.splitlines()


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_what_works_is_said_and_each_trial_is_shown(capsys):
    code, lines = said(capsys, "--device", "cpu")
    assert code == 0
    assert torch.__version__ in lines[1] and lines[2].startswith("devices: cpu")
    assert sum("right (cosine" in line for line in lines) == 4
    assert lines[-1].startswith("device: works on cpu: textural and fused") and "float32, bfloat16" in lines[-1]


def test_info_says_the_same(capsys, monkeypatch):
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)
    assert main(["info"]) == 0
    assert "device: works on cpu: textural and fused" in capsys.readouterr().out


def test_a_kernel_that_refuses_is_a_finding(capsys, monkeypatch):
    """What a graphics card does to blocks of the wrong format."""
    monkeypatch.setattr(torch, "native_group_norm", raising(RuntimeError(CONTIGUOUS)))
    code, lines = said(capsys)
    assert code == 1
    assert lines[-1].startswith("device: does not work on cpu: textural, UNet in float32") and CONTIGUOUS in lines[-1]


def test_a_gradient_that_is_wrong_is_seen(capsys, monkeypatch):
    real = lean._normalised
    monkeypatch.setattr(lean, "_normalised", lambda *arguments: real(*arguments).roll(1, 1))
    code, lines = said(capsys)
    assert code == 1 and "does not work" in lines[-1] and "WRONG (cosine" in lines[-1]


def test_a_unet_whose_jacobian_is_lost_is_seen(monkeypatch):
    """The fused step notices what the textural one cannot."""
    real = diffusers.DiffusersSurrogate.denoise

    def lost(self, noised, *rest):
        return (
            real(self, noised, *rest).detach() + noised - noised.detach() if self.is_lost else real(self, noised, *rest)
        )

    monkeypatch.setattr(diffusers.DiffusersSurrogate, "denoise", lost)
    monkeypatch.setattr(diffusers.DiffusersSurrogate, "is_lost", False, raising=False)
    run = diffusers.DiffusersSurrogate.run

    def as_lost(self, *arguments, **options):
        self.is_lost = True
        return run(self, *arguments, **options)

    monkeypatch.setattr(diffusers.DiffusersSurrogate, "run", as_lost)
    *findings, verdict = doctor.examine("cpu")
    assert [finding.works for finding in findings] == [True, False, False, False] and not verdict.works


def test_a_half_precision_that_fails_is_told_and_the_rest_works(monkeypatch):
    real = doctor._demo

    def without_half(device, dtype=torch.float32):
        if dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return real(device, dtype)

    monkeypatch.setattr(doctor, "_demo", without_half)
    *_, verdict = doctor.examine("cpu")
    assert verdict.works and "float32, bfloat16; not in float16 (RuntimeError: not implemented" in verdict.told


@pytest.mark.parametrize("name", ["warp:3", "cuda:99", "nonsense"])
def test_a_device_that_does_not_exist(capsys, name):
    code, lines = said(capsys, "--device", name)
    assert code == 1 and len(lines) == 4
    assert f"'{name}' is not available here. Available: cpu" in lines[-1]


def test_directml_is_found_by_its_package(monkeypatch):
    package = SimpleNamespace(device_count=lambda: 2)
    monkeypatch.setattr(devices, "_torches_own", lambda: None)
    monkeypatch.setitem(sys.modules, "torch_directml", package)
    assert devices.pick_device() == torch.device("privateuseone")
    assert devices.pick_device("privateuseone:1") == torch.device("privateuseone:1")
    monkeypatch.setitem(sys.modules, "torch_directml", None)
    assert devices.pick_device() == CPU


def test_why_a_device_is_absent_is_said_in_torchs_words(capsys, monkeypatch):
    """Half-installed: a build for CUDA, and no driver that answers."""
    monkeypatch.setattr(torch.cuda, "init", raising(RuntimeError("Found no NVIDIA driver\non your system.")))
    monkeypatch.setattr(devices, "accelerator", lambda: ("cpu", 0))
    code, lines = said(capsys, "--device", "cuda")
    assert code == 1 and f"torch {torch.__version__} says of cuda: Found no NVIDIA driver on your system." in lines[-1]


FAILURES = {
    "too old": (RuntimeError(NO_KERNEL), "has no kernels for it"),
    "full": (RuntimeError("CUDA error: out of memory"), "its memory ran out"),
    "half-installed": (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA"),
    "driver": (OSError("libcuda.so.1: cannot open\nshared object file"), "cannot open shared object file"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_device_that_does_not_compute(capsys, monkeypatch, kind):
    error, words = FAILURES[kind]
    monkeypatch.setattr(devices, "accelerator", lambda: ("cuda", 1))
    monkeypatch.setattr(torch, "ones", raising(error))
    code, lines = said(capsys)
    assert code == 1 and len(lines) == 4
    assert words in lines[-1] and "asynchronously" not in lines[-1] and "--device cpu" in lines[-1]


def test_a_device_that_adds_up_wrongly_does_not_work(monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(*shape, device=device))
    with pytest.raises(DeviceError, match="says that 8"):
        devices.require_working(CPU)


def test_memory_that_runs_out_in_a_step(monkeypatch, capsys):
    monkeypatch.setattr(diffusers.DiffusersSurrogate, "run", raising(torch.cuda.OutOfMemoryError("no room")))
    code, lines = said(capsys)
    assert code == 1 and "its memory ran out" in lines[-1] and "Close other programs" in lines[-1]


def test_without_diffusers_that_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    code, lines = said(capsys)
    assert (
        code == 1
        and "no step was tried: " in lines[-1]
        and "needs diffusers" in lines[-1]
        and "mist-protect[headless]" in lines[-1]
    )


def test_a_torch_that_cannot_be_imported_is_a_line(tmp_path):
    (tmp_path / "torch.py").write_text('raise OSError("libcudnn.so.9: cannot open shared object file")')
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    script = f"{path}; from mist_attack.command.main import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "libcudnn.so.9" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_without_the_demo_model_that_is_said(capsys, monkeypatch, tmp_path):
    """The archive that ComfyUI's registry serves leaves it out."""
    monkeypatch.setattr(checkpoints, "DEMO", tmp_path)
    code, lines = said(capsys)
    assert code == 1 and "cpu computes, but no step was tried: No demo model" in lines[-1]


def test_a_reporter_is_asked_for_it_first():
    path = Path(__file__).parents[1] / ".github" / "ISSUE_TEMPLATE" / "problem.yml"
    first = yaml.safe_load(path.read_text(encoding="utf-8"))["body"][0]
    assert "mist doctor" in first["attributes"]["label"] and first["validations"]["required"]
    assert all(
        f"`{words}`" in first["attributes"]["description"] for words in ("mist doctor", "python -m mist_attack doctor")
    )


def test_agreement_is_one_for_equals_and_nothing_agrees_with_what_is_no_number():
    gradient = torch.randn(1, 3, 8, 8)
    assert agreement(gradient, 7 * gradient) == (pytest.approx(1), 1)
    assert agreement(gradient, -gradient) == (pytest.approx(-1), 0)
    assert not agrees(agreement(torch.full_like(gradient, torch.nan), gradient), torch.bfloat16)
    assert not agrees(agreement(torch.zeros_like(gradient), gradient), torch.bfloat16)
