import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes or gigabytes")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes or gigabytes; run with --slow"))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
