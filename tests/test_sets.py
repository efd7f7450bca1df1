"""Sets: the alternation against what it is made of, what it leaves of the model, of memory, and of what fails."""

import contextlib
import weakref
from dataclasses import replace

import pytest
import torch
from fakes.toy import ToyFlow, ToySurrogate

from mist_attack.errors import CheckpointError, GradientError, MistError, PictureError, SettingsError, Stop
from mist_attack.objectives import prediction_error
from mist_attack.protection import protect
from mist_attack.randomness import seeded
from mist_attack.sets.alternation import Member, SetProtection
from mist_attack.sets.keeping import Memory
from mist_attack.sets.learning import learn, put, rate_for, state_of
from mist_attack.sets.settings import SET_CONTROLS, SetSettings, of_set, set_settings
from mist_attack.sets.taught import Taught
from mist_attack.settings import Settings

SIZES = ((64, 80), (72, 56), (48, 48))
QUICK = SetSettings(rounds=2, lora_steps=4)
UNTAUGHT = 1e-30
"""A rate at which a LoRA stays as it is, to the bit."""


def settings(**given):
    return Settings(**{"steps": 4, "working_size": 64, "gradient": "sds", "step_size": 2 / 255} | given)


def pictures(sizes=SIZES):
    return [torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(n)) for n, size in enumerate(sizes)]


def members(images, masks=None, prompts=None):
    masks, prompts = masks or [None] * len(images), prompts or ["one", "two", "three", "four"]
    return [
        Member(f"p{n}", *image.shape[2:], lambda image=image, mask=mask: (image, mask), prompts[n])
        for n, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]


def run(images, model=None, chosen=QUICK, asked=None, **options):
    found = SetProtection(members(images), model or ToySurrogate(), asked or settings(), chosen, **options).run()
    return {member.name: protected for member, protected in found}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[name].images, others[name].images) for name in some)


def state_of_model(model):
    return [tensor.clone() for module in model.modules for tensor in module.state_dict().values()], [
        (sorted(vars(layer)), len(layer._forward_hooks)) for module in model.modules for layer in module.modules()
    ]


def is_same_state(before, after):
    return before[1] == after[1] and all(map(torch.equal, before[0], after[0]))


# What it is made of


@pytest.mark.parametrize("objective", ["semantic", "lunet", "fused"])
@pytest.mark.parametrize("gradient", ["exact", "amortised"])
def test_a_round_without_learning_is_the_protection_of_single_pictures(objective, gradient):
    images, asked = pictures(), settings(objective=objective, gradient=gradient, transforms="web", momentum=0.5)
    found = run(images, chosen=SetSettings(rounds=1, lora_rate=UNTAUGHT), asked=asked)
    for n, (image, prompt) in enumerate(zip(images, ("one", "two", "three"), strict=True)):
        alone = protect(image, ToySurrogate(), of_set(replace(asked, prompt=prompt), SetSettings()))
        assert torch.equal(found[f"p{n}"].images, alone.images)
        together, own = found[f"p{n}"].reports[0], alone.reports[0]
        assert together.after == own.after and together.steps_done == own.steps_done == 4


def test_what_is_learned_changes_the_result_and_each_further_round_goes_on():
    images = pictures()
    taught, untaught = run(images), run(images, chosen=SetSettings(rounds=2, lora_steps=4, lora_rate=UNTAUGHT))
    assert not any(torch.equal(taught[name].images, untaught[name].images) for name in taught)
    assert all(protected.reports[0].steps_done == 4 for protected in taught.values())


@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_a_set_goes_its_own_way_whatever_single_pictures_do(direction):
    """Steps that are small beside the loss move it the way that is asked for."""
    images, asked = pictures(), settings(objective="semantic", gradient="exact", steps=8, direction="ascent")
    chosen = SetSettings(rounds=2, lora_steps=4, set_direction=direction)
    reports = [protected.reports[0] for protected in run(images, chosen=chosen, asked=asked).values()]
    assert {report.settings["direction"] for report in reports} == {direction}
    rises = [report.after["denoising_loss"] > report.before["denoising_loss"] for report in reports]
    assert rises == [direction == "ascent"] * len(images)


@pytest.mark.parametrize("steps, rounds", [(15, 5), (4, 3), (7, 7), (100, 9)])
def test_the_rounds_share_the_steps(steps, rounds):
    protection = SetProtection(
        members(pictures()), ToySurrogate(), settings(steps=steps), SetSettings(rounds=rounds, lora_steps=1)
    )
    shares = [protection._share(number) for number in range(rounds)]
    assert [step for share in shares for step in share] == list(range(steps))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("kind", [ToySurrogate, ToyFlow])
