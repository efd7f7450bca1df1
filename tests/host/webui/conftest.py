import os
from pathlib import Path

import pytest
import webui_server


@pytest.fixture(scope="session")
def webui_dir():
    if not os.environ.get("WEBUI_DIR"):
        pytest.skip("set WEBUI_DIR to a checkout of AUTOMATIC1111's web UI (and WEBUI_PYTHON to its Python)")
    return Path(os.environ["WEBUI_DIR"]).resolve()


@pytest.fixture(scope="session")
def data(webui_dir, tmp_path_factory):
    return webui_server.prepare(webui_dir, tmp_path_factory.mktemp("webui"))


@pytest.fixture(scope="module")
def webui(webui_dir, data):
    """A server for the tests of one file, on the small SD1."""
    with webui_server.running(webui_dir, data) as server:
        yield server
