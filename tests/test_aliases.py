"""Aliases: inference tensors take part in gradients, over their own memory, and nothing of theirs changes."""

import pytest
import torch
from torch import nn

from mist_attack.hosts.borrowing.aliases import Aliases, OutOfPlace, alias

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64]


def inferred(make):
    with torch.inference_mode():
        return make()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_alias_is_a_normal_tensor_over_the_same_memory(dtype):
    whole = inferred(lambda: torch.arange(24).view(2, 3, 4).to(dtype))
    view = inferred(lambda: whole.transpose(0, 2)[1:, :2])
    for original in (whole, view):
        made = alias(original)
        assert not made.is_inference() and not made.requires_grad
        assert (made.data_ptr(), made.stride()) == (original.data_ptr(), original.stride())
        assert made.dtype == dtype and torch.equal(made.float(), original.float())


def test_what_needs_no_alias_is_passed_on():
    x = torch.rand(3, requires_grad=True)
    assert alias(x) is x and alias("text") == "text" and alias(torch.Size([1, 2])) == (1, 2)
    parameter = nn.Parameter(torch.rand(3))
    assert alias(parameter).data_ptr() == parameter.data_ptr() and not alias(parameter).requires_grad
    assert alias([x, (x, 2)])[1][0] is x


class Wrapper(torch.Tensor):
    """A weight in a foreign format: its memory is not what it seems."""


def test_foreign_tensors_are_left_alone():
    wrapped = inferred(lambda: torch.rand(3).as_subclass(Wrapper))
    assert alias(wrapped) is wrapped


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(288, 2))


def gradient(net, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x).square().sum(), x)[0]


def test_gradients_through_inference_weights_equal_those_through_normal_ones():
    x, lent = torch.rand(1, 3, 8, 8), inferred(network)
    with pytest.raises(RuntimeError, match="Inference tensors"):
        gradient(lent, x)
    with Aliases():
        through_aliases = gradient(lent, x)
    assert torch.equal(through_aliases, gradient(network().requires_grad_(False), x))
    assert all(p.is_inference() and p.grad is None for p in lent.parameters())


def test_lists_of_tensors_and_writing_in_place():
    lent = inferred(lambda: torch.zeros(2))
    x = torch.ones(2, requires_grad=True)
    with Aliases():
        (slope,) = torch.autograd.grad((torch.cat([x, lent]) * torch.stack([lent, lent]).view(-1)).sum(), x)
        lent.add_(3)
    assert torch.equal(slope, torch.zeros(2)) and lent.tolist() == [3, 3]


def test_a_look_at_a_tensor_tells_the_truth():
    lent = inferred(lambda: torch.zeros(2))
    with Aliases():
        assert lent.is_inference() and lent.shape == (2,)


class WritesOver(nn.Module):
    """As Forge's transformer blocks: over an input that the norm has saved."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x):
        x = x * 1
        x += self.linear(self.norm(x))
        x *= torch.sigmoid(x)
        return x


def test_operators_that_write_over_saved_tensors_are_computed_out_of_place():
    block, x = inferred(WritesOver), torch.rand(2, 4, dtype=torch.float32)
    with Aliases(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(block, x)
    with OutOfPlace():
        found = gradient(block, x)

        def value(x):
            return block(x).square().sum()

        h, direction = 1e-2, found / found.norm()
        slope = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
    assert float(slope) == pytest.approx(float(found.norm()), rel=1e-3)


def test_what_is_in_no_graph_is_written_over_as_ever():
    kept = torch.ones(2)
    x, half = kept, torch.ones(2, dtype=torch.float16, requires_grad=True) * 1
    with OutOfPlace():
        x += 1
        half += torch.ones(2)
    assert kept.tolist() == [2, 2] and half.dtype == torch.float16
