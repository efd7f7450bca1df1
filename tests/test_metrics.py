"""What an eye may see, against published numbers and independent implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from skimage.color import deltaE_ciede2000, rgb2lab

from mist_attack.ciede2000 import colour_differences, delta_e, lab
from mist_attack.evaluation import metrics
from mist_attack.evaluation.intervals import interval
from mist_attack.flat import flat_areas, flat_figures

# Of the test data of Sharma, Wu, Dalal 2005: each case of the formula's hue rules, chroma zero, and near equality.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, 2.8361, -74.02), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0),
    ((50.0, -1.1848, -84.8006), (50.0, 0.0, -82.7485), 1.0),
    ((50.0, -0.9009, -85.5211), (50.0, 0.0, -82.7485), 1.0),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.001), 7.1792),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
    ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0012), 7.2195),
    ((50.0, -0.001, 2.49), (50.0, 0.0009, -2.49), 4.8045),
    ((50.0, -0.001, 2.49), (50.0, 0.001, -2.49), 4.8045),
    ((50.0, -0.001, 2.49), (50.0, 0.0011, -2.49), 4.7461),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((50.0, 2.5, 0.0), (56.0, -27.0, -3.0), 31.9030),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((50.0, 2.5, 0.0), (50.0, 3.1736, 0.5854), 1.0),
    ((50.0, 2.5, 0.0), (50.0, 3.2972, 0.0), 1.0),
    ((50.0, 2.5, 0.0), (50.0, 1.8634, 0.5757), 1.0),
    ((50.0, 2.5, 0.0), (50.0, 3.2592, 0.335), 1.0),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((61.2901, 3.7196, -5.3901), (61.4292, 2.248, -4.962), 1.8731),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ((36.4612, 47.858, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((90.8027, -2.0831, 1.441), (91.1528, -1.6435, 0.0447), 1.4441),
    ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
]


def pair(height=70, width=130, noise=9, seed=0):
    random = np.random.default_rng(seed)
    a = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    b = (a + random.normal(0, noise, a.shape)).round().clip(0, 255)
    return a.astype(np.uint8), b.astype(np.uint8)


def bchw(array):
    return torch.from_numpy(array).permute(2, 0, 1)[None]


@pytest.mark.parametrize("first, second, difference", SHARMA)
def test_ciede2000_is_the_published_test_data(first, second, difference):
    a, b = (torch.tensor(colour, dtype=torch.float64) for colour in (first, second))
    assert float(delta_e(a, b)) == pytest.approx(difference, abs=1e-4)
    assert float(delta_e(b, a)) == pytest.approx(difference, abs=1e-4)


def test_colours_and_their_differences_agree_with_scikit_image():
    a, b = pair()
    assert np.allclose(lab(torch.from_numpy(a)).numpy(), rgb2lab(a), atol=1e-4)
    expected = deltaE_ciede2000(rgb2lab(a), rgb2lab(b))
    assert np.allclose(colour_differences(bchw(a), bchw(b)).numpy(), expected, atol=1e-4)
    figures = metrics.visibility(bchw(a), bchw(b))
    assert figures["ciede2000_mean"] == pytest.approx(expected.mean(), abs=1e-4)
    assert figures["ciede2000_p95"] == pytest.approx(np.percentile(expected, 95), abs=1e-4)


def test_the_size_of_a_change():
    a, b = pair()
    change = b.astype(float) - a
    assert metrics.linf(bchw(a), bchw(b)) == np.abs(change).max()
    assert metrics.rms(bchw(a), bchw(b)) == pytest.approx(math.sqrt((change**2).mean()), abs=1e-9)


def published_ms_ssim(a, b):
    """Wang, Simoncelli, Bovik 2003, of one channel, in the plainest way."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def blurred(x):
        return convolve1d(convolve1d(x, kernel, 0), kernel, 1)[5:-5, 5:-5]

    product = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_a, mean_b, both = blurred(a), blurred(b), blurred(a * b)
        spread = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2
        part = (2 * (both - mean_a * mean_b) + 58.5225) / (spread + 58.5225)
        if scale == 4:
            part = part * (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)
        product *= part.mean() ** weight
        a, b = (x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3)) for x in (a, b))
    return product


