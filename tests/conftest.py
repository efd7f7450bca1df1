import pytest
import torch
from fakes.devices import device  # noqa: F401  # for every test


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes or gigabytes")
    parser.addoption(
        "--device", help="of the tests marked gpu: cuda:1, mps, cpu ... (default: the accelerator, if any)"
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes or gigabytes; run with --slow"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
