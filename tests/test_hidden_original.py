"""Nothing of the unprotected picture in the result: a known JPEG, hidden in whatever a file can hold, is not found."""

from pathlib import Path

import pytest
from hidden import KNOWN, TEXTUAL, carriers, holds
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_attack.pictures.metadata.plain import NotKeptError, plain
from mist_attack.pictures.reading import read_picture
from mist_attack.pictures.writing import encode_picture

OUTPUTS = ["a.png", "a.tif", "a.webp", "a.jpg", "a.bmp"]
CARRIERS = list(carriers())


def results(name, data, turn):
    """The protected file in two formats; all of them have their turn."""
    picture = read_picture(name, data)
    for output in (OUTPUTS[turn % 5], OUTPUTS[(turn + 2) % 5]):
        yield encode_picture(Path(output), picture.images, picture, lossy_quality=95)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "suffix", "encodings", "make"), CARRIERS, ids=[name for name, *_ in CARRIERS])
def test_a_hidden_picture_is_not_in_the_result(name, suffix, encodings, make):
    sources = {kind: make(encode(KNOWN)) for kind, encode in encodings.items()}
    assert any(map(holds, sources.values())), "the search is blind here"
    for turn, (kind, source) in enumerate(sources.items()):
        assert not any(holds(result) for result in results(f"a{suffix}", source, turn)), kind


@settings(max_examples=100)
@given(
    data=st.binary(min_size=400, max_size=2000).filter(lambda data: len(set(data)) > 60),
    encode=st.sampled_from(list(TEXTUAL.values())),
    before=st.text(max_size=300),
    after=st.text(max_size=300),
)
def test_encoded_data_is_no_text_whatever_is_around_it(data, encode, before, after):
    with pytest.raises(NotKeptError):
        plain(f"{before} {encode(data).decode()} {after}", 10**6)


@settings(max_examples=100)
@given(data=st.binary(min_size=300, max_size=2000).filter(lambda data: len(set(data)) > 60))
def test_bytes_are_no_text_in_latin_1(data):
    with pytest.raises(NotKeptError):
        plain("a cat " + data.decode("latin-1"), 10**6)


WORDS = "A portrait of a cat in the style of Ann Artist, oil on canvas, 1998. (c) all rights reserved. "
PARAMETERS = (
    "masterpiece, (best quality:1.2), cat <lora:ink_v2:0.8>\nNegative prompt: low quality\nSteps: 20, Sampler: Euler, "
    'CFG scale: 7, Seed: 1234567890, Size: 512x512, Model hash: 6ce0161689, Lora hashes: "ink: '
    + "0123456789abcdef" * 4
    + ", style: "
    + "fedcba9876543210" * 4
    + '", Version: v1.10.1'
)
WORKFLOW = (
    '{"3":{"inputs":{"seed":156680208700286,"steps":20,"cfg":8.0,"sampler_name":"euler","model":["4",0]},'
    '"class_type":"KSampler"},"4":{"inputs":{"ckpt_name":"v1-5-pruned-emaonly.safetensors"}}}'
)
LINK = "https://example.org/gallery/2024/05/06/a-cat-that-sits-in-the-window-and-looks-at-the-garden?size=large&page=12"


@pytest.mark.parametrize(
    "text",
    [
        WORDS * 40,
        PARAMETERS,
        WORKFLOW * 20,
        LINK,
        "\n".join([LINK] * 12),
        "\u732b\u304c\u7a93\u8fba\u306b\u5ea7\u3063\u3066\u3044\u308b\u3002" * 60,
        "\u041a\u043e\u0442 \u043d\u0430 \u043e\u043a\u043d\u0435. " * 60,
        "\u0642\u0637\u0629 " * 100,
        "\U0001f408\u200d\u2b1b " * 60,
        "-" * 500,
        "=" * 79 + "\n" + WORDS,
        "0 0 1 0 1 1 0 " * 60,
        "7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069",
        "123e4567-e89b-12d3-a456-426614174000",
    ],
)
def test_what_people_write_is_text(text):
    assert plain(text, 10**6) == text


def test_text_has_a_limit():
    assert plain("cat" * 10, 30) == "cat" * 10
    with pytest.raises(NotKeptError, match="too long"):
        plain("cat" * 10, 29)


def test_control_characters_are_not_kept():
    assert plain("a\x07cat\r\n\tsits\0", 100) == "a cat\r\n\tsits"
