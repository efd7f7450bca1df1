import pytest
from host_process import find_host

from . import server


@pytest.fixture(scope="session")
def host():
    return find_host("WEBUI")


@pytest.fixture(scope="session")
def data(host, tmp_path_factory):
    return server.prepare(host, tmp_path_factory.mktemp("webui"))


@pytest.fixture(scope="module")
def webui(host, data):
    """A server for the tests of one file, on the small SD1."""
    with server.running(host, data) as found:
        yield found
