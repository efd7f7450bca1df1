import pytest
import torch
from fakes.toy import ToyFlow, ToySurrogate

from mist_attack.evaluation import amplified, img2img, reconstruct, seen


class Knowing:
    """A denoiser that knows the answer: every path must end exactly there."""

    answer = torch.full((1, 4, 4, 4), 0.7)

    def denoise(self, noised_latents, sigma, conditioning):
        self.asked.append(float(sigma[0]))
        return self.answer

    def __init__(self):
        super().__init__()
        self.asked = []


class KnowingDiffusion(Knowing, ToySurrogate):
    pass


class KnowingFlow(Knowing, ToyFlow):
    pass


@pytest.mark.parametrize("kind", [KnowingDiffusion, KnowingFlow])
@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_img2img_starts_at_its_strength_and_ends_where_the_model_points(strength, kind):
    surrogate = kind()
    image = img2img(surrogate, torch.rand(1, 3, 32, 32), None, strength, steps=7)
    torch.testing.assert_close(image, surrogate.decode(surrogate.answer), rtol=1e-4, atol=1e-5)
    first = int(strength * len(surrogate.sigmas)) - 1
    assert surrogate.asked[0] == pytest.approx(float(surrogate.sigmas[first]))
    assert surrogate.asked == sorted(surrogate.asked, reverse=True)
    assert surrogate.asked[-1] == pytest.approx(float(surrogate.sigmas[0]))


def test_img2img_repeats_by_seed():
    surrogate, picture = ToySurrogate(), torch.rand(1, 3, 32, 32)
    prompt = surrogate.conditioning("a painting")
    made = [img2img(surrogate, picture, prompt, 0.5, steps=4, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_what_is_seen_has_the_models_sides_and_is_reconstructed():
    surrogate = ToySurrogate()
    view, image = seen(surrogate, torch.rand(1, 3, 50, 37), 512)
    assert image.shape == (1, 3, 64, 48) and (view.height, view.width) == (50, 37)
    assert reconstruct(surrogate, image).shape == image.shape
    assert seen(ToySurrogate(vae_only=True), torch.rand(1, 3, 50, 37), 512)[1].shape == (1, 3, 56, 40)


def test_the_difference_is_amplified_around_grey():
    before = torch.tensor([0.2, 0.4, 0.4, 0.9]).view(1, 1, 1, 4)
    after = torch.tensor([0.2, 0.41, 0.35, 0.1]).view(1, 1, 1, 4)
    assert amplified(before, after, 10).flatten().tolist() == pytest.approx([0.5, 0.6, 0.0, 0.0], abs=1e-6)