def test_a_lora_learns_by_the_loss_that_its_model_is_trained_on(kind):
    model = kind()
    lessons = [(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), model.conditioning("one"))] * 60

    def loss(ready):
        with torch.no_grad():
            draws = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(8)]
            sigmas = model.sigmas[torch.linspace(100, 900, 8).long()]
            return sum(
                prediction_error(ready, lessons[0][0], noise, sigma[None], lessons[0][1]).square().mean()
                for noise, sigma in zip(draws, sigmas, strict=True)
            )

    def job(ready):
        with ready.lora(2, 0) as weights:
            before = loss(ready)
            states = learn(ready, weights, lessons, seeded(model.device, 3), rate=1e-2, states=3)
            assert len(states) == 3 and all(map(torch.equal, states[-1], state_of(weights)))
            losses = []
            for state in states:
                put(state, weights)
                losses.append(loss(ready))
            assert losses[-1] < before and losses[0] != losses[1] != losses[2]

    model.run(job, 1, 64, 64)


def test_the_first_step_of_its_training_is_adams():
    """AdamW's first step moves each weight by the rate, against its gradient's sign; `down` has none yet."""
    model = ToySurrogate()

    def job(ready):
        with ready.lora(2, 0) as weights:
            before, lesson = state_of(weights), (torch.randn(1, 4, 8, 8), model.conditioning("one"))
            learn(ready, weights, [lesson], seeded(model.device, 0), rate=1e-3, states=1)
            down, up = weights
            assert (down - before[0] * (1 - 1e-3 * 0.01)).abs().max() < 1e-7  # its decay alone
            assert up.abs().min() > 0 and (up.abs() - 1e-3).abs().max() < 1e-5

    model.run(job, 1, 64, 64)


def test_the_states_of_a_pool_answer_in_turns():
    model, latents = ToySurrogate(), torch.randn(1, 4, 8, 8)
    prompt, sigma = model.conditioning("one"), model.sigmas[[300]]

    def pool(ready):
        with ready.lora(2, 0) as weights:
            first = state_of(weights)
            second = [first[0], torch.ones_like(first[1])]
            return [first, second]

    states = model.run(pool, 1, 64, 64)
    with torch.no_grad():
        answers = Taught(model, 2, states).run(
            lambda ready: [ready.denoise(latents, sigma, prompt) for _ in range(4)], 1, 64, 64
        )
        plain = model.run(lambda ready: ready.denoise(latents, sigma, prompt), 1, 64, 64)
    assert torch.equal(answers[0], plain) and not torch.equal(answers[1], plain)
    assert torch.equal(answers[2], answers[0]) and torch.equal(answers[3], answers[1])


def test_the_rate_is_the_published_one_at_the_published_width():
    pair = torch.zeros(4, 780), torch.zeros(780, 4)
    assert rate_for(pair, 1) == pytest.approx(1e-4) and rate_for(pair, 4) == pytest.approx(4e-4)


# What it leaves


def test_the_same_seed_gives_the_same_set_and_another_one_another():
    first, again, other = run(pictures()), run(pictures()), run(pictures(), asked=settings(seed=5))
    assert same(first, again)
    assert not any(torch.equal(first[name].images, other[name].images) for name in first)


class Ends:
    """on_step that raises at a step of the set, counted from 1."""

    def __init__(self, at, error):
        self.at, self.error, self.seen = at, error, []

    def __call__(self, progress):
        self.seen.append(progress)
        if len(self.seen) == self.at:
            raise self.error


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 3, 5, 8, 9, 12, 17, 18])  # 8 and 18 end a picture's share of a round
def test_a_cancel_keeps_what_is_reached_and_leaves_the_model(at, error):
    model, images, ends, told = ToySurrogate(), pictures(), Ends(at, error()), {}
    before = state_of_model(model)
    options = {"cancels": (KeyboardInterrupt,), "on_failure": lambda member, error: told.update({member.name: error})}
    if at <= 4:  # the first round's LoRA: nothing is reached
        with pytest.raises(error):
            run(images, model, on_step=ends, **options)
        assert is_same_state(before, state_of_model(model))
        return
    found = run(images, model, on_step=ends, **options)
    assert len(ends.seen) == at and is_same_state(before, state_of_model(model))
    assert found.keys() | told.keys() == {"p0", "p1", "p2"} and set(told.values()) <= {
        "cancelled before its first step"
    }
    steps = sum(protected.reports[0].steps_done for protected in found.values())
    of_pictures = sum(progress.picture is not None for progress in ends.seen)
    assert steps == of_pictures and any(protected.reports[0].stopped for protected in found.values())
    for name, protected in found.items():
        assert (protected.images - images[int(name[1])]).abs().max() > 0.003


