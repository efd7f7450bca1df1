"""Mist's own command line does what Mist did, with its defects repaired."""

import json
from pathlib import Path

import numpy as np
import pytest
from fakes.command import draw, files, levels_of, mist, toy_model  # noqa: F401
from PIL import Image

from mist_attack.command import main, mist_v1
from mist_attack.gallery import run
from mist_attack.pictures.reading import read_picture

pytestmark = pytest.mark.usefixtures("toy_model")


def order_of(monkeypatch, *words):
    orders = []
    monkeypatch.setattr(run, "run", lambda order, *_, **__: orders.append(order) or [])
    mist("protect", *words)
    return orders[0]


def test_the_flags_of_the_parser_are_those_with_rules():
    assert set(main.THEIRS) == set(mist_v1.DEFAULTS)


def test_a_folder_goes_where_mist_put_it(capsys):
    draw("test/vangogh/one.png", (48, 32)), draw("test/vangogh/two.jpg", (32, 48))
    words = "--input_dir_path test/vangogh --output_dir vangogh --epsilon 8 --steps 2 --input_size 64"
    assert mist("protect", *words.split()) == 0
    folder = "outputs/dirs/vangogh_8_2_64_1_2_1_0_0"
    assert files(folder) == ["one.png", "two.png"]  # Mist wrote JPEG at quality 75 here
    for name in ("one", "two"):
        assert Image.open(f"{folder}/{name}.png").size == (64, 64)
    source = Image.open("test/vangogh/one.png").resize((64, 64), Image.Resampling.BICUBIC)
    moved = np.abs(levels_of(f"{folder}/one.png") - np.asarray(source).astype(int))
    assert 0 < moved.max() <= 8  # Mist's truncation made it 9


def test_one_picture_goes_where_mist_put_it_and_short_forms_work():
    draw("a.png", (32, 32), mode="RGBA")
    words = "-img a.png --output_name mine -e 4 -s 1 -in_size 64 -b 2 --mode 1 --rate 3"
    assert mist("protect", *words.split()) == 0
    assert files("outputs") == ["images/mine_4_1_64_2_1_3_0_0.png"]
    assert Image.open("outputs/images/mine_4_1_64_2_1_3_0_0.png").mode == "RGBA"


def test_names_and_defaults_of_the_documentation(monkeypatch):
    Path("test/vangogh").mkdir(parents=True)
    draw("test/vangogh/a.png")
    order = order_of(monkeypatch, "--input_dir_path", "test/vangogh")
    assert str(order.works[0].output.parent.as_posix()) == "outputs/dirs/vangogh_16_100_512_1_2_1_0_0"
    settings = order.settings
    assert (settings.strength_levels, settings.steps, settings.objective) == (16, 100, "fused")
    assert settings.semantic_weight == pytest.approx(1e4) and not settings.keep_tone


@pytest.mark.parametrize("mode, objective", [(0, "semantic"), (1, "textural"), (2, "fused")])
def test_modes_are_those_of_mists_code(monkeypatch, mode, objective):
    draw("a.png")
    assert order_of(monkeypatch, "-img", "a.png", "--mode", mode).settings.objective == objective


@pytest.mark.parametrize("size, blocks, expected", [((300, 200), 1, (96, 64)), ((200, 330), 2, (64, 96))])
def test_non_resize_keeps_the_aspect_where_mists_page_crashed(size, blocks, expected):
    draw("a.png", size)
    words = f"-img a.png --non_resize --input_size 64 --steps 1 --block_num {blocks}"
    assert mist("protect", *words.split()) == 0
    (name,) = files("outputs")
    assert name == f"images/misted_sample_16_1_64_{blocks}_2_1_0_1.png"
    assert Image.open(f"outputs/{name}").size == expected


def test_the_model_sees_the_resized_picture_at_once_and_blocks_as_tiles(monkeypatch):
    draw("a.png", (300, 200))
    order = order_of(monkeypatch, *["-img", "a.png", "--non_resize"])
    picture = mist_v1.resized(read_picture("a.png"), 300, 200)
    prepared, settings = order.prepare(picture, order.settings)
    height, width = prepared.images.shape[2:]
    assert (height, width) == (512, 768) and settings.working_size**2 >= height * width
    order = order_of(monkeypatch, *["-img", "a.png", "--block_num", "2"])
    assert order.prepare(picture, order.settings)[1].view == "tiles"
    assert order.prepare(picture, order.settings)[1].working_size == 256


def test_white_of_the_mask_is_protected_and_black_is_not():
    draw("a.png", (64, 64))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save("mask.png")
    words = "-img a.png --mask --mask_path mask.png --input_size 64 --steps 1"
    assert mist("protect", *words.split()) == 0
    moved = np.abs(levels_of("outputs/images/misted_sample_16_1_64_1_2_1_1_0.png") - levels_of("a.png"))
    assert moved[:, 32:].max() == 0 < moved[:, :32].max()


@pytest.mark.parametrize(
    "words, said",
    [
        ("a.png --out out --epsilon 8", "do not mix"),
        ("--input_dir_path in --strength 8", "--strength"),
        ("-img a.png --preset gentle", "--preset"),
        ("--input_dir_path in --mask", "one picture"),
        ("--input_dir_path a.png", "not a folder"),
        ("-img a.png --block_num 0", "--block_num"),
        ("-img a.png --epsilon 300", "strength"),
        ("-img a.png --mode 3", "--mode"),
        ("-img a.png --output_name ../../x", "leads out"),
        ("-img a.png --output_name /x", "leads out"),
        ("--input_dir_path in --output_dir ../../x", "leads out"),
        ("-img a.png --input_size 99999999", "--input_size"),
        ("-img a.png --block_num 9999", "--block_num"),
        ("-img a.png --mask --mask_path nowhere.png", "nowhere.png"),
        ("-img a.png --threads 0", "--threads"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, said, capsys):
    draw("a.png"), draw("in/a.png")
    before = files()
    assert mist("protect", *words.split()) == 1
    assert said in capsys.readouterr().err
    assert files() == before


def test_shared_flags_go_with_both(capsys):
    draw("a.png", (64, 64))
    words = "-img a.png --input_size 64 --steps 1 --seed 4 --gradient sds --low-vram --report r.json --threads 1"
    assert mist("protect", *words.split()) == 0
    settings = json.loads(Path("r.json").read_text("utf-8"))[0]["report"]["settings"]
    assert (settings["seed"], settings["gradient"], settings["low_vram"]) == (4, "sds", True)


def test_what_is_passed_over_is_told(capsys):
    draw("in/a.png", (32, 32)), draw("in/a.mask.png")
    Path("in/b.psd").write_bytes(b"8BPS")
    assert mist("protect", "--input_dir_path", "in", "--input_size", 64, "--steps", 1) == 3
    assert files("outputs/dirs") == ["vangogh_16_1_64_1_2_1_0_0/a.png"]
    said = capsys.readouterr().err
    assert "2 file(s)" in said and "in/b.psd: " in said and "in/a.mask.png: not used" in said


def test_a_thin_picture_does_not_become_enormous(capsys):
    draw("a.png", (9000, 3))
    assert mist("protect", "-img", "a.png", "--non_resize", "--steps", 1) == 1
    assert "choose fewer" in capsys.readouterr().err
