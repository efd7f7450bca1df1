import pytest
import torch

from mist_attack.errors import SettingsError
from mist_attack.targets import PatternTarget, PictureTarget, pattern, target_names
from mist_attack.views import plan


@pytest.mark.parametrize("name", target_names())
def test_patterns_repeat_have_high_contrast_and_stay_in_range(name):
    image = pattern(name, 192, 192)
    assert image.shape == (1, 3, 192, 192) and image.dtype == torch.float32
    assert image.min() == 0 and image.max() == 1 and image.std() > 0.4
    repeats = [p for p in range(1, 97) if torch.equal(image[:, :, p:], image[:, :, :-p])]
    assert repeats, "no period of at most 96 rows"


def test_a_pattern_is_the_same_in_every_view():
    views = plan(200, 300, "tiles", 128, 64)
    target = PatternTarget("lattice")
    assert len({target.key(view) for view in views}) == 1
    assert target.seen(views[0]).shape == (1, 3, views[0].model_height, views[0].model_width)
    with pytest.raises(SettingsError, match="lattice"):
        PatternTarget("MIST")


def test_a_picture_target_of_the_same_size_is_seen_as_the_picture_is():
    image = torch.rand(1, 3, 200, 300)
    target = PictureTarget(image, 200, 300)
    for kind in ("whole", "tiles"):
        for view in plan(200, 300, kind, 128, 64):
            torch.testing.assert_close(target.seen(view), view.look(view.region(image)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(10, 10), (1000, 40), (33, 900), (1, 1)])
def test_any_target_covers_any_picture(size):
    target = PictureTarget(torch.rand(1, 3, *size), 200, 300)
    for kind in ("whole", "tiles", "both"):
        for view in plan(200, 300, kind, 128, 64):
            assert target.seen(view).shape == (1, 3, view.model_height, view.model_width)


def test_a_target_is_cropped_to_the_pictures_aspect_not_squeezed():
    columns = torch.linspace(0, 1, 400).expand(1, 3, 100, 400)
    (view,) = plan(64, 64, "whole", 512, 64)
    seen = PictureTarget(columns, 64, 64).seen(view)
    assert seen.min() == pytest.approx(150 / 400, abs=0.01) and seen.max() == pytest.approx(250 / 400, abs=0.01)
