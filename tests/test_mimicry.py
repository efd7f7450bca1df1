"""Mimicry: LoRAs that leave no trace, Frechet's distance, and what `mist evaluate --mimicry` says of both."""

import csv
import html
import io
import json
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.command import Model, mist, toy_model  # noqa: F401
from fakes.toy import ToySurrogate
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn

from mist_attack.command.mimicry import of_models
from mist_attack.errors import CheckpointError, PictureError, SettingsError
from mist_attack.evaluation import judging
from mist_attack.evaluation.comparison import img2img, sample
from mist_attack.evaluation.imitating import LEAST, UNTAUGHT, Training, imitate, rate_for, side_for, squares
from mist_attack.evaluation.mimicry import ORIGINALS, SHOWN, mimicry
from mist_attack.evaluation.results import Pair
from mist_attack.evaluation.style import Style, frechet, style_of
from mist_attack.evaluation.transforms import NotMeasuredError
from mist_attack.evaluation.words import imitated
from mist_attack.hosts.headless import checkpoints, diffusers, lora
from mist_attack.settings import resolve
from mist_attack.words import number

SIDE = 64
PROMPT = "a drawing"
QUICK = Training(steps=2, batch=2, seeds=(0, 1), pictures=2, sampling_steps=3)


@pytest.fixture(scope="module")
def demo():
    return diffusers.load(checkpoints.find_checkpoint("demo"), torch.device("cpu"))


def drawn(count=LEAST, side=SIDE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 1, 3, side // 8, side // 8), generator=generator, dtype=torch.uint8)
    return [picture.repeat_interleave(8, 2).repeat_interleave(8, 3) for picture in coarse]


# Frechet's distance


def gaussian(seed, size=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return Style(rng.normal(size=size), root @ root.T)


def test_of_independent_numbers_it_is_that_of_their_means_and_deviations():
    means, deviations = np.random.default_rng(0).normal(size=(2, 5)), np.random.default_rng(1).uniform(0, 3, (2, 5))
    some, others = (Style(mean, np.diag(d**2)) for mean, d in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet(some, others) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_published_formula(seed):
    a, b = gaussian(seed), gaussian(seed + 10)
    root = sqrtm(a.spread @ b.spread)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.spread + b.spread - 2 * root.real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_a_style_is_that_of_all_squares_of_four_latents():
    model, pictures = ToySurrogate(), drawn(3)
    numbers = []
    for picture in pictures:
        z = model.encode(picture.float() / 255)[0]
        numbers += [z[:, y : y + 2, x : x + 2].flatten() for y in range(7) for x in range(7)]
    numbers = torch.stack(numbers).double().numpy()
    style = style_of(model, pictures)
    assert style.mean == pytest.approx(numbers.mean(0), rel=1e-4, abs=1e-6)
    assert style.spread == pytest.approx(np.cov(numbers.T), rel=1e-4, abs=1e-6)


# The LoRA


def state(module):
    """What could tell that something was there."""
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    kinds = {name: (id(part), type(part), sorted(vars(part))) for name, part in module.named_modules()}
    return tensors, kinds, [parameter.requires_grad for parameter in module.parameters()]


def same(before, after):
    return (
        before[1:] == after[1:]
        and before[0].keys() == after[0].keys()
        and all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())
    )


def loss(ready, pictures):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        z = torch.cat([ready.encode(picture.float() / 255) for picture in pictures])
        sigma = ready.sigmas[torch.linspace(200, 900, len(z)).long()]
        noised = ready.noising.noised(z, torch.randn(z.shape, generator=generator), sigma)
        return float(
            ((z - ready.denoise(noised, sigma, ready.conditioning(PROMPT))) / sigma.view(-1, 1, 1, 1)).square().mean()
        )


def test_a_lora_learns_and_leaves_the_model_bit_for_bit(demo):
    pictures, numbers = drawn(), torch.get_rng_state()
    lent = state(demo.unet)

    def job(ready):
        before, begun = loss(ready, pictures), state(ready.unet)
        z = torch.cat([ready.encode(picture.float() / 255) for picture in pictures]).detach()
        with ready.lora(4, 0) as weights:
            assert loss(ready, pictures) == before  # nothing until it is trained
            frozen = {name: p.clone() for name, p in ready.unet.named_parameters() if "lora_" not in name}
            optimizer = torch.optim.AdamW(weights, 5e-3)
            for step in range(25):
                sigma = ready.sigmas[torch.linspace(150 + step, 850 + step, len(z)).long()]
                noised = ready.noising.noised(z, torch.randn(z.shape), sigma)
                error = (z - ready.denoise(noised, sigma, ready.conditioning(PROMPT))) / sigma.view(-1, 1, 1, 1)
                optimizer.zero_grad()
                error.square().mean().backward()
                optimizer.step()
            assert loss(ready, pictures) < 0.97 * before
            assert all(torch.equal(p, frozen[name]) for name, p in ready.unet.named_parameters() if name in frozen)
            adapted = {name for name, part in ready.unet.named_modules() if hasattr(part, "lora_A")}
        assert loss(ready, pictures) == before and same(begun, state(ready.unet))
        return adapted

    adapted = demo.run(job, 1, SIDE, SIDE)
    wanted = {name for name, _ in demo.unet.named_modules() if ".attn" in name and name.endswith(tuple(lora.ATTENTION))}
    assert adapted == wanted and len(wanted) >= 8
    assert same(lent, state(demo.unet))
    with torch.random.fork_rng():
        torch.set_rng_state(numbers)


def test_a_lora_is_the_same_for_a_seed_and_takes_no_number_of_others(demo):
    def weights(seed):
        with demo.lora(4, seed) as found:
            return [weight.detach().clone() for weight in found]

    def job(ready):
        begun = torch.get_rng_state()
        first, again, other = weights(1), weights(1), weights(2)
        assert torch.equal(begun, torch.get_rng_state())
        assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))
        assert {weight.dtype for weight in first} == {torch.float32}

    demo.run(job, 1, SIDE, SIDE)


