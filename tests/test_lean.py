"""Residual blocks that keep a third: the same numbers, the same slopes, less memory, and nothing left behind."""

import weakref
from contextlib import suppress

import pytest
import torch
from torch import nn

from mist_attack.hosts.borrowing import lean as lean_module
from mist_attack.hosts.borrowing.lean import half, lean


def layers(dtype=torch.float64, inputs=8, outputs=12):
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm.to(dtype).requires_grad_(False), conv.to(dtype).requires_grad_(False)


def picture(channels=8, dtype=torch.float64, batch=2):
    return torch.randn(batch, channels, 5, 7, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def plainly(x, norm, conv):
    return conv(nn.functional.silu(norm(x)))


def test_a_halfs_gradient_is_its_slope():
    norm, conv = layers()
    assert torch.autograd.gradcheck(lambda x: half(x, norm, conv), picture())


ARRANGED = {
    "plain": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "neither": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "one picture of tokens": lambda x: (
        x[:1].flatten(2).transpose(1, 2).contiguous().transpose(1, 2).reshape(1, 8, 5, 7)
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("arranged", list(ARRANGED))
@pytest.mark.parametrize("convolution", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_half_is_what_it_stands_for(device, dtype, arranged, convolution, stride):
    norm, conv = layers(dtype)
    conv.to(memory_format=convolution).stride = (stride, stride)
    x = ARRANGED[arranged](picture(dtype=dtype).detach().to(device)).requires_grad_()
    one, other = plainly(x, norm.to(device), conv.to(device)), half(x, norm, conv)
    if stride == 2:  # the input's gradient has the input's shape, whatever the output's
        assert one.shape[2:] == (3, 4)
    towards = torch.randn_like(one)
    torch.testing.assert_close(one, other)
    plain, lean_one = (torch.autograd.grad(y, x, towards)[0].double() for y in (one, other))
    error = float((plain - lean_one).norm() / plain.norm())
    assert error < (0.01 if dtype == torch.bfloat16 else 1e-6)


def large_picture(device, dtype=torch.float32, apart=1000.0):
    """Groups that are large enough, and far from zero for their spread: sums of squares would lose them."""
    x = torch.randn(1, 8, 256, 256, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert x[0].numel() == 4 * lean_module.LARGE
    return (x + apart * torch.tensor([1, 1, 2, 2, 3, 3, 4, 4])[:, None, None]).to(device, dtype)


def test_statistics_that_many_blocks_share_are_the_norms(device):
    norm, _ = layers(torch.float32)
    x = large_picture(device)
    exact = large_picture("cpu", torch.float64).view(1, 4, -1)
    mean, rstd = (value.cpu().double() for value in lean_module.spread_statistics(x, 4, norm.eps))
    torch.testing.assert_close(mean, exact.mean(-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(rstd, (exact.var(-1, correction=0) + norm.eps).rsqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_half_of_large_groups_is_what_it_stands_for(device, monkeypatch, everywhere):
    """On a card they are normalised in another way, which every device can take."""
    if everywhere:
        monkeypatch.setattr(lean_module, "_leaves_idle", lambda x, groups: True)
    norm, conv = (layer.to(device) for layer in layers(torch.float32))
    x = large_picture(device, apart=1.0).requires_grad_()
    one, other = plainly(x, norm, conv), half(x, norm, conv)
    assert (
        float((one - other).detach().norm() / one.detach().norm()) < 1e-4
    )  # TF32 rounds what differs by a bit to neighbours
    towards = torch.randn_like(one)
    plain, lean_one = (torch.autograd.grad(y, x, towards)[0].double() for y in (one, other))
    assert float((plain - lean_one).norm() / plain.norm()) < 1e-5


def test_a_half_keeps_its_input_alone():
    """Of numbers as many as the picture's; plain autograd keeps three times as many."""
    norm, conv = layers()

    def kept(function, x):
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.numel()) or t, lambda t: t):
            function(x, norm, conv)
        return sum(number for number in seen if number >= x.numel())

    x = picture()
    assert kept(half, x) == x.numel()
    assert kept(plainly, x) >= 3 * x.numel()


class ResnetBlock(nn.Module):
    """Of CompVis's shape."""

    def __init__(self, inputs=8, outputs=8, time=0):
        super().__init__()
        self.norm1, self.conv1 = layers(inputs=inputs, outputs=outputs)
        self.norm2, self.conv2 = layers(inputs=outputs, outputs=outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1).double() if inputs != outputs else None
        self.temb_proj = nn.Linear(time, outputs).double() if time else None
        self.calls = 0

    def forward(self, x, temb=None, carry=None):
        self.calls += 1
        h = plainly(x, self.norm1, self.conv1)
        if temb is not None:
            h = h + self.temb_proj(nn.functional.silu(temb))[:, :, None, None]
        h = plainly(h, self.norm2, self.conv2)
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


@pytest.mark.parametrize("outputs", [8, 12])
@pytest.mark.parametrize("time", [0, 6])
def test_a_block_is_the_same_in_halves_and_its_own_afterwards(outputs, time):
    block, x = ResnetBlock(outputs=outputs, time=time).requires_grad_(False), picture()
    temb = torch.randn(2, time, dtype=torch.float64) if time else None
    with lean([block]):
        inside = block(x, temb, None)
        assert block.calls == 0
        (slope,) = torch.autograd.grad(inside.square().sum(), x)
    outside = block(x, temb)
    assert block.calls == 1 and "forward" not in vars(block)
    torch.testing.assert_close(inside, outside)
    torch.testing.assert_close(slope, torch.autograd.grad(outside.square().sum(), x)[0])


def test_a_block_that_takes_a_picture_alone_is_called_with_that():
    """As AUTOMATIC1111's web UI has them in SD 3's autoencoder."""

    class Alone(ResnetBlock):
        def forward(self, x):
            return super().forward(x)

    Alone.__name__ = ResnetBlock.__name__
    block, x = Alone().requires_grad_(False), picture()
    with lean([block]):
        with torch.no_grad():
            unasked = block(x)
        inside = block(x)
        assert block.calls == 1
    torch.testing.assert_close(inside.detach(), unasked)


def strange(change):
    block = ResnetBlock().requires_grad_(False)
    change(block)
    return block


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block.conv1.register_forward_hook(lambda *_: None),
        lambda block: setattr(block.conv2, "padding_mode", "reflect"),
        lambda block: setattr(block, "norm1", nn.Identity()),
        lambda block: setattr(block, "nonlinearity", nn.GELU()),
        lambda block: setattr(block, "upsample", nn.Upsample(scale_factor=2)),
        lambda block: setattr(block, "time_embedding_norm", "scale_shift"),
        lambda block: setattr(block.conv1, "forward", block.conv1.forward),
    ],
)
def test_a_block_with_anything_unusual_runs_as_it_is(change):
    block = strange(change)
    with lean([block]):
        assert "forward" not in vars(block)


@pytest.mark.parametrize(
    "call", [lambda b, x: b(x.detach()), lambda b, x: b(x, None, carry=1), lambda b, x: b(x, None, 1)]
)
def test_without_a_gradient_or_with_more_to_do_a_block_runs_as_it_is(call):
    block = ResnetBlock().requires_grad_(False)
    with lean([block]):
        call(block, picture())
    assert block.calls == 1


def test_on_a_device_without_the_norms_backward_a_block_runs_as_it_is():
    block = ResnetBlock().requires_grad_(False).to("meta")
    with lean([block]):
        block(picture().detach().to("meta").requires_grad_())
    assert block.calls == 1


def test_a_block_under_autocast_runs_as_it_is():
    block, x = ResnetBlock().float().requires_grad_(False), picture(dtype=torch.float32)
    with lean([block]), torch.autocast("cpu", torch.bfloat16):
        block(x)
    assert block.calls == 1


@pytest.mark.parametrize("part", ["norm1", "norm2"])
def test_a_block_whose_norms_are_in_another_dtype_runs_as_it_is(part):
    block = ResnetBlock().bfloat16().requires_grad_(False)
    getattr(block, part).float()
    with lean([block]):
        block(picture(dtype=torch.bfloat16))
    assert block.calls == 1


@pytest.mark.parametrize(
    "weight", [torch.zeros(8, 8, 3, 3), torch.zeros(8, 8, 3, 3, dtype=torch.float64, device="meta")]
)
def test_weights_in_another_dtype_or_place_are_left_to_the_host(weight):
    block = ResnetBlock().requires_grad_(False)
    block.conv1.weight = nn.Parameter(weight, requires_grad=False)
    with lean([block]), suppress(RuntimeError):  # no host is here that would bring them together
        block(picture())
    assert block.calls == 1


def test_a_block_is_its_own_again_after_an_error():
    block = ResnetBlock().requires_grad_(False)
    with pytest.raises(KeyboardInterrupt), lean([block]):
        raise KeyboardInterrupt
    assert "forward" not in vars(block)


def test_what_a_half_made_is_free_after_the_backward():
    norm, conv = layers()
    x = picture()
    y = half(x, norm, conv)
    node = weakref.ref(y.grad_fn)
    y.sum().backward()
    del y
    assert node() is None
