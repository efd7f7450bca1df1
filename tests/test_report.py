"""Figures against independent implementations and closed forms."""

import json
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mist_attack.report import Report, pixel_figures, psnr, ssim


def pair(height, width, noise=12, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(128, 60, (height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    a = smooth.clip(0, 255).astype(np.uint8)
    b = (a + rng.normal(0, noise, a.shape)).clip(0, 255).astype(np.uint8)
    return a, b


def bchw(array):
    return torch.from_numpy(array).permute(2, 0, 1)[None]


@pytest.mark.parametrize("height, width", [(11, 11), (40, 65), (255, 40), (266, 40), (267, 40), (600, 33)])
def test_ssim_and_psnr_agree_with_scikit_image(height, width):
    a, b = pair(height, width)
    assert psnr(bchw(a), bchw(b)) == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-4)
    _, full = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2, full=True, data_range=255
    )
    valid = full[5 : height - 5, 5 : width - 5]
    assert ssim(bchw(a), bchw(b)) == pytest.approx(valid.mean(), abs=2e-4)


def test_equal_pictures():
    a, _ = pair(20, 20)
    figures = pixel_figures(bchw(a), bchw(a), 16)
    assert figures["psnr_db"] is None and figures["budget_used_levels"] == 0
    assert figures["ssim"] == pytest.approx(1)
    assert figures["changed_share"] == 0


def test_a_picture_smaller_than_the_window_has_no_ssim():
    assert ssim(torch.zeros(1, 3, 10, 40, dtype=torch.uint8), torch.zeros(1, 3, 10, 40, dtype=torch.uint8)) is None


def test_shifts_are_told_apart_by_room():
    a = torch.full((1, 3, 4, 4), 128, dtype=torch.uint8)
    a[:, :, :2] = 3  # no room for 16 levels downwards
    b = a.clone()
    b[:, 0, 2:] += 5
    b[:, 1, :2] += 7
    figures = pixel_figures(a, b, 16)
    assert figures["mean_shift_levels"] == [5, 0, 0]
    assert figures["clipped_mean_shift_levels"] == [0, 7, 0]
    assert figures["clipped_share"] == 0.5
    assert figures["budget_used_levels"] == 7
    assert figures["changed_share"] == pytest.approx(16 / 48)
    expected = 10 * math.log10(255**2 * 48 / (8 * 25 + 8 * 49))
    assert figures["psnr_db"] == pytest.approx(expected, abs=1e-4)
    json.dumps(figures)


SEEN = {
    "budget_used_levels": 16,
    "changed_share": 0.9,
    "psnr_db": 31.0,
    "ssim": 0.9,
    "mean_shift_levels": [0, 0, 0],
    "clipped_share": 0,
    "clipped_mean_shift_levels": [0, 0, 0],
    "ciede2000_mean": 2.4,
    "flat_share": 0.12,
    "flat_noise_levels": 4.0,
    "flat_place": "at the top",
}
DONE = {"model": "M", "settings": {}, "target": "lattice", "width": 8, "height": 8, "steps_done": 3, "stopped": False}
DONE |= {"seconds": 1.0, "gradient_ratio": None, "latent_shift": 1.2, "latent_shift_of_noise": 0.5}
DONE |= {"before": {"target_distance": 2.0, "denoising_loss": 0.1}}
DONE |= {"after": {"target_distance": 1.06, "denoising_loss": 0.26}}
WORDS = (
    "Changed by at most 16 levels; hard to see except in flat areas (12% of it, mostly at the top). The model's view "
    "of it moved 2.4 times as far as noise of that size would do. Its distance to the target is 53% of the original's, "
    "its denoising loss 2.6 times the original's."
)
TEXTURAL = {"before": {"target_distance": 2.0}, "after": {"target_distance": 1.0}}
CASES = [
    ({}, WORDS),
    (TEXTURAL, WORDS.split(" Its ")[0] + " Its distance to the target is 50% of the original's."),
    (
        {"ciede2000_mean": 0.4, "flat_noise_levels": 1.0, "before": {}, "after": {}, "latent_shift": None},
        "Changed by at most 16 levels; next to invisible.",
    ),
    (
        {"flat_place": None, "ciede2000_mean": 3.6},
        WORDS.replace(", mostly at the top", "").replace("hard to see", "visible"),
    ),
    (
        {"ciede2000_mean": 7.0},
        WORDS.replace("hard to see except in flat areas (12% of it, mostly at the top)", "plain to see"),
    ),
    ({"latent_shift_of_noise": 0.0, **TEXTURAL}, "cannot be told against noise"),
    ({"psnr_db": None}, "Nothing was changed."),
]


@pytest.mark.parametrize("changes, words", CASES)
def test_the_words_of_a_report(changes, words):
    told = Report(**SEEN | DONE | changes).words()
    assert told == words or (words.startswith("cannot") and words in told)


def test_a_report_from_before_there_were_such_figures_has_words_too():
    new = ("ciede2000_mean", "flat_share", "flat_noise_levels", "flat_place", "latent_shift", "latent_shift_of_noise")
    old = {name: value for name, value in (SEEN | DONE).items() if name not in new}
    assert Report(**old).words() == (
        "Changed by at most 16 levels. Its distance to the target is 53% of the original's, its denoising loss 2.6 "
        "times the original's."
    )
