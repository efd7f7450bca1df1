"""The device of a test: the CPU, and what `--device` names or this machine has, marked `gpu`."""

from __future__ import annotations

import pytest
import torch

from mist_attack.devices import pick_device
from mist_attack.errors import SettingsError

DEVICES = [pytest.param("cpu", id="cpu"), pytest.param("gpu", id="gpu", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    """Convolutions in full precision and by one algorithm: tests are about numbers and not about a card's choice."""
    if request.param == "cpu":
        yield torch.device("cpu")
        return
    named = request.config.getoption("--device", default=None)
    try:
        found = pick_device(named)
    except SettingsError as error:
        pytest.skip(str(error))
    if named is None and found.type == "cpu":
        pytest.skip("no accelerator here; --device names another device")
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.deterministic, products.allow_tf32
    cudnn.allow_tf32, cudnn.deterministic, products.allow_tf32 = False, True, False
    yield found
    cudnn.allow_tf32, cudnn.deterministic, products.allow_tf32 = before