def test_ms_ssim_is_the_published_formula():
    a, b = pair(192, 256, noise=25)
    expected = np.mean([published_ms_ssim(a[..., c].astype(float), b[..., c].astype(float)) for c in range(3)])
    assert expected < 0.99
    assert metrics.ms_ssim(bchw(a), bchw(b)) == pytest.approx(expected, abs=1e-4)
    assert metrics.ms_ssim(bchw(a), bchw(a)) == pytest.approx(1)
    assert metrics.ms_ssim(*(bchw(x[:175]) for x in (a, b))) is None


def test_flat_areas_are_where_the_picture_is_smooth_and_their_noise_is_counted_alone():
    a = torch.full((1, 3, 60, 80), 90, dtype=torch.uint8)
    a[..., 40:] = torch.randint(0, 256, (1, 3, 60, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    flat = flat_areas(a)[0, 0]
    assert flat[:, :36].all() and not flat[:, 36:].any()
    b = a.clone()
    b[..., :36] += 2
    b[..., 40:] ^= 15
    assert flat_figures(a, b)["flat_noise_levels"] == pytest.approx(2)
    assert metrics.visibility(a, b)["flat_share"] == pytest.approx(36 / 80)
    assert flat_figures(a[..., 40:], b[..., 40:])["flat_noise_levels"] is None


PLACES = [
    ((slice(0, 20), slice(None)), "at the top"),
    ((slice(45, 60), slice(None)), "at the bottom"),
    ((slice(None), slice(0, 25)), "on the left"),
    ((slice(None), slice(60, 80)), "on the right"),
    ((slice(0, 15), slice(0, 20)), "in the upper left"),
    ((slice(45, 60), slice(60, 80)), "in the lower right"),
    ((slice(24, 36), slice(30, 50)), "in the middle"),
    ((slice(24, 36), slice(None)), "across the middle"),
    ((slice(None), slice(None)), None),
    ((slice(0, 0), slice(0, 0)), None),
]


@pytest.mark.parametrize("where, told", PLACES)
def test_the_place_of_what_shows_in_flat_areas(where, told):
    a = torch.full((1, 3, 60, 80), 0, dtype=torch.uint8)
    b = a.clone()
    b[(..., *where)] = 255  # whose square is more than 16 bits hold
    figures = flat_figures(a, b)
    assert figures["flat_place"] == told
    expected = math.sqrt(float(((b.double() - a.double()) ** 2).mean()))
    assert figures["flat_noise_levels"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("height, width", [(64, 64), (96, 64)])
@pytest.mark.parametrize("cycles", [0.03, 0.1, 0.2, 0.4])
def test_a_wave_has_its_power_where_its_frequency_is(height, width, cycles):
    cycles = round(cycles * width) / width  # whole waves
    wave = 20 * np.cos(2 * np.pi * cycles * np.arange(width))
    a = torch.full((1, 3, height, width), 128, dtype=torch.uint8)
    b = torch.from_numpy((128 + wave).round()).to(torch.uint8).expand_as(a)
    ends, shares = metrics.spectrum(a, b)
    assert sum(shares) == pytest.approx(1) and len(shares) == len(ends) == 32 and ends[-1] == 0.5
    assert shares[int(cycles * 64)] > 0.99
    bands = metrics.octaves(a, b)
    assert sum(bands.values()) == pytest.approx(1)
    assert list(bands.values())[sum(cycles >= end for end in (1 / 16, 1 / 8, 1 / 4))] > 0.99


def test_equal_pictures_have_no_change_to_measure():
    a, _ = pair()
    figures = metrics.visibility(bchw(a), bchw(a))
    assert figures["psnr_db"] is None and figures["ssim"] == pytest.approx(1)
    nothing = set(figures) - {"psnr_db", "ssim", "ms_ssim", "flat_share"}
    assert {name: figures[name] for name in nothing} == dict.fromkeys(nothing, 0)


def test_the_interval_of_a_median():
    assert interval([3.0]) == (3, 3, 3)
    median, low, high = interval(np.arange(101.0))
    assert median == 50
    # The exact interval of order statistics: those numbers k with P(Bin(101, 1/2) < k) of 2.5 % and 97.5 %.
    assert low == pytest.approx(40, abs=2) and high == pytest.approx(60, abs=2)