@pytest.mark.parametrize("at", [2, 7])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), GradientError("none")])
def test_an_error_leaves_the_model_as_it_was(at, error):
    model = ToySurrogate()
    before = state_of_model(model)
    if at == 7 and isinstance(error, GradientError):  # one picture's own
        assert len(run(pictures(), model, on_step=Ends(at, error))) == 2
    else:
        with pytest.raises(type(error)):
            run(pictures(), model, on_step=Ends(at, error))
    assert is_same_state(before, state_of_model(model))


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt()])
def test_what_was_kept_is_gone_on_from_to_the_same_bytes(error):
    whole = run(pictures())
    for at in range(1, 20):
        keep = Memory()
        with contextlib.suppress(type(error)):
            found = run(pictures(), keep=keep, on_step=Ends(at, error))
            assert isinstance(error, Stop) and not same(whole, found)
        ends = Ends(0, None)
        assert same(whole, run(pictures(), keep=keep, on_step=ends))
        assert ends.seen[-1].done == ends.seen[-1].steps


def test_what_goes_on_and_is_stopped_again_tells_the_steps_of_both():
    keep, told = Memory(), {}
    run(pictures(), keep=keep, on_step=Ends(9, Stop()))  # of the first round: p0, p1, and a step of p2
    found = run(pictures(), keep=keep, on_step=Ends(7, Stop()), on_failure=lambda member, error: told.update(error))
    assert {name: made.reports[0].steps_done for name, made in found.items()} == {"p0": 3, "p1": 2, "p2": 2}
    assert all(made.reports[0].stopped for made in found.values()) and not told and keep.failure("p2") is None


def test_progress_counts_every_step_of_the_lora_and_of_the_pictures():
    ends = Ends(0, None)
    run(pictures(), on_step=ends)
    assert [progress.done for progress in ends.seen] == list(range(1, 2 * 4 + 3 * 4 + 1))
    assert {progress.steps for progress in ends.seen} == {20} and {progress.rounds for progress in ends.seen} == {2}
    wanted = [None] * 4 + ["p0"] * 2 + ["p1"] * 2 + ["p2"] * 2
    assert [progress.picture for progress in ends.seen] == wanted * 2
    assert [progress.round for progress in ends.seen] == [1] * 10 + [2] * 10
    assert ends.seen[-1].preview is not None


def test_pictures_are_read_one_at_a_time():
    alive, most = weakref.WeakSet(), []

    class Stored:
        def __init__(self, image):
            self.levels = (image * 255).round().to(torch.uint8)

        def __call__(self):
            most.append(len(alive))
            image = self.levels.float() / 255
            alive.add(image)
            return image, None

    many = [Member(f"p{n}", 64, 64, Stored(image), "one") for n, image in enumerate(pictures([(64, 64)] * 12))]

    class Elsewhere(Memory):
        """As a disk: what is asked for is a copy."""

        def picture(self, number, name):
            found = super().picture(number, name)
            return None if found is None else found.clone()

    for _, protected in SetProtection(many, ToySurrogate(), settings(), QUICK, keep=Elsewhere()).run():
        del protected
    assert len(most) >= 12 * 3 and max(most) <= 1


def test_masks_sizes_and_budgets_are_kept():
    images, mask = pictures(), torch.zeros(1, 1, 64, 80)
    mask[..., :40] = 1
    made = SetProtection(
        members(images, [mask, None, None]), ToySurrogate(), settings(epsilon=4 / 255, step_size=4 / 255), QUICK
    ).run()
    for (member, protected), image in zip(made, images, strict=True):
        assert protected.images.shape == image.shape
        report = protected.reports[0]
        assert 1 <= report.budget_used_levels <= 4 and not report.stopped
        assert any("set of 3: 2 rounds" in notice for notice in report.notices)
        if member.name == "p0":
            assert torch.equal(protected.images[..., 40:], image[..., 40:])


# What fails


class Fails:
    """A picture that cannot be read from its n-th time on."""

    def __init__(self, image, reads, error):
        self.image, self.left, self.error = image, reads, error

    def __call__(self):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.image, None


