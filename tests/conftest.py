"""Where tests run: on the CPU and on the accelerator that is here (marker `gpu`), or, with `--device`, there alone. In
which order: as written, or, with `--shuffle`, mixed."""

import random

import hypothesis
import pytest
import torch
from fakes import adapters, strict_device

from mist_attack.devices import pick_device
from mist_attack.errors import SettingsError
from mist_attack.hosts.borrowing import lean


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes or gigabytes")
    parser.addoption("--device", help="of the tests that take one: cuda:1, mps, cpu, strict (fakes/strict_device.py)")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="mix the order of modules, and of the tests in each")


def pytest_configure(config):
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    if config.getoption("--device") == "strict":
        strict_device.load()
        lean.DEVICES.add("strict")


def pytest_generate_tests(metafunc):
    for name, here, there in ("place", adapters.HERE, adapters.places), ("device", adapters.HERE.device, _alone):
        if name in metafunc.fixturenames:
            asked = metafunc.config.getoption("--device")
            metafunc.parametrize(name, _wherever(asked, here, there), ids=str, scope="module")


def _alone(device):
    return [device]


def _wherever(asked, here, there):
    """`here`, on the CPU, and what is `there` on this machine's accelerator; of one asked for, that alone."""
    try:
        device = pick_device(asked)
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from error
    elsewhere = [here] if device.type == "cpu" else there(device)
    marked = [pytest.param(value, marks=pytest.mark.gpu) for value in elsewhere]
    if asked:
        return marked
    return [here] if device.type == "cpu" else [here, *marked]


def pytest_report_header(config):
    seed = config.getoption("--shuffle")
    return None if seed is None else f"shuffled: --shuffle {seed} gives this order again"


def shuffled(items, seed):
    """Modules in another order, and so the tests of each: what a module sets up is still set up once."""
    modules = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    draw, mixed = random.Random(seed), list(modules.values())
    draw.shuffle(mixed)
    for tests in mixed:
        draw.shuffle(tests)
    return [item for tests in mixed for item in tests]


def pytest_collection_modifyitems(config, items):
    if config.getoption("--shuffle") is not None:
        items[:] = shuffled(items, config.getoption("--shuffle"))
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes or gigabytes; run with --slow"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def exact_convolutions(request):
    """On a card in full precision and by one algorithm: tests are about numbers and not about a card's choice."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, products.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, products.allow_tf32 = False, True, False
    yield
    cudnn.allow_tf32, cudnn.deterministic, products.allow_tf32 = before
