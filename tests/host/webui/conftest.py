import pytest
from host_process import find_host

from . import server


@pytest.fixture(scope="session")
def host():
    return find_host("WEBUI")


@pytest.fixture(scope="session")
def data(host, tmp_path_factory):
    data = server.prepare(tmp_path_factory.mktemp("webui"))
    host.script(server.HERE / "checkpoints.py", host.folder, data)
    return data


@pytest.fixture(scope="session")
def flags():
    """The host's own."""
    return server.A1111.split()


@pytest.fixture
def textural_only():
    """A checkpoint whose denoising loss is not ours."""
    return "inpaint"


@pytest.fixture
def easel():
    """Brings what is painted on into view, on a page: its selector."""
    return lambda page: "#mist_picture canvas"


@pytest.fixture(scope="module")
def webui(host, data, flags):
    """A server for the tests of one file, on the small SD1."""
    with server.running(host, data, "sd1", *flags) as found:
        yield found
