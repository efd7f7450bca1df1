"""The adapters on a device that refuses what CUDA refuses: see fakes/strict_device.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
HERE = ("test_strict_device.py", "test_surrogate_contract.py", "test_lean.py", "test_places.py")
ENOUGH = "not demo and not SD2-v"  # the same code as the others


@pytest.mark.skipif(shutil.which("c++") is None, reason="the strict device needs a C++ compiler, c++")
def test_every_adapter_on_a_device_as_strict_as_cuda(request):
    """In a process of its own: autograd counts the devices when it first runs."""
    if request.config.getoption("--device"):
        pytest.skip("within itself")
    options = ["-p", "no:cacheprovider", "-x", "--device", "strict", "-k", ENOUGH]
    command = [sys.executable, "-m", "pytest", *options, *(str(TESTS / name) for name in HERE)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture
def strict(request):
    if request.config.getoption("--device") != "strict":
        pytest.skip("runs within test_every_adapter_on_a_device_as_strict_as_cuda")
    return torch.device("strict:0")


def test_what_cuda_refuses_is_refused(strict):
    x = torch.rand(2, 8, 4, 4, device=strict)
    weight = torch.ones(8, device=strict)
    last = x.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="is_contiguous"):
        torch.native_group_norm(last, weight, weight, 2, 8, 16, 4, 1e-5)
    with pytest.raises(RuntimeError, match="scalar type"):
        torch.nn.functional.group_norm(x.half(), 4, weight, weight)
    with pytest.raises(RuntimeError, match="scalar type"):
        torch.nn.functional.layer_norm(x.half(), (4,), weight[:4], weight[:4])
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.rand(2, 8, 4, 4)
    with pytest.raises(RuntimeError, match="indices"):
        torch.arange(5)[torch.tensor([1], device=strict)]
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(), device=strict)


def test_what_cuda_takes_is_taken(strict):
    x = torch.rand(2, 8, 4, 4, device=strict).contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = torch.nn.GroupNorm(4, 8).to(strict)
    (gradient,) = torch.autograd.grad(norm(x).square().sum(), x)
    assert gradient.device == strict
    assert torch.arange(5, device=strict)[torch.tensor([1])].item() == 1
    generator = torch.Generator(strict).manual_seed(3)
    same = torch.rand(3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(3, generator=generator, device=strict).cpu(), same)


def test_a_backward_runs_in_a_thread_where_the_callers_modes_do_not_hold(strict):
    seen = []

    class Looking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(torch.get_default_device().type)
            return gradient

    x = torch.rand(3, device=strict, requires_grad=True)
    with torch.device("meta"):
        Looking.apply(x).sum().backward()
    assert seen == ["cpu"]