def test_a_training_that_is_ended_leaves_nothing_either(demo):
    lent, told = state(demo.unet), []

    def end(words):
        told.append(words)
        if words.startswith("a LoRA"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imitate(demo, {"a": drawn()}, [PROMPT] * LEAST, QUICK, SIDE, on_part=end)
    assert same(lent, state(demo.unet)) and told[-1] == "a LoRA of the a, seed 0"


def test_the_rate_is_the_published_one_at_the_published_width():
    def pair(width):
        return nn.Parameter(torch.zeros(4, width)), nn.Parameter(torch.zeros(width, 4))

    assert rate_for(pair(780), 1) == pytest.approx(1e-4) and rate_for(pair(78), 1) == pytest.approx(1e-3)
    assert rate_for(pair(780), 4) == pytest.approx(4e-4)


# What is made


def test_sets_differ_by_their_pictures_alone(demo):
    lent = state(demo.unet)
    some, others = drawn(), drawn(seed=1)
    made = imitate(demo, {"a": some, "b": some, "c": others}, [PROMPT] * LEAST, QUICK, SIDE)
    assert set(made) == {UNTAUGHT, "a", "b", "c"} and all(len(seeds) == 2 for seeds in made.values())
    for seed in range(2):
        assert all(map(torch.equal, made["a"][seed], made["b"][seed]))
        assert not any(map(torch.equal, made["a"][seed], made["c"][seed]))
        assert not any(map(torch.equal, made["a"][seed], made[UNTAUGHT][seed]))
    assert not any(map(torch.equal, made[UNTAUGHT][0], made[UNTAUGHT][1]))
    assert {(x.shape, x.dtype) for seeds in made.values() for xs in seeds for x in xs} == {
        ((1, 3, SIDE, SIDE), torch.uint8)
    }
    assert same(lent, state(demo.unet))


@torch.no_grad()
def test_pictures_are_ddims():
    """Song et al. 2021, eq. 12 without noise, in the variance-preserving scale of its own."""
    model, noise = ToySurrogate(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    prompt, times = model.conditioning(PROMPT), [999, 500, 0]
    alphas = [float(1 / (1 + model.sigmas[t] ** 2)) for t in times] + [1.0]
    x = noise  # sigma / sqrt(1 + sigma^2) of it, by 0.2 %
    for t, (now, then) in zip(times, pairwise(alphas), strict=True):
        sigma = model.sigmas[[t]]
        eps = (x / now**0.5 - model.denoise(x / now**0.5, sigma, prompt)) / sigma
        x = then**0.5 * (x - (1 - now) ** 0.5 * eps) / now**0.5 + (1 - then) ** 0.5 * eps
    assert (sample(model, noise, prompt, 3) - model.decode(x)).abs().max() < 0.02
    assert (sample(model, noise[:1], prompt, 3) - sample(model, noise, prompt, 3)[:1]).abs().max() < 1e-5
    grey = img2img(model, torch.full((1, 3, SIDE, SIDE), 0.5), prompt, 1.0, 3, 0)
    assert grey.shape == (1, 3, SIDE, SIDE)


class Student(Model):
    """What its LoRA learns is one number for each channel."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.shift, self.asked = torch.zeros(1, 4, 1, 1), []

    @contextmanager
    def lora(self, rank, seed):
        self.shift = nn.Parameter(torch.zeros(1, 4, 1, 1))
        try:
            yield [self.shift]
        finally:
            self.shift = torch.zeros(1, 4, 1, 1)

    def denoise(self, noised_latents, sigma, conditioning):
        self.asked.append(conditioning)
        return super().denoise(noised_latents, sigma, conditioning) + self.shift


def test_a_picture_is_learned_and_made_by_its_own_prompt():
    model, prompts = Student(), ["one", "two", "two", "one", "three"]
    training = Training(steps=30, batch=2, seeds=(0,), pictures=5, sampling_steps=2)
    imitate(model, {"a": drawn()}, prompts, training, SIDE)
    names = {tuple(model.conditioning(name).flatten().tolist()): name for name in prompts}
    asked = [names[tuple(conditioning.flatten().tolist())] for conditioning in model.asked]
    made = [name for name in ("one", "two", "three") for _ in range(2)]
    assert asked[:6] == made == asked[-6:]  # without a LoRA, and with it
    assert len(asked) == 42 and set(asked[6:36]) == {"one", "two", "three"}


def test_pictures_that_are_made_together_are_those_made_one_by_one():
    prompts = ["one", "two", "two", "one", "three"]
    made = []
    for batch in (1, 3):
        training = Training(steps=1, batch=batch, seeds=(5,), pictures=8, sampling_steps=3)
        made.append(imitate(Student(), {"a": drawn()}, prompts, training, SIDE)[UNTAUGHT][0])
    assert [x.shape for x in made[1]] == [(1, 3, SIDE, SIDE)] * 8
    assert len({x.flatten()[:999].numpy().tobytes() for x in made[1]}) == 8
    for alone, together in zip(*made, strict=True):
        assert (alone.int() - together.int()).abs().max() <= 1


def test_pictures_of_any_size_become_squares_of_one():
    pictures = [
        torch.arange(3 * h * w).view(1, 3, h, w).remainder(256).to(torch.uint8) for h, w in ((64, 80), (130, 64))
    ]
    side = side_for([ToySurrogate()], pictures, 512)
    assert side == 64 and [x.shape for x in squares(pictures, side)] == [(1, 3, 64, 64)] * 2
    assert (
        torch.equal(squares(pictures, 64)[0], pictures[0][..., 8:72]) and side_for([ToySurrogate()], pictures, 40) == 32
    )
    assert squares([torch.full((1, 3, 200, 100), 7, dtype=torch.uint8)], 32)[0].unique().tolist() == [7]
    with pytest.raises(NotMeasuredError, match="smallest picture has 12 pixels"):
        side_for([ToySurrogate()], [pictures[0][..., :12]], 512)


def test_what_cannot_be_learned_is_refused():
    prompts = [PROMPT] * LEAST
    for wrong, words in (
        ({"a": drawn()[:-1]}, "Expected 5 pictures in a"),
        ({"a": drawn(side=32)}, "Expected levels of shape"),
        ({UNTAUGHT: drawn()}, "another name"),
    ):
        with pytest.raises(PictureError, match=words):
            imitate(Student(), wrong, prompts, QUICK, SIDE)
    with pytest.raises(NotMeasuredError, match="5 pictures or more, and there are 4"):
        mimicry(Student(), drawn(4), {"protected": drawn(4)}, prompts[:4], QUICK)
    with pytest.raises(SettingsError, match="Expected steps of a LoRA's training of at least 1; got 0"):
        Training(steps=0)
    with pytest.raises(SettingsError, match="at least one seed"):
        Training(seeds=())


class Underivable(Student):
    differentiable = False


class Diverging(Student):
    def denoise(self, *arguments):
        return super().denoise(*arguments) * float("nan")


@pytest.mark.parametrize(
    "model, words",
    [
        (ToySurrogate(vae_only=True), "no denoiser to fine-tune"),
        (Underivable(), "no checked derivative"),
        (Diverging(), "lower rate"),
    ],
)
def test_a_model_that_takes_no_lora_is_not_measured(model, words):
    with pytest.raises(NotMeasuredError, match=words):
        mimicry(model, drawn(), {"protected": drawn()}, [PROMPT] * LEAST, QUICK)


def test_an_autoencoder_has_nothing_to_fine_tune(demo):
    alone = diffusers.DiffusersSurrogate("alone", demo.vae, None, {}, lambda prompt: None, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="nothing to fine-tune"):
        alone.lora(4, 0)


def test_without_peft_it_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NotMeasuredError, match=r"mist-protect\[evaluate\]"):
        mimicry(Student(), drawn(), {"protected": drawn()}, [PROMPT] * LEAST, QUICK)


# Figures and words


def test_each_figure_is_recomputed():
    model, eye = Student(), ToySurrogate(seed=4, vae_only=True)
    originals, protected = drawn(), drawn(seed=1)
    training = Training(steps=3, batch=2, seeds=(0, 1, 2), pictures=3, sampling_steps=2)
    found = mimicry(model, originals, {"mist": protected}, [PROMPT] * LEAST, training, eyes=[eye])
    made = imitate(model, {ORIGINALS: originals, "mist": protected}, [PROMPT] * LEAST, training, SIDE)
    assert [style["eye"] for style in found.figures["styles"]] == [model.name, eye.name]
    for judge, style in zip((model, eye), found.figures["styles"], strict=True):
        with torch.no_grad():
            wanted = style_of(judge, originals)
            by_hand = {name: [frechet(style_of(judge, xs), wanted) for xs in seeds] for name, seeds in made.items()}
        for name, values in by_hand.items():
            told = style["distances"][name]
            assert told["by_seed"] == pytest.approx(values, rel=1e-4) and told["value"] == pytest.approx(
                np.median(values)
            )
        clean, base, mist_ = (np.array(by_hand[name]) for name in (ORIGINALS, UNTAUGHT, "mist"))
        for ratio, told in (
            (clean / base, style["originals_over_model"]),
            (mist_ / clean, style["protected"]["mist"]["over_originals"]),
            (mist_ / base, style["protected"]["mist"]["over_model"]),
        ):
            ends = told["low"], told["value"], told["high"]
            assert ends == pytest.approx((ratio.min(), np.median(ratio), ratio.max()), rel=1e-4)
    assert found.figures["pictures"] == LEAST and found.figures["side"] == SIDE
    assert all(map(torch.equal, found.pictures[SHOWN], originals))
    assert all(map(torch.equal, found.pictures["mist"], made["mist"][0]))


def test_autoencoders_judge_and_a_whole_model_learns(judged):
    eye, student = ToySurrogate(seed=4, vae_only=True), Student()
    pairs = [Pair("o", "p", before, after, [judged]) for before, after in zip(drawn(), drawn(seed=1), strict=True)]
    asked = pairs, [PROMPT] * LEAST, QUICK, resolve("default", {})
    (found,), missing = of_models([eye, student], *asked, lambda words: None)
    assert found.figures["model"] == student.name and not missing
    assert [style["eye"] for style in found.figures["styles"]] == [student.name, eye.name]
    assert of_models([eye], *asked, lambda words: None) == ([], {"mimicry": missing_denoiser(eye)})


def missing_denoiser(eye):
    return f"{eye.name} is an autoencoder alone, and there is no denoiser to fine-tune"


def between(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    "clean, over, left, words",
    [
        ((0.7, 0.6, 0.81), (2, 1.5, 3), (1.2, 1.1, 1.3), "M: mimicry was not reached."),
        ((0.3, 0.2, 0.4), (2, 1.5, 3), (1.1, 0.8, 1.3), "Imitation kept off: "),
        ((0.3, 0.2, 0.4), (2, 1.5, 3), (0.6, 0.5, 0.79), "Imitated, but worse than the originals are: "),
        ((0.3, 0.2, 0.4), (1.4, 1, 1.8), (0.4, 0.3, 0.5), "Imitated no worse than the originals are, as far as can"),
        ((0.3, 0.2, 0.4), (0.8, 0.7, 0.9), (0.2, 0.2, 0.3), "Imitated, and better than the originals are: "),
    ],
)
def test_the_words(clean, over, left, words):
    style = {
        "eye": "M",
        "originals_over_model": between(*clean),
        "protected": {"protected": {"over_originals": between(*over), "over_model": between(*left)}},
    }
    assert imitated({"model": "M"}, style).startswith(words)
    if "reached" not in words:
        assert imitated({"model": "M"}, style | {"eye": "E"}).endswith(
            f"lie {number(over[0])} ({number(over[1])} to {number(over[2])}) times as far from the "
            "originals' style as those by LoRAs of the originals, by M, as E sees it; of the distance without a LoRA, "
            f"{left[0]:.0%} ({left[1]:.0%} to {left[2]:.0%}) instead of 30% (20% to 40%)."
        )


# The command


@pytest.fixture(scope="module")
def judged():
    """What test_evaluate.py is about, once."""
    return judging.judge(Student(), drawn()[0], drawn(seed=1)[0], resolve("default", {"seed": 0}))


@pytest.fixture
def folders(toy_model, judged, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(diffusers, "load", lambda *arguments: Student())
    monkeypatch.setattr(judging, "judge", lambda *arguments, **options: judged)
    for name, seed in (("o", 0), ("p", 1)):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(drawn(seed=seed)):
            Image.fromarray(picture[0].permute(1, 2, 0).numpy()).save(tmp_path / name / f"{i}.png")
    return "o", "p"


ASKED = ("--mimicry", "--mimicry-steps", 2, "--mimicry-seeds", 2, "--mimicry-rank", 3, "--mimicry-rate", 0.01)


def found(out="evaluation"):
    return json.loads(Path(out, "results.json").read_text("utf-8"))


def page(out="evaluation"):
    return html.unescape(Path(out, "index.html").read_text("utf-8"))


def test_the_command_measures_it_and_says_so_everywhere(folders, capsys):
    assert mist("evaluate", *folders, *ASKED) == 0
    said = capsys.readouterr().out
    everything = found()
    (row,) = everything["mimicry"]
    (words,) = row["words"]
    assert words in said and page().count(words) == 2 and "mimicry" not in everything["not_measured"]
    assert "a LoRA of the originals, seed 1" in said and "a LoRA of the protected, seed 0" in said
    assert row["training"] | {"rank": 3, "steps": 2, "seeds": [0, 1], "rate": 0.01} == row["training"]
    table = list(csv.DictReader(io.StringIO(Path("evaluation", "results.csv").read_text("utf-8"))))
    told = {line["figure"]: line for line in table if line["view"].startswith("mimicry")}
    ratio = row["styles"][0]["protected"]["protected"]["over_originals"]
    assert {key: float(told["protected_over_originals"][key]) for key in ratio} == ratio
    assert float(told["distance.model"]["value"]) == row["styles"][0]["distances"]["model"]["value"]
    for title in ("The originals", "By a LoRA of the originals", "By a LoRA of the protected pictures"):
        assert page().count(f'alt="{title}, ') == 5 or title != "The originals"
        assert f"<h3>{title}</h3>" in page()


def test_a_page_that_may_be_published_has_no_grid(folders):
    assert mist("evaluate", *folders, *ASKED, "--no-pictures") == 0
    assert "data:image" not in page() and found()["mimicry"][0]["words"][0] in page()


def test_unless_asked_for_it_is_not_measured(folders):
    assert mist("evaluate", *folders) == 0
    assert found()["mimicry"] == [] and "--mimicry does" in found()["not_measured"]["mimicry"]


def test_one_picture_is_no_style(folders):
    assert mist("evaluate", "o/0.png", "p/0.png", *ASKED) == 0
    assert found()["mimicry"] == [] and "there are 1" in found()["not_measured"]["mimicry"]
    assert "there are 1" in page()


def test_a_prompt_beside_a_picture_is_learned(folders, monkeypatch):
    asked = []
    monkeypatch.setattr(
        Student, "conditioning", lambda self, prompt: asked.append(prompt) or Model.conditioning(self, prompt)
    )
    Path("o/3.prompt.txt").write_text("a  sunny\nfield")
    assert mist("evaluate", *folders, *ASKED, "--prompt", "by her") == 0
    assert {"a sunny field", "by her"} == set(asked)


def test_a_prompt_that_the_model_cannot_read_is_told(folders, monkeypatch):
    def conditioning(self, prompt):
        if prompt == "odd":
            raise CheckpointError("the prompt 'odd' cannot be encoded")
        return Model.conditioning(self, prompt)

    monkeypatch.setattr(Student, "conditioning", conditioning)
    Path("o/3.prompt.txt").write_text("odd")
    assert mist("evaluate", *folders, *ASKED) == 0
    assert "'odd' cannot be encoded" in found()["not_measured"]["mimicry"] and len(found()["pairs"]) == LEAST


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--mimicry-steps", 2), "--mimicry-steps goes with --mimicry"),
        (("--mimicry", "--mimicry-steps", 0), "Expected steps"),
        (("--mimicry", "--mimicry-seeds", -1), "at least one seed"),
        (("--mimicry", "--mimicry-rank", 0), "Expected rank"),
        (("--mimicry", "--mimicry-rate", "nan"), "rate"),
        (("--mimicry", "--mimicry-rate", 0), "rate"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_computed(flags, words, folders, capsys):
    assert mist("evaluate", *folders, *flags) == 1
    assert words in capsys.readouterr().err and not Path("evaluation").exists()


def test_a_prompt_that_is_no_text_is_refused_before_anything_is_computed(folders, capsys):
    Path("o/3.prompt.txt").write_bytes(b"\xff\xfe\x00\xd8")
    assert mist("evaluate", *folders, *ASKED) == 1
    assert "3.prompt.txt" in capsys.readouterr().err and not Path("evaluation").exists()