@pytest.mark.parametrize("error", [PictureError("it is gone"), OSError("no disk"), RuntimeError("a driver")])
@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_picture_that_fails_is_left_out_and_named_and_the_rest_goes_on(reads, error):
    given, told = members(pictures()), []
    given[1] = Member("p1", 72, 56, Fails(pictures()[1], reads, error), "two")
    chosen = SetSettings(rounds=2, lora_steps=4)
    model = ToySurrogate()
    before = state_of_model(model)
    protection = SetProtection(
        given, model, settings(), chosen, on_failure=lambda member, error: told.append((member.name, error))
    )
    assert [member.name for member, _ in protection.run()] == ["p0", "p2"]
    assert [name for name, _ in told] == ["p1"] and str(error) in told[0][1]
    assert is_same_state(before, state_of_model(model))


def test_a_picture_of_no_numbers_teaches_the_lora_nothing():
    given = members(pictures())
    given[0] = Member("p0", 64, 80, lambda: (torch.full((1, 3, 64, 80), torch.nan), None), "one")
    made = list(SetProtection(given, ToySurrogate(), settings(), QUICK).run())
    assert [member.name for member, _ in made] == ["p1", "p2"]
    assert all(protected.images.isfinite().all() for _, protected in made)


def test_where_all_fail_the_last_error_is_raised():
    given = [Member(f"p{n}", 64, 64, Fails(None, 0, PictureError(f"{n} is gone"))) for n in range(2)]
    with pytest.raises(PictureError, match="is gone"):
        list(SetProtection(given, ToySurrogate(), settings(), QUICK).run())


def test_a_caption_that_the_model_cannot_read_leaves_out_its_picture():
    class Choosy(ToySurrogate):
        def conditioning(self, prompt):
            if prompt == "two":
                raise CheckpointError("no such prompt")
            return super().conditioning(prompt)

    told = []
    protection = SetProtection(
        members(pictures()), Choosy(), settings(), QUICK, on_failure=lambda member, error: told.append(error)
    )
    assert [member.name for member, _ in protection.run()] == ["p0", "p2"] and told == ["no such prompt"]


@pytest.mark.parametrize(
    "sizes, model, asked, chosen, words",
    [
        (SIZES[:1], {}, {}, {}, "2 pictures or more of one style; got 1"),
        (SIZES, {}, {"objective": "textural"}, {}, "no LoRA changes. Choose semantic, lunet, fused"),
        (SIZES, {}, {"steps": 1}, {}, "got 1 for 2 rounds"),
        (SIZES, {"vae_only": True}, {}, {}, "nothing to fine-tune"),
    ],
)
def test_what_cannot_be_a_set_is_refused(sizes, model, asked, chosen, words):
    with pytest.raises(MistError, match=words):
        SetProtection(
            members(pictures(sizes)), ToySurrogate(**model), settings(**asked), SetSettings(rounds=2, **chosen)
        )


def test_a_denoiser_without_a_derivative_is_refused():
    model = ToySurrogate()
    model.differentiable = False
    with pytest.raises(CheckpointError, match="derivative"):
        SetProtection(members(pictures()), model, settings(), QUICK)


@pytest.mark.parametrize(
    "name, bad, words",
    [
        *[(name, bad, "between") for name, bad in (("rounds", 0), ("lora_rank", 0), ("lora_steps", -1))],
        *[("lora_rate", bad, "between") for bad in (2, float("nan"))],
        *[("rounds", bad, "rounds to be a whole number; got") for bad in ("many", True, [2], 2.5, {})],
        ("lora_rate", "fast", "lora rate to be a number; got 'fast'"),
        ("ronds", 2, "Unknown control 'ronds'. Did you mean rounds?"),
    ],
)
def test_bad_values_are_refused(name, bad, words):
    with pytest.raises(SettingsError, match=words):
        set_settings({name: bad})
    assert {known.name for known in SET_CONTROLS} == set(SetSettings().as_dict())


def test_a_sliders_whole_number_is_one_and_what_is_not_given_has_its_default():
    assert set_settings({"rounds": 3.0, "lora_rate": None}) == SetSettings(rounds=3)


class Tight(ToySurrogate):
    """Has no memory for what is not done in the low-VRAM way."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def run(self, job, batch, height, width, *, low_vram=False):
        self.asked.append(low_vram)
        if not low_vram:
            raise torch.OutOfMemoryError if hasattr(torch, "OutOfMemoryError") else torch.cuda.OutOfMemoryError
        return super().run(job, batch, height, width, low_vram=low_vram)


def test_where_memory_runs_out_it_is_done_in_the_low_vram_way():
    model = Tight()
    found = run(pictures(), model)
    assert same(found, run(pictures())) and set(model.asked) == {True, False}
