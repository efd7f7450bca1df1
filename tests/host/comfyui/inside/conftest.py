"""Every test runs in the mode in which the host runs a prompt."""

import pytest
import torch

pytest.register_assert_rewrite("test_surrogate_contract")


@pytest.fixture(autouse=True)
def as_the_host_runs_prompts():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
