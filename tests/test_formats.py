"""HEIC and JPEG XL through their optional packages; without them it is said what to install."""

import io
import runpy
import sys

import numpy as np
import pytest
from hidden import PIXELS, PLUGINS, encoded
from PIL import Image

from mist_attack.errors import PictureError
from mist_attack.pictures import formats, reading
from mist_attack.pictures.metadata.boxes import jxl_size
from mist_attack.pictures.reading import read_picture, require_readable, to_u8

ORIENTATION, COPYRIGHT = 274, 33432
needs_plugins = pytest.mark.skipif(not PLUGINS, reason="needs pillow-heif and pillow-jxl-plugin")


def described(orientation=1):
    exif = Image.Exif()
    exif[ORIENTATION], exif[COPYRIGHT] = orientation, "(c) Ann"
    return exif.tobytes()


@pytest.mark.parametrize(
    ("suffix", "name"), [(".heic", "pillow_heif"), (".jxl", "pillow_jxl"), (".hif", "pillow_heif")]
)
def test_without_its_package_a_format_names_what_to_install(monkeypatch, suffix, name):
    monkeypatch.setitem(sys.modules, name, None)
    tables = runpy.run_path(formats.__file__)
    assert suffix not in tables["PICTURE_SUFFIXES"]
    assert tables["UNREAD"][suffix].startswith('needs the extra "formats": pip install "pillow-')


def test_a_file_that_is_not_read_is_refused_with_its_hint(tmp_path, monkeypatch):
    monkeypatch.setitem(reading.UNREAD, ".heic", 'needs the extra "formats"')
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypnone" + bytes(40))
    with pytest.raises(PictureError, match='found something else; needs the extra "formats"'):
        read_picture(tmp_path / "a.heic")


@pytest.mark.parametrize("suffix", [".dng", ".nef", ".cr2"])
def test_the_preview_in_a_raw_photograph_is_not_taken_for_it(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(encoded(".tif"))
    for read in (read_picture, require_readable):
        with pytest.raises(PictureError, match="a raw photograph: develop it"):
            read(tmp_path / f"a{suffix}")


@needs_plugins
@pytest.mark.parametrize("suffix", PLUGINS)
def test_the_formats_of_phones_are_read(suffix):
    options = {"lossless": True} if suffix == ".jxl" else {"quality": -1, "chroma": 444}
    data = encoded(suffix, exif=described(), **options)
    picture = read_picture(f"a{suffix}", data)
    assert np.abs(to_u8(picture.images).astype(int) - PIXELS).mean() < 4
    assert b"(c) Ann" in picture.metadata.exif
    assert suffix in reading.PICTURE_SUFFIXES


@needs_plugins
def test_a_heic_is_turned_once():
    data = encoded(".heic", np.tile(PIXELS, (1, 2, 1)), exif=described(6), quality=90)
    assert read_picture("a.heic", data).images.shape == (1, 3, 48, 24)


@needs_plugins
@pytest.mark.filterwarnings("ignore")
def test_a_jpeg_inside_of_a_jxl_is_turned_and_others_are_not(tmp_path):
    wide = np.tile(PIXELS, (1, 2, 1))
    assert read_picture("a.jxl", encoded(".jxl", wide, exif=described(6))).images.shape == (1, 3, 24, 48)
    Image.fromarray(wide).save(tmp_path / "a.jpg", exif=described(6))
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jxl")
    assert read_picture(tmp_path / "a.jxl").images.shape == (1, 3, 48, 24)


@needs_plugins
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (600, 1), (1, 9000), (1600, 900), (300, 200)])
@pytest.mark.parametrize("use_container", [True, False])
def test_a_jxl_is_measured_before_it_is_decoded(size, use_container):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JXL", use_container=use_container)
    assert jxl_size(file.getvalue()) == size


def test_a_jxl_that_is_too_large_is_refused_before_it_is_decoded():
    bits = 0 | 3 << 1 | (20000 - 1) << 3 | 1 << 33  # height in 30 bits, as wide as high
    header = b"\xff\x0a" + bits.to_bytes(14, "little")
    with pytest.raises(PictureError, match="found 20000 x 20000 pixels; reduce it first"):
        read_picture("a.jxl", header)


@needs_plugins
def test_of_several_pictures_in_a_heic_the_primary_one_is_used():
    file = io.BytesIO()
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    first.save(file, "HEIF", save_all=True, append_images=[second], primary_index=1, quality=90)
    picture = read_picture("a.heic", file.getvalue())
    assert picture.notices == ("the file holds several pictures (HEIF): the primary one is used",)
    assert to_u8(picture.images)[16, 16, 2] > 200


@needs_plugins
def test_more_than_eight_bits_of_a_heic_are_cut_and_said():
    file = io.BytesIO()
    import pillow_heif

    pillow_heif.from_bytes("RGB;16", (32, 32), bytes(32 * 32 * 6)).save(file, quality=90)
    assert "bits per channel were cut to 8" in read_picture("a.heic", file.getvalue()).notices[0]


@needs_plugins
def test_what_a_heic_says_of_its_colours_is_kept():
    file = io.BytesIO()
    nclx = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6, "full_range_flag": 1}
    Image.fromarray(PIXELS).save(file, "HEIF", **nclx)
    assert read_picture("a.heic", file.getvalue()).metadata.colour == {"cICP": bytes([12, 13, 0, 1])}
