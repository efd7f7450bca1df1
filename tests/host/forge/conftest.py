"""The same promises as in `tests/host/webui`, in Forge: the tests are imported from there, the server is another."""

import pytest
from host_process import find_host
from webui import server

from . import make_checkpoints

FORGE = "--always-cpu --all-in-fp32"


@pytest.fixture(scope="session")
def host():
    return find_host("FORGE")


@pytest.fixture(scope="session")
def data(host, tmp_path_factory):
    data = server.prepare(tmp_path_factory.mktemp("forge"))
    host.script(make_checkpoints.__file__, host.folder, data, "small")
    return data


@pytest.fixture(scope="session")
def flags():
    """The host's own."""
    return FORGE.split()


@pytest.fixture
def textural_only():
    """A checkpoint whose denoising loss is not ours."""
    return "inpaint"


@pytest.fixture
def easel():
    """Brings what is painted on into view, on a page: its selector."""

    def open_easel(page):
        canvas = "#mist_picture_easel canvas"
        page.click("#mist_picture_painting button")
        page.wait_for(f"document.querySelector({canvas!r}).getBoundingClientRect().height > 0")
        return canvas

    return open_easel


@pytest.fixture(scope="module")
def webui(host, data, flags):
    """A server for the tests of one file, on the small SD1."""
    with server.running(host, data, "sd1", *flags) as found:
        yield found
