"""What pictures go through on the web, in the loop: as Pillow does it, with a derivative, and from the seed."""

import io
from typing import get_args

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from mist_attack.loss import PictureLoss
from mist_attack.objectives import Textural
from mist_attack.settings import Transforms
from mist_attack.turns import QUALITIES, SHARES, TURNS, Turns, jpeg, reduced
from mist_attack.views import plan

SIZES = [(64, 64), (50, 71), (8, 8), (1, 3)]


def photograph(height=120, width=97):
    return skimage.data.astronaut()[:height, 100 : 100 + width].copy()


def to_tensor(pixels):
    return torch.from_numpy(np.array(pixels)).movedim(-1, 0)[None].float() / 255


def levels(pictures):
    return pictures[0].movedim(0, -1).double().numpy() * 255


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_is_pillows_but_for_its_rounding(quality):
    pixels, stored = photograph(256, 241), io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(stored)).astype(float)
    found = levels(jpeg(quality)(to_tensor(pixels)))
    assert np.abs(found - expected).mean() < 1  # which rounds levels three times on its way, this not once
    assert np.abs(found - expected).mean() < 0.6 * np.abs(pixels - expected).mean()
    assert np.abs((found - expected).mean(axis=(0, 1))).max() < 0.4


@pytest.mark.parametrize("share", [0.4, 0.5, 0.9])
def test_a_reduction_is_pillows_lanczos_there_and_back(share):
    pixels = photograph()
    smaller = round(pixels.shape[1] * share), round(pixels.shape[0] * share)
    there = Image.fromarray(pixels).resize(smaller, Image.Resampling.LANCZOS)
    expected = np.asarray(there.resize(pixels.shape[1::-1], Image.Resampling.LANCZOS)).astype(float)
    assert np.abs(levels(reduced(share)(to_tensor(pixels)).clamp(0, 1)) - expected).mean() < 1


def test_a_reduction_keeps_a_plain_picture_and_is_linear():
    plain = torch.full((1, 3, 40, 30), 0.3)
    torch.testing.assert_close(reduced(0.5)(plain), plain)
    a, b = torch.rand(1, 3, 40, 30), torch.rand(1, 3, 40, 30)
    torch.testing.assert_close(reduced(0.5)(a + b), reduced(0.5)(a) + reduced(0.5)(b))


def test_the_gradient_of_a_reduction_is_its_transpose():
    pictures = torch.rand(1, 3, 12, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reduced(0.5), pictures)


def test_rounding_lets_the_gradient_pass_as_if_it_were_not_there():
    """Without it the DCT there and back is the identity on luma: d sum(y * v) / d x = v for grey pictures and v."""
    pictures, v = torch.full((1, 3, 16, 16), 0.5).requires_grad_(), torch.randn(1, 1, 16, 16).expand(1, 3, 16, 16)
    (jpeg(50)(pictures) * v).sum().backward()
    torch.testing.assert_close(pictures.grad.mean(1), v[:, 0], atol=1e-4, rtol=1e-3)
    white = torch.ones(1, 3, 16, 16, requires_grad=True)  # where decoding clips
    jpeg(50)(white).sum().backward()
    assert (white.grad != 0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", [jpeg(50), reduced(0.4)], ids=["jpeg", "reduced"])
def test_any_size_keeps_it(transform, size):
    pictures = torch.rand(1, 3, *size, requires_grad=True)
    found = transform(pictures)
    found.sum().backward()
    assert found.shape == pictures.shape and torch.isfinite(found).all() and torch.isfinite(pictures.grad).all()


def after(turns, picture, steps):
    return [turns.next()(picture) for _ in range(steps)]


@pytest.mark.parametrize("name", get_args(Transforms))
def test_turns_are_drawn_from_the_seed_and_come_round(name):
    picture, steps = to_tensor(photograph(48, 48)), 2 * len(TURNS[name])
    first, again, other = (after(Turns(name, seed), picture, steps) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    plain = [torch.equal(seen, picture) for seen in first]
    assert plain == [kind == "plain" for kind in TURNS[name]] * 2
    if name != "none":
        assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert Turns(name, 1).deterministic is (name == "none")


def test_what_is_drawn_lies_in_the_ranges(monkeypatch):
    drawn = {"jpeg": [], "reduced": []}
    for name, found in drawn.items():
        monkeypatch.setattr(f"mist_attack.turns.{name}", found.append)
    for seed in range(40):
        turns = Turns("web", seed)
        for _ in TURNS["web"]:
            turns.next()
    assert all(SHARES[0] <= share <= SHARES[1] for share in drawn["reduced"])
    assert all(QUALITIES[0] <= quality <= QUALITIES[1] for quality in drawn["jpeg"])
    assert len(set(drawn["reduced"])) > 40 and len(set(drawn["jpeg"])) > 10


class Linear:
    """An autoencoder that averages 8 x 8 pixels, and counts."""

    def __init__(self):
        self.calls = 0

    def encode(self, images):
        self.calls += 1
        return torch.nn.functional.avg_pool2d(images, 8)


def test_the_loop_sees_the_transformed_picture_once_and_reports_see_the_plain_one():
    x, model = to_tensor(photograph(64, 64)), Linear()
    views, objective = plan(64, 64, "whole", 64, 8), Textural(torch.zeros(1, 3, 8, 8))
    loss = PictureLoss(model, views, [objective], torch.Generator(), Turns("web", 3))
    expected = Turns("web", 3)
    for _ in range(5):
        transform, leaf = expected.next(), x.clone().requires_grad_()
        objective.value(Linear().encode(transform(leaf))).sum().backward()
        _, gradient = loss.value_and_gradient(x)
        torch.testing.assert_close(gradient, leaf.grad)
    assert model.calls == 5 and not loss.deterministic
    assert loss.measure(x, 1)["target_distance"] == pytest.approx(float(objective.value(Linear().encode(x))))
