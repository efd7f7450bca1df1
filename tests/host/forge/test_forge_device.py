"""The real Forge on a device that refuses what CUDA refuses (tests/fakes/strict_device.py)."""

import pytest
from webui.server import running
from webui.test_webui_device import (
    FAMILIES,
    gradient,
    test_a_picture_is_protected_and_a_generation_is_as_before,  # noqa: F401
    test_the_gradient_is_the_cpus,  # noqa: F401
)

FULL = "float32"
FLAGS = {
    FULL: ("--all-in-fp32",),
    "half": ("--unet-in-fp16", "--vae-in-fp16"),
    "bfloat16": ("--unet-in-bf16", "--vae-in-bf16"),
    "fp8": ("--unet-in-fp8-e4m3fn", "--vae-in-bf16"),
}


@pytest.fixture(scope="module")
def expected(host, data, flags, tmp_path_factory):
    """The gradient of each family on the CPU, in float32."""
    with running(host, data, "sd1", *flags) as server:
        return {family: gradient(server, family, tmp_path_factory.mktemp("cpu")) for family in FAMILIES}


@pytest.fixture(scope="module", params=FLAGS)
def server(request, host, data, expected):
    with running(host, data, "sd1", "--always-cpu", *FLAGS[request.param], MIST_PROBE_DEVICE="strict:0") as server:
        server.flags, server.computes_in_full = request.param, request.param == FULL
        yield server
