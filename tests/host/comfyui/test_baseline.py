"""The harness itself: without this pack's nodes the host repeats itself, and a change would be seen."""

from .comparing import same, saved
from .prompts import Drawing


def twice(comfy, second_seed):
    drawing = Drawing()
    one = drawing.sample(drawing.after(drawing.empty_latent()))
    two = drawing.sample(drawing.after(drawing.empty_latent(), one[0]), seed=second_seed)
    nodes = [drawing.save(one, "one"), drawing.save(two, "two")]
    history = comfy.run(drawing)
    assert not history.cached & {one.id, two.id}
    return [saved(history, pair) for pair in nodes]


def test_the_same_sampler_gives_the_same_latents_and_picture(comfy):
    assert same(*twice(comfy, second_seed=7))


def test_another_seed_is_seen(comfy):
    assert not same(*twice(comfy, second_seed=8))
