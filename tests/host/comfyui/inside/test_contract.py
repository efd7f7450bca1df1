"""The contract of every adapter (tests/test_surrogate_contract.py), over the host's real modules."""

import pytest
from models import checkpoint, v_prediction, with_lora
from test_surrogate_contract import *  # noqa: F403

from mist_attack.hosts.comfyui.adapter import ComfySurrogate


def plain():
    model, clip, vae = checkpoint()
    return ComfySurrogate(vae, model, clip)


def patched():
    model, clip, vae = checkpoint()
    return ComfySurrogate(vae, *with_lora(model, clip))


def predicting_v():
    model, clip, vae = checkpoint()
    return ComfySurrogate(vae, v_prediction(model), clip)


@pytest.fixture(scope="module", params=[plain, patched, predicting_v], ids=lambda make: make.__name__)
def surrogate(request):
    """Loaded as the host loads, in inference mode."""
    with torch.inference_mode():  # noqa: F405
        return request.param()
