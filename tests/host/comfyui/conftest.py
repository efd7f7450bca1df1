"""One base folder for all tests; one server with the host's defaults, shared by the tests that need no flags."""

import pytest
from host_process import find_host

from .client import BaseFolder, Comfy


@pytest.fixture(scope="session")
def host():
    return find_host("COMFYUI")


@pytest.fixture(scope="session")
def base(host, tmp_path_factory):
    folder = BaseFolder(host, tmp_path_factory.mktemp("comfyui"))
    folder.need("sd1", "lora")
    return folder


@pytest.fixture(scope="session")
def comfy(base):
    with Comfy(base) as server:
        yield server
