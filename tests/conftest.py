"""Where tests run: on the CPU and on the accelerator that is here (marker `gpu`), or, with `--device`, there alone."""

import pytest
import torch
from fakes import adapters, strict_device

from mist_attack.hosts import diffusers, lean


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes or gigabytes")
    parser.addoption("--device", help='of the tests that take a place: "cuda:0", or "strict" (fakes/strict_device.py)')


def pytest_configure(config):
    if config.getoption("--device") == "strict":
        strict_device.load()
        lean.DEVICES.add("strict")


def pytest_generate_tests(metafunc):
    for name, here, there in ("place", adapters.HERE, adapters.places), ("device", adapters.HERE.device, lambda d: [d]):
        if name in metafunc.fixturenames:
            device = metafunc.config.getoption("--device")
            metafunc.parametrize(name, _wherever(device, here, there), ids=str, scope="module")


def _wherever(asked, here, there):
    """`here`, on the CPU, and what is `there` on an accelerator: the one asked for alone, or this machine's too."""
    device = torch.device(asked) if asked else diffusers.pick_device()
    if device.type == "cpu":
        return [here]
    marked = [pytest.param(value, marks=pytest.mark.gpu) for value in there(device)]
    return marked if asked else [here, *marked]


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes or gigabytes; run with --slow"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
