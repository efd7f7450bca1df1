"""The harness itself: without this pack's nodes the host repeats itself, and a change would be seen."""

import numpy as np

from .comparing import latents, shown
from .prompts import Drawing


def twice(comfy, second_seed):
    drawing = Drawing()
    one = drawing.sample(drawing.after(drawing.empty_latent()))
    two = drawing.sample(drawing.after(drawing.empty_latent(), one[0]), seed=second_seed)
    files = [drawing.save(one, "one"), drawing.save(two, "two")]
    pictures = [drawing.show(one, "one"), drawing.show(two, "two")]
    history = comfy.run(drawing)
    assert not history.cached & {one.id, two.id}
    same_latents = np.array_equal(*(latents(history, node) for node in files))
    return same_latents, np.array_equal(*(shown(history, node) for node in pictures))


def test_the_same_sampler_gives_the_same_latents_and_picture(comfy):
    assert twice(comfy, second_seed=7) == (True, True)


def test_another_seed_is_seen(comfy):
    assert twice(comfy, second_seed=8) == (False, False)
