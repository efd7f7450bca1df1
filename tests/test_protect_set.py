"""`mist protect-set`: files in and out, its words and Mist v2's, runs that are killed, and bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.command import Model, draw, files, levels_of, mist, toy_model  # noqa: F401
from PIL import Image

from mist_attack.command import flags, mist_v2, native
from mist_attack.command.main import main
from mist_attack.gallery import sets
from mist_attack.gallery.sets import OnDisk
from mist_attack.gallery.storage import Folder
from mist_attack.hosts.headless import diffusers
from mist_attack.sets.settings import SET_CONTROLS, SetSettings

TESTS = Path(__file__).parent
WORDS = ("--rounds", 2, "--lora-steps", 3, "--steps", 2, "--working-size", 64, "--threads", 1)

pytestmark = pytest.mark.usefixtures("toy_model")


def gallery(folder=Path()):
    for index, size in enumerate(((40, 24), (24, 40), (33, 17))):
        draw(folder / "in" / ("sub" if index % 2 else "") / f"p{index}.png", size, seed=index)
    (folder / "in" / "p0.prompt.txt").write_text("a drawing", encoding="utf-8")
    return "protect-set", "in", "--out", "out", *WORDS


def rows(folder="out"):
    return [json.loads(line) for line in (Path(folder) / "mist-manifest.jsonl").read_text("utf-8").splitlines()]


def test_a_folder_is_protected_together_its_tree_and_sizes_kept(capsys):
    assert mist(*gallery()) == 0
    assert files("out") == ["p0.png", "p2.png", "sub/p1.png"]
    for name in files("out"):
        moved = np.abs(levels_of(f"out/{name}") - levels_of(f"in/{name}"))
        assert 0 < moved.max() <= 16
    said = capsys.readouterr().out
    assert "no caption (STEM.prompt.txt) beside 2 of 3, so 'a painting': p2.png, p1.png" in said
    assert "as one of a set of 3: 2 rounds, in each 3 steps of a LoRA of rank 4" in said
    assert {row["settings"]["prompt"] for row in rows()} == {"a drawing", "a painting"}
    assert {row["set"]["rounds"] for row in rows()} == {2} and len({row["set"]["key"] for row in rows()}) == 1
    assert not [path for path in Path("out/.mist/sets").rglob("*") if path.is_file()]


def test_what_is_done_is_skipped_until_the_set_is_another(capsys):
    words = gallery()
    assert mist(*words) == 0
    before = levels_of("out/p0.png")
    capsys.readouterr()
    assert mist(*words) == 0
    assert capsys.readouterr().out.count("protected already") == 3
    draw("in/p9.png", (20, 20), seed=9)  # what the others' protection depends on
    assert mist(*words) == 0
    assert "protected already" not in capsys.readouterr().out and len(files("out")) == 4
    assert not np.array_equal(before, levels_of("out/p0.png"))
    assert mist(*words, "--force") == 0
    assert "protected already" not in capsys.readouterr().out


def test_masks_targets_reports_and_formats_are_as_for_single_pictures():
    words = gallery()
    mask = np.zeros((24, 40), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save("in/p0.mask.png")
    draw("target.png", (30, 30), seed=5)
    more = ("--target", "target.png", "--format", "webp", "--report", "r.json", "--name", "{stem}-set")
    assert mist(*words, *more, "--strength", 4) == 0
    assert files("out") == ["p0-set.webp", "p2-set.webp", "sub/p1-set.webp"]
    moved = np.abs(levels_of("out/p0-set.webp") - levels_of("in/p0.png"))
    assert moved[:, 20:].max() == 0 < moved[:, :20].max() <= 4
    told = json.loads(Path("r.json").read_text("utf-8"))
    assert [row["status"] for row in told] == ["protected"] * 3
    assert {row["report"]["target"] for row in told} == {"picture"} and all(row["report"]["seconds"] for row in told)


def test_a_bad_file_is_named_and_the_rest_is_a_set(capsys):
    words = gallery()
    Path("in/broken.png").write_bytes(b"these are words")
    assert mist(*words) == 2
    assert "broken.png" in capsys.readouterr().err and len(files("out")) == 3
    statuses = {Path(row["input"]).name: row["status"] for row in rows()}
    assert statuses == {"broken.png": "failed", "p0.png": "protected", "p1.png": "protected", "p2.png": "protected"}


def test_a_file_that_goes_while_the_run_goes_on_is_named(monkeypatch, capsys):
    words, real = gallery(), sets.SetProtection._round

    def removing(self, number):
        real(self, number)
        Path("in/p2.png").unlink(missing_ok=True)

    monkeypatch.setattr(sets.SetProtection, "_round", removing)
    assert mist(*words) == 2
    assert "p2.png" in capsys.readouterr().err and files("out") == ["p0.png", "sub/p1.png"]


def test_a_file_that_is_another_by_then_is_named(monkeypatch, capsys):
    words, real = gallery(), sets.SetProtection._round

    def changing(self, number):
        real(self, number)
        draw("in/p2.png", (33, 17), seed=77)

    monkeypatch.setattr(sets.SetProtection, "_round", changing)
    assert mist(*words) == 2
    assert "was changed while the run went on" in capsys.readouterr().err and "p2.png" not in files("out")


@pytest.mark.parametrize(
    "words, said",
    [
        (["in/p0.png"], "2 pictures or more of one style; got 1"),
        (["in", "--objective", "textural"], "no LoRA changes"),
        (["in", "--rounds", "0"], "rounds between 1 and 100"),
        (["in", "--rounds", "50"], "a step or more for each round; got 15 for 50"),
        (["in", "--lora-rank", "0"], "rank between 1 and 128"),
        (["in", "--device", "moon"], "--device"),
        (["sub*"], "Nothing matches"),
        (["in", "--pgd_eps", "16"], "from -1 to 1"),
        (["in", "--pgd_eps", "much"], "expected a number"),
        (["in", "--pgd_eps", "8/255", "--strength", "8"], "say the same thing"),
        (["in", "--rounds", "2", "--max_train_steps", "2"], "say the same thing"),
        (["in", "--instance_data_dir", "in"], "say the same thing"),
        (["in", "--direction", "ascent", "--set-direction", "descent"], "say the same thing"),
        (["in", "--class_data_dir", "in"], "unrecognized"),
        (["in", "--engine", "ray"], "unrecognized"),
    ],
)
def test_bad_input_is_refused_in_clear_words_and_nothing_is_written(words, said, capsys):
    gallery()
    assert mist("protect-set", *words, "--out", "out") == 1
    assert said in capsys.readouterr().err and not Path("out").exists()


def test_a_model_without_a_denoiser_is_refused(monkeypatch, capsys):
    words = gallery()
    monkeypatch.setattr(diffusers, "load", lambda *arguments: Model(vae_only=True))
    assert mist(*words) == 1
    said = capsys.readouterr().err
    assert "nothing to fine-tune" in said and "single pictures" in said and files("out") == []


def test_a_dry_run_says_what_and_does_nothing(capsys):
    words = gallery()
    assert mist(*words, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "3 pictures as one set: 2 rounds, 2 steps each, 6 steps of the LoRA." in said
    assert "p0.png: caption" in said and "p2.png: no caption" in said and not Path("out").exists()


def seen(*words):
    whole, *_ = flags.parser()
    options = whole.parse_args(["protect-set", *map(str, words)])
    mist_v2.translate(options, SetSettings().rounds)
    return options


def test_mist_v2s_words_mean_ours():
    draw("theirs/a.png"), draw("theirs/b.png"), draw("their_target.png")
    options = seen(
        *("--instance_data_dir", "theirs", "--output_dir", "out", "--mode", "anti-db", "--instance_prompt", "a cat"),
        *("--max_train_steps", 3, "--max_f_train_steps", 7, "--max_adv_train_steps", 30, "--lora_rank", 8),
        *("--learning_rate", "2e-4", "--pgd_eps", "8/255", "--pgd_alpha", 0.005, "--resolution", 256),
        *("--target_image_path", "their_target.png", "--preset", "mist"),
    )
    settings = native.request_for(options).settings
    assert settings.objective == "semantic" and settings.prompt == "a cat" and settings.working_size == 256
    assert settings.strength_levels == pytest.approx(4) and settings.step_size * 255 == pytest.approx(0.6375)
    assert settings.steps == 90 and (options.rounds, options.lora_steps, options.lora_rank) == (3, 7, 8)
    assert options.lora_rate == 2e-4 and options.target == "their_target.png"
    assert seen("theirs", "--out", "out", "--max_adv_train_steps", 30).steps == 30 * SetSettings().rounds
    assert [seen("x", "--mode", mode).objective for mode in mist_v2.MODES] == ["lunet", "fused", "semantic"]
    assert options.set_direction == seen("x", "--mode", "fused").set_direction == "ascent"  # theirs go up
    assert seen("x", "--mode", "fused", "--direction", "descent").set_direction == "descent"


def test_the_page_has_a_row_for_each_word_of_theirs(capsys):
    with pytest.raises(SystemExit):
        main(["protect-set", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"{known.hint} (default" in told for known in SET_CONTROLS)
    page = (TESTS.parent / "docs" / "sets.md").read_text("utf-8")
    others = ("instance_data_dir", "mode", "max_adv_train_steps", "pgd_eps", "pgd_alpha")
    for word in (*mist_v2.SAME, *others):
        assert f"`--{word}`" in page and f"--{word} " in told
    for known in SET_CONTROLS:
        assert f"`{known.flag}`" in page


# What lies on the disk between the rounds


def test_what_is_kept_is_read_again_and_the_lora_says_which_round(tmp_path):
    keep = OnDisk(Folder(tmp_path), "k" * 64)
    states = [[torch.rand(2 + part, 3) for part in range(12)] for _ in range(2)]
    assert keep.latest() == 0 and keep.states(0) is None and keep.picture(-1, "a") is None
    for number in range(3):
        keep.keep_states(number, states)
        keep.keep_picture(number, "../a", torch.full((1, 3, 2, 2), float(number)))
    again = OnDisk(Folder(tmp_path), "k" * 64)
    assert again.latest() == 2
    found = again.states(2)
    assert [len(state) for state in found] == [12, 12]
    assert all(torch.equal(a, b) for x, y in zip(found, states, strict=True) for a, b in zip(x, y, strict=True))
    again.forget(1)
    assert again.picture(1, "../a") is None and again.states(1) is None and float(again.picture(2, "../a").max()) == 2
    again.keep_failure("b", "gone")
    assert keep.failure("b") == "gone" and keep.failure("a") is None
    OnDisk(Folder(tmp_path), "j" * 64).clear_others()
    assert again.latest() == 0


def test_a_run_that_goes_on_does_no_round_again(monkeypatch):
    words = gallery()
    assert mist(*words) == 0
    Path("out").rename("whole")
    asked, real = [], sets.SetProtection._attack

    def counting(self, number, member, states):
        if self.keep.picture(number, member.name) is None:
            asked.append((number, member.name))
        if len(asked) == 5:
            raise KeyboardInterrupt
        real(self, number, member, states)

    monkeypatch.setattr(sets.SetProtection, "_attack", counting)
    assert mist(*words) == 130
    first, asked[:] = list(asked), []
    assert [number for number, _ in first] == [0, 0, 0, 1, 1]
    assert mist(*words) == 0 and asked == [first[-1], (1, "sub/p1.png")]
    assert {name: levels_of(f"out/{name}").tolist() for name in files("out")} == {
        name: levels_of(f"whole/{name}").tolist() for name in files("whole")
    }
