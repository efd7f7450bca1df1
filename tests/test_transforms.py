"""The survival suite: each change is what its name says, on levels, and the same each time."""

import io
import sys

import numpy as np
import pytest
import torch
from fakes.toy import ToySurrogate
from PIL import Image, features
from skimage.metrics import peak_signal_noise_ratio

from mist_attack.budget import to_levels, to_unit
from mist_attack.evaluation.transforms import NOISE_LEVELS, SUITE, NotMeasuredError, transformed


def picture(height=72, width=56):
    """Smooth, as pictures are."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9 + c) * np.cos(columns / (7 + c)) for c in range(3)]
    return torch.from_numpy(128 + 90 * np.stack(waves)).round().to(torch.uint8)[None]


def array(levels):
    return levels[0].permute(1, 2, 0).numpy()


def skip_where_unknown(name):
    Image.init()
    if name == "avif65" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow cannot")


@pytest.mark.parametrize("name", SUITE)
@pytest.mark.parametrize("height, width", [(72, 56), (33, 41)])
def test_levels_of_the_same_size_the_same_each_time_and_the_picture_is_left_alone(name, height, width):
    skip_where_unknown(name)
    surrogate, before = ToySurrogate(), picture(height, width)
    kept, prompt = before.clone(), surrogate.conditioning("a painting")
    with torch.no_grad():
        made = [transformed(name, before, surrogate, prompt) for _ in range(2)]
    assert made[0].shape == before.shape and made[0].dtype == torch.uint8
    assert torch.equal(*made) and torch.equal(before, kept)
    assert not torch.equal(made[0], before)


@pytest.mark.parametrize("name", [name for name, transform in SUITE.items() if transform.change])
def test_a_picture_stays_itself(name):
    skip_where_unknown(name)
    quality = peak_signal_noise_ratio(array(transformed(name, picture())), array(picture()))
    assert quality > (15 if name == "crop" else 22)


def test_jpeg_is_pillows():
    buffer = io.BytesIO()
    Image.fromarray(array(picture())).save(buffer, "JPEG", quality=75)
    assert np.array_equal(array(transformed("jpeg75", picture())), np.asarray(Image.open(buffer)))


def test_lower_quality_is_further_off():
    errors = [(transformed(f"jpeg{q}", picture()).float() - picture()).square().mean().item() for q in (95, 85, 75, 50)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("name", ["half", "three_quarters"])
def test_a_reduction_removes_what_is_finer_than_it_keeps(name):
    grey = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    columns = torch.arange(64)
    for period, survives in ((2, False), (16, True)):
        wave = (60 * torch.cos(2 * torch.pi * columns / period)).round()
        made = transformed(name, (grey + wave).to(torch.uint8)).float() - 128
        left = float(made[..., 8:-8].std() / wave[8:-8].std())
        assert (left > 0.9) if survives else (left < 0.25), (period, left)


def test_five_bits_are_32_values_and_the_nearest():
    made = transformed("five_bit", torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16))
    assert len(made.unique()) == 32
    assert int((made[0, 0].flatten().int() - torch.arange(256)).abs().max()) <= 5


def test_noise_has_its_size_and_is_the_same_for_two_pictures():
    grey, other = (torch.full((1, 3, 128, 128), level, dtype=torch.uint8) for level in (120, 130))
    first, second = (transformed("noise", x).float() - x for x in (grey, other))
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(NOISE_LEVELS, rel=0.02)


def test_the_crop_shows_the_middle():
    levels = torch.zeros(1, 3, 80, 80, dtype=torch.uint8)
    levels[..., 8:72, 8:72] = 255
    assert int(transformed("crop", levels).min()) == 255
    levels[..., 14:66, 14:66] = 0
    assert float((transformed("crop", levels) < 128).float().mean()) == pytest.approx((52 / 60) ** 2, abs=0.02)


def test_the_filters_take_noise_away_and_keep_an_edge():
    clean = torch.full((1, 3, 64, 64), 60, dtype=torch.uint8)
    clean[..., 32:] = 200
    noise = torch.randint(-6, 7, clean.shape, generator=torch.Generator().manual_seed(0))
    made = transformed("cleaner", (clean + noise).to(torch.uint8)).float()
    left = (made - clean)[..., 4:28]
    assert float(left.std()) < 0.4 * float(noise.float().std())
    assert float(made[..., 33:35].mean() - made[..., 29:31].mean()) > 120


def test_the_round_trip_is_the_models():
    surrogate = ToySurrogate(vae_only=True)
    with torch.no_grad():
        expected = to_levels(surrogate.decode(surrogate.encode(to_unit(picture()))))
    assert torch.equal(transformed("round_trip", picture(), surrogate), expected)


@pytest.mark.parametrize("name, surrogate", [("round_trip", None), ("img2img", ToySurrogate(vae_only=True))])
def test_without_the_model_it_is_not_measured(name, surrogate):
    with pytest.raises(NotMeasuredError, match="needs"):
        transformed(name, picture(), surrogate)


def test_without_the_library_it_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(NotMeasuredError, match="opencv"):
        transformed("cleaner", picture())


@pytest.mark.parametrize("name, kind", [("avif65", "AVIF"), ("webp80", "WebP")])
def test_a_format_that_pillow_cannot_write_is_not_measured(name, kind, monkeypatch):
    """A web UI's Pillow 9.5 does not even know the name of AVIF's module."""

    def unknown(module):
        raise ValueError(f"Unknown module {module}")

    monkeypatch.setattr(features, "check_module", unknown)
    Image.init()
    monkeypatch.delitem(Image.SAVE, kind.upper())
    with pytest.raises(NotMeasuredError, match=f"cannot write {kind}"):
        transformed(name, picture())
