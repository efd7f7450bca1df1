import errno
import json
import os
import pickle
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, features
from skimage.color import lab2rgb

from mist_attack.errors import OutputError, PictureError
from mist_attack.pictures import metadata
from mist_attack.pictures.metadata.xmp import with_missing
from mist_attack.pictures.reading import (
    PICTURE_SUFFIXES,
    UNREAD,
    Metadata,
    from_u8,
    read_mask,
    read_picture,
    read_target,
    require_readable,
    to_u8,
)
from mist_attack.pictures.writing import atomic_write, write_picture, write_text

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = with_missing(b"", {"dc:creator": ["Ren\xe9"], "tiff:Orientation": ["1"]})
DESCRIPTION, MAKE, ORIENTATION, COPYRIGHT, EXIF_IFD, GPS_IFD = 270, 271, 274, 33432, 34665, 34853
DATE_TAKEN, LATITUDE = 36867, 1
WIDE = np.array([[0, 1, 127, 128, 129, 255, 256, 257, 0x80FF, 65534, 65535]], np.uint16)
LOSSLESS = [".png", ".tif", ".tiff", ".webp", ".bmp"]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(path, array, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def levels(path):
    return to_u8(read_picture(path).images)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, rows, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def described_exif(orientation=1, more=()):
    exif = Image.Exif()
    exif[DESCRIPTION], exif[MAKE], exif[COPYRIGHT], exif[ORIENTATION] = "a cat", "Mist", "Ann Artist", orientation
    exif[EXIF_IFD] = {DATE_TAKEN: "2024:05:06 07:08:09"}
    exif[GPS_IFD] = {LATITUDE: "N"}
    for tag, value in more:
        exif[tag] = value
    return exif.tobytes()


def assert_described(exif):
    assert (exif[DESCRIPTION], exif[MAKE], exif[COPYRIGHT], exif[ORIENTATION]) == ("a cat", "Mist", "Ann Artist", 1)
    assert exif.get_ifd(EXIF_IFD)[DATE_TAKEN] == "2024:05:06 07:08:09"
    assert exif.get_ifd(GPS_IFD)[LATITUDE] == "N"


def exif_of(picture):
    exif = Image.Exif()
    exif.load(picture.metadata.exif)
    return exif


# What each kind of file becomes


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp"])
def test_rgb_is_read_as_it_is(tmp_path, suffix):
    array = noise(7, 5, 3)
    picture = read_picture(str(saved(tmp_path / f"a{suffix}", array, lossless=True)))
    assert picture.images.shape == (1, 3, 7, 5)
    assert picture.images.dtype == torch.float32
    assert torch.equal(picture.images[0], torch.from_numpy(array).permute(2, 0, 1) / 255)
    assert (picture.alpha, picture.notices) == (None, ())
    assert picture.path == tmp_path / f"a{suffix}"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_no_metadata_is_made_up(tmp_path, suffix):
    assert read_picture(saved(tmp_path / f"a{suffix}", noise(7, 5, 3))).metadata == Metadata()


def test_pixels_are_exactly_k_over_255(tmp_path):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    pixels = read_picture(saved(tmp_path / "a.png", ramp)).images[0, 0, 0]
    assert pixels.tolist() == [float(np.float32(k) / np.float32(255)) for k in range(256)]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_rgba_keeps_alpha_and_hidden_colours(tmp_path, suffix):
    array = noise(6, 9, 4)
    array[:3, :, 3] = 0
    picture = read_picture(saved(tmp_path / f"a{suffix}", array, lossless=True, exact=True))
    assert np.array_equal(to_u8(picture.images), array[..., :3])
    assert np.array_equal(picture.alpha, array[..., 3])
    assert picture.alpha.dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_is_copied_to_three_channels_with_a_notice(tmp_path, mode):
    image = Image.fromarray(noise(5, 4)).convert(mode)
    if mode == "LA":
        image.putalpha(Image.fromarray(noise(5, 4, seed=1)))
    picture = read_picture(saved(tmp_path / "a.png", image))
    grey = np.array(image.convert("L"))
    assert np.array_equal(to_u8(picture.images), np.dstack([grey] * 3))
    assert picture.notices == ("grey is saved as RGB, since the perturbation is coloured",)
    assert (picture.alpha is None) == (mode != "LA")
    if mode == "LA":
        assert np.array_equal(picture.alpha, noise(5, 4, seed=1))


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_palette_becomes_rgb(tmp_path, suffix):
    image = Image.fromarray(noise(8, 8, 3)).quantize(16)
    picture = read_picture(saved(tmp_path / f"a{suffix}", image))
    assert np.array_equal(to_u8(picture.images), np.array(image.convert("RGB")))
    assert picture.alpha is None
    assert picture.notices == ("palette colours are saved as RGB, since the perturbation has more of them",)


@pytest.mark.parametrize(("suffix", "transparency"), [(".png", 3), (".png", bytes(range(16))), (".gif", 3)])
def test_palette_transparency_becomes_alpha(tmp_path, suffix, transparency):
    indices = np.arange(16, dtype=np.uint8).reshape(4, 4)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(noise(16, 3, seed=2).tobytes())
    picture = read_picture(saved(tmp_path / f"a{suffix}", image, transparency=transparency))
    expected = indices if isinstance(transparency, bytes) else np.where(indices == 3, 0, 255)
    assert np.array_equal(picture.alpha, expected)


@pytest.mark.parametrize(("colour_type", "key", "channels"), [(0, "H", 1), (2, "HHH", 3)])
def test_a_transparent_colour_becomes_alpha(tmp_path, colour_type, key, channels):
    row = b"\0" + bytes(np.repeat(np.arange(4), channels).astype(np.uint8))
    extra = chunk(b"tRNS", struct.pack(f">{key}", *[2] * channels))
    (tmp_path / "a.png").write_bytes(png(4, 1, 8, colour_type, row, extra))
    assert read_picture(tmp_path / "a.png").alpha.tolist() == [[255, 255, 0, 255]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_tiff_is_rounded(tmp_path, order):
    tifffile.imwrite(tmp_path / "a.tif", WIDE, byteorder=order)
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(to_u8(picture.images)[..., 1], np.rint(WIDE / 257))
    assert "16-bit grey was rounded to 8 bits" in picture.notices


def test_16_bit_grey_png_is_rounded_and_its_transparent_value_found(tmp_path):
    extra = chunk(b"tRNS", struct.pack(">H", 129))
    (tmp_path / "a.png").write_bytes(png(11, 1, 16, 0, b"\0" + WIDE.astype(">u2").tobytes(), extra))
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(to_u8(picture.images)[..., 2], np.rint(WIDE / 257))
    assert np.array_equal(picture.alpha, np.where(WIDE == 129, 0, 255))


def test_int32_grey_in_the_16_bit_range_is_read_as_such(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", WIDE.astype(np.int32))
    assert np.array_equal(levels(tmp_path / "a.tif")[..., 0], np.rint(WIDE / 257))


def test_every_16_bit_value_is_rounded_to_the_nearest(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert np.array_equal(levels(tmp_path / "a.tif")[..., 0], np.rint(values / 257))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_is_read_and_turned(tmp_path, compression):
    array = noise(4, 7, 3)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "a.tif", array, compression=compression, exif=exif)
    assert np.array_equal(levels(path), turned(array, 6))


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_16_bit_colour_png_is_cut_by_pillow_and_said_so(tmp_path, colour_type):
    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    rows = b"\0" + np.repeat(WIDE[0, :, None], channels, 1).astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(11, 1, 16, colour_type, rows))
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(to_u8(picture.images)[..., 0], WIDE >> 8)
    assert picture.notices == ("16 bits per channel were cut to 8 (the low byte is dropped)",)


def test_16_bit_colour_tiff_is_cut_by_pillow_and_said_so(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([WIDE] * 3), photometric="rgb")
    picture = read_picture(tmp_path / "a.tif")
    assert np.array_equal(to_u8(picture.images)[..., 0], WIDE >> 8)
    assert picture.notices == ("16 bits per channel were cut to 8 (the low byte is dropped)",)


def test_16_bit_planes_which_pillow_garbles_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([WIDE] * 3), photometric="rgb", planarconfig="separate")
    with pytest.raises(PictureError, match="found planes; save it as 8-bit PNG"):
        read_picture(tmp_path / "a.tif")


def test_8_bit_planes_are_read(tmp_path):
    array = noise(3, 5, 4)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate")
    assert np.array_equal(levels(tmp_path / "a.tif"), np.moveaxis(array, 0, -1))


def test_the_transparent_colour_of_16_bit_rgb_is_dropped_not_guessed(tmp_path):
    extra = chunk(b"tRNS", struct.pack(">HHH", 1, 1, 1))
    values = np.array([[0x0101] * 3, [1] * 3], ">u2")
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, b"\0" + values.tobytes(), extra))
    picture = read_picture(tmp_path / "a.png")
    assert picture.alpha is None
    assert any("transparent colour was dropped" in notice for notice in picture.notices)


@pytest.mark.parametrize("array", [WIDE / np.float32(65535), WIDE.astype(np.int32) + 1, WIDE.astype(np.int32) - 1])
def test_float_and_32_bit_values_are_refused(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(PictureError, match="PNG"):
        read_picture(tmp_path / "a.tif")


def test_lab_is_refused(tmp_path):
    with pytest.raises(PictureError, match="found LAB; save it as RGB PNG"):
        read_picture(saved(tmp_path / "a.tif", Image.new("LAB", (3, 3))))


def test_ycbcr_is_converted(tmp_path):
    image = Image.fromarray(noise(4, 4, 3)).convert("YCbCr")
    picture = read_picture(saved(tmp_path / "a.tif", image))
    assert np.array_equal(to_u8(picture.images), np.array(image.convert("RGB")))
    assert picture.notices == ("YCbCr was converted to RGB",)


# CMYK, by a profile that is made here: 2 x 2 x 2 x 2 inks to Lab, all black but for the perceptual intent


def cmyk_profile():
    identity = bytes(range(256))
    corners = [lab_of_ink(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    clut = bytes(v for lightness, a, b in corners for v in (round(lightness * 2.55), a + 128, b + 128))
    matrix = struct.pack(">9i", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + clut + identity * 3
    lut += bytes(-len(lut) % 4)
    black = lut.replace(clut, bytes(len(clut)))
    tables = [(b"A2B0", 168, lut), (b"A2B1", 168 + len(lut), black), (b"A2B2", 168 + len(lut), black)]
    tags = struct.pack(">I", 3) + b"".join(name + struct.pack(">II", at, len(lut)) for name, at, _ in tables)
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    header = struct.pack(">I4sI4s4s4s", 168 + 2 * len(lut), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + illuminant + bytes(48)
    return header + tags + lut + black


def lab_of_ink(c, m, y, k):
    return (0, 0, 0) if k else (100 - 40 * c - 40 * m - 10 * y, 40 * m - 30 * c, 60 * y - 40 * c)


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 0, 255)])
def test_cmyk_goes_through_its_profile(tmp_path, ink):
    path = saved(tmp_path / "a.tif", Image.new("CMYK", (3, 2), ink), icc_profile=cmyk_profile())
    picture = read_picture(path)
    lab = lab_of_ink(*(round(v / 255) for v in ink))
    expected = 255 * lab2rgb(np.array([[lab]], float))[0, 0]
    assert np.abs(to_u8(picture.images)[0, 0] - expected).max() < 12  # Pillow's own `convert` is 40 off
    assert picture.metadata.icc_profile is None
    assert picture.notices == ("CMYK was converted to sRGB through its colour profile, which is dropped",)


@pytest.mark.parametrize(("profile", "message"), [(None, "without a colour"), (b"x" * 200, "cannot be used")])
def test_cmyk_without_a_usable_profile_is_refused(tmp_path, profile, message):
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (9, 9, 9, 9)), icc_profile=profile)
    with pytest.raises(PictureError, match=message):
        read_picture(path)


def test_an_rgb_profile_is_kept_and_colours_are_not_converted(tmp_path):
    array = noise(5, 5, 3)
    picture = read_picture(saved(tmp_path / "a.png", array, icc_profile=SRGB))
    assert picture.metadata.icc_profile == SRGB
    assert np.array_equal(to_u8(picture.images), array)


@pytest.mark.parametrize("space", ["GRAY", "CMYK"])
def test_a_profile_that_is_not_rgb_is_dropped(tmp_path, space):
    profile = SRGB[:16] + space.encode() + SRGB[20:]
    picture = read_picture(saved(tmp_path / "a.png", noise(5, 5, 3), icc_profile=profile))
    assert picture.metadata.icc_profile is None
    assert f"the colour profile was dropped: it is for {space}, and the result is RGB" in picture.notices


# Orientation


def turned(array, orientation):
    """EXIF 2.3, table 6: where row 0 and column 0 of the file are shown."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation](array)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_colours_and_alpha_and_reset(tmp_path, suffix, orientation):
    array = noise(4, 7, 4)
    exif = described_exif(orientation)
    path = saved(tmp_path / f"a{suffix}", array, exif=exif, lossless=True, exact=True)
    picture = read_picture(path)
    assert np.array_equal(np.dstack([to_u8(picture.images), picture.alpha]), turned(array, orientation))
    write_picture(tmp_path / "b.png", picture.images, picture)
    assert_described(Image.open(tmp_path / "b.png").getexif())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_to_png_keeps_all_that_it_can(tmp_path, orientation):
    source = saved(
        tmp_path / "a.jpg", noise(16, 24, 3), exif=described_exif(orientation), icc_profile=SRGB, dpi=(300, 300)
    )
    picture = read_picture(source)
    assert write_picture(tmp_path / "b.png", picture.images, picture) == ()
    result = Image.open(tmp_path / "b.png")
    expected = ImageOps.exif_transpose(Image.open(source))
    assert np.array_equal(np.array(result), np.array(expected))
    assert_described(result.getexif())
    assert result.info["icc_profile"] == SRGB
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_a_tiff_is_not_turned_twice_where_pillow_leaves_its_tag():
    image = Image.new("RGB", (2, 2))
    image.format, image.getexif()[ORIENTATION] = "TIFF", 6
    _, orientation = metadata.exif_of(image, [])
    assert orientation == 1


def test_16_bit_grey_is_turned_too(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 257
    image = Image.fromarray(values)
    picture = read_picture(saved(tmp_path / "a.png", image, exif=described_exif(6)))
    assert np.array_equal(to_u8(picture.images)[..., 0], np.rot90(values // 257, -1))


@pytest.mark.parametrize(
    "form",
    [
        "<rdf:Description tiff:Orientation='6'/>",
        "<rdf:Description><tiff:Orientation>6</tiff:Orientation></rdf:Description>",
    ],
)
def test_the_orientation_in_xmp_is_reset(tmp_path, form):
    info = PngImagePlugin.PngInfo()
    namespaces = "xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns:tiff='http://ns.adobe.com/tiff/1.0/'"
    info.add_itxt("XML:com.adobe.xmp", f"<rdf:RDF {namespaces}>{form}</rdf:RDF>")
    picture = read_picture(saved(tmp_path / "a.png", noise(4, 6, 3), pnginfo=info, exif=described_exif(6)))
    assert picture.images.shape == (1, 3, 6, 4)
    assert picture.metadata.xmp == with_missing(b"", {"tiff:Orientation": ["1"]})


def test_damaged_exif_is_dropped_with_a_notice(tmp_path):
    picture = read_picture(saved(tmp_path / "a.png", noise(4, 6, 3), exif=b"Exif\0\0not a TIFF header"))
    assert picture.metadata.exif == b""
    assert any("EXIF data is damaged" in notice for notice in picture.notices)


def test_orientation_is_applied_though_the_exif_cannot_be_kept(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(4, 6, 3), exif=described_exif(6))
    monkeypatch.setattr(Image.Exif, "tobytes", lambda *_: 1 / 0)
    picture = read_picture(path)
    assert picture.images.shape == (1, 3, 6, 4)
    assert picture.metadata.exif == b""


# Metadata


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_metadata_survives_reading_and_writing(tmp_path, suffix):
    options = {"exif": described_exif(), "icc_profile": SRGB, "dpi": (300, 300)}
    if suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP)
    elif suffix == ".tif":
        options["exif"] = described_exif(more=[(700, XMP)])
    picture = read_picture(saved(tmp_path / f"a{suffix}", noise(8, 8, 3), lossless=True, xmp=XMP, **options))
    lost = write_picture(tmp_path / f"b{suffix}", picture.images, picture)
    again = read_picture(tmp_path / f"b{suffix}")
    assert lost == ()
    assert again.metadata == picture.metadata
    assert_described(exif_of(again))
    assert (again.metadata.icc_profile, again.metadata.xmp, again.metadata.text) == (SRGB, XMP, {})
    if suffix != ".webp":
        assert again.metadata.dpi == pytest.approx((300, 300), abs=0.01)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
def test_dpi_is_written(tmp_path, suffix):
    picture = read_picture(saved(tmp_path / "source.png", noise(8, 8, 3), dpi=(300, 150)))
    write_picture(tmp_path / f"a{suffix}", picture.images, picture, lossy_quality=95)
    assert Image.open(tmp_path / f"a{suffix}").info["dpi"] == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("target", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("source", [".png", ".tif", ".webp", ".jpg"])
def test_metadata_goes_from_any_format_to_any(tmp_path, source, target):
    first = read_picture(saved(tmp_path / "x.png", noise(8, 8, 3), exif=described_exif(), icc_profile=SRGB))
    write_picture(tmp_path / f"a{source}", first.images, first, lossy_quality=95)
    picture = read_picture(tmp_path / f"a{source}")
    write_picture(tmp_path / f"b{target}", picture.images, picture, lossy_quality=95)
    again = read_picture(tmp_path / f"b{target}")
    assert_described(exif_of(again))
    assert again.metadata.icc_profile == SRGB
    if target != ".jpg":
        assert torch.equal(again.images, picture.images)


def test_exif_holds_nothing_of_how_the_source_stored_its_pixels(tmp_path):
    exif = described_exif(more=[(700, XMP), (34377, b"8BIM preview"), (37724, b"Photoshop layers"), (513, 8)])
    picture = read_picture(saved(tmp_path / "a.tif", noise(64, 64, 3), exif=exif, icc_profile=SRGB))
    assert set(exif_of(picture)) == {DESCRIPTION, MAKE, ORIENTATION, COPYRIGHT, EXIF_IFD, GPS_IFD}


def test_exif_of_a_bigtiff_is_plain(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 4, 3), bigtiff=True, photometric="rgb", description="a cat")
    exif = read_picture(tmp_path / "a.tif").metadata.exif
    assert exif[6:10] in {b"II*\0", b"MM\0*"}


def test_the_thumbnail_is_not_carried_on(tmp_path):
    ifd0 = struct.pack("<H HHI4s I", 1, MAKE, 2, 4, b"Mis\0", 26)
    ifd1 = struct.pack("<H HHII HHII I", 2, 513, 4, 1, 56, 514, 4, 1, 9, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd0 + ifd1 + b"THUMBNAIL"
    path = saved(tmp_path / "a.jpg", noise(8, 8, 3), exif=exif)
    assert b"THUMBNAIL" in path.read_bytes()
    metadata = read_picture(path).metadata
    assert b"Mis\0" in metadata.exif
    assert b"THUMBNAIL" not in metadata.exif


def test_png_text_chunks_survive_with_their_language(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "caf\xe9")
    info.add_text("Long", "z" * 500, zip=True)
    info.add_itxt("Comment", "\u732b", lang="ja", tkey="\u984c")
    picture = read_picture(saved(tmp_path / "a.png", noise(4, 4, 3), pnginfo=info))
    write_picture(tmp_path / "b.png", picture.images, picture)
    text = Image.open(tmp_path / "b.png").text
    assert text == {"Title": "caf\xe9", "Long": "z" * 500, "Comment": "\u732b"}
    assert (text["Comment"].lang, text["Comment"].tkey) == ("ja", "\u984c")


def test_text_is_added_and_written_as_itxt_where_needed(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "old")
    picture = read_picture(saved(tmp_path / "a.png", noise(4, 4, 3), pnginfo=info))
    write_picture(tmp_path / "b.png", picture.images, picture, text={"Mist": '{"prompt": "\u732b"}', "Title": "new"})
    assert Image.open(tmp_path / "b.png").text == {"Title": "new", "Mist": '{"prompt": "\u732b"}'}
    assert b"iTXtMist" in (tmp_path / "b.png").read_bytes()
    assert b"tEXtTitle" in (tmp_path / "b.png").read_bytes()


def test_xmp_is_found_where_older_pillows_keep_it():
    image = Image.new("RGB", (2, 2))
    assert metadata.xmp_of(image) == b""
    image.applist = [("APP1", b"Exif\0\0"), ("APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP)]
    assert metadata.xmp_of(image) == XMP
    image.tag_v2 = {700: XMP + b"tiff"}
    assert metadata.xmp_of(image) == XMP + b"tiff"
    image.info["XML:com.adobe.xmp"] = XMP.decode()
    assert metadata.xmp_of(image) == XMP


def test_jpeg_xmp_is_kept(tmp_path):
    picture = read_picture(saved(tmp_path / "a.webp", noise(8, 8, 3), xmp=XMP))
    lost = write_picture(tmp_path / "b.jpg", picture.images, picture, lossy_quality=90)
    assert (read_picture(tmp_path / "b.jpg").metadata.xmp == XMP) == (lost == ())


@pytest.mark.parametrize("dpi", [(0, 300), (float("nan"), 300), (300,), "300", None, (1e9, 300), (300, -1), (300, 1e9)])
def test_a_senseless_dpi_is_ignored(dpi):
    image = Image.new("RGB", (2, 2))
    image.info["dpi"] = dpi
    assert metadata.dpi_of(image) is None


def test_what_the_format_cannot_hold_is_said(tmp_path):
    picture = read_picture(saved(tmp_path / "a.png", noise(4, 4, 3), exif=described_exif(), icc_profile=SRGB))
    lost = write_picture(tmp_path / "b.bmp", picture.images, picture)
    assert lost == ("not kept, as BMP cannot hold it: icc_profile, exif",)


def test_a_picture_can_be_sent_to_another_process(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", "\u732b", lang="ja")
    picture = read_picture(saved(tmp_path / "a.png", noise(4, 4, 4), pnginfo=info, icc_profile=SRGB))
    again = pickle.loads(pickle.dumps(picture))
    assert again.metadata == picture.metadata
    assert again.metadata.text["Comment"].lang == "ja"


# Bad input


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("missing.png", None, "there is no such file"),
        ("empty.png", b"", "found an empty file"),
        (
            "text.png",
            b"hello, this is no picture at all",
            "expected a picture .*, found something else; save it",
        ),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "found something else"),
        ("flat.png", png(0, 4, 8, 2, b""), "flat.png"),
        ("thin.png", png(4, 0, 8, 2, b""), "thin.png"),
        ("nul\0.png", None, "cannot be opened"),
    ],
)
def test_a_file_that_is_no_picture(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / name)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(PictureError, match="found a folder"):
        read_picture(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(PictureError, match="found a device or pipe"):
        read_picture(tmp_path / "a.png")


def test_a_file_without_permission(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(4, 4, 3))

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match=r"Permission denied.*check that you may read it"):
        read_picture(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_a_truncated_file(tmp_path, suffix, part):
    data = saved(tmp_path / f"whole{suffix}", noise(64, 64, 3)).read_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(PictureError, match=f"a{suffix}"):
        read_picture(path)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_several_frames_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(2)]
    path = saved(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match="found several frames or pages; save the one you want alone"):
        read_picture(path)


def test_the_first_picture_of_an_mpo_is_used(tmp_path):
    frames = [Image.fromarray(noise(16, 16, 3, seed=seed)) for seed in range(2)]
    path = saved(tmp_path / "a.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:])
    picture = read_picture(path)
    alone = levels(saved(tmp_path / "b.jpg", frames[0]))
    assert np.array_equal(to_u8(picture.images), alone)
    assert any("first one is used" in notice for notice in picture.notices)


@pytest.mark.parametrize("side", [8193, 12000, 20000])
@pytest.mark.parametrize("strict", [False, True])
def test_a_bomb_is_refused_before_decoding(tmp_path, monkeypatch, side, strict):
    path = tmp_path / "a.png"
    path.write_bytes(png(side, side, 8, 2, b""))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        with pytest.raises(PictureError, match="reduce it first"):
            read_picture(path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_our_limit_holds_where_a_host_has_lifted_pillows(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(8193, 8192, 8, 2, b""))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(PictureError, match="expected at most 67108864 pixels, found 8193 x 8192"):
        read_picture(tmp_path / "a.png")


def test_suffixes_are_those_of_readable_pictures():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"} <= PICTURE_SUFFIXES
    assert all(suffix == suffix.lower() for suffix in PICTURE_SUFFIXES)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    picture = read_picture(saved(tmp_path / "a.avif", noise(16, 16, 4), exif=described_exif(6)))
    assert picture.images.shape == (1, 3, 16, 16)
    assert_described(exif_of(picture))


# Masks and targets


def test_a_mask_keeps_soft_values(tmp_path):
    array = noise(5, 6)
    mask, notices = read_mask(saved(tmp_path / "m.png", array), 5, 6)
    assert torch.equal(mask, torch.from_numpy(array)[None, None] / 255)
    assert notices == ()


def test_what_is_transparent_in_a_mask_may_not_change(tmp_path):
    array = np.dstack([np.full((2, 3, 3), 255, np.uint8), np.array([[0, 51, 255]] * 2, np.uint8)])
    mask, _ = read_mask(saved(tmp_path / "m.png", array), 2, 3)
    assert mask[0, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


def test_a_coloured_mask_counts_by_its_luminance(tmp_path):
    array = noise(4, 4, 3)
    mask, _ = read_mask(saved(tmp_path / "m.png", array), 4, 4)
    assert np.abs(mask[0, 0].numpy() * 255 - array @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_a_mask_of_another_size_is_stretched(tmp_path):
    array = np.zeros((8, 16), np.uint8)
    array[:, 8:] = 255
    mask, notices = read_mask(saved(tmp_path / "m.png", array), 4, 4)
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0, 0, 0] == 0
    assert mask[0, 0, 3, 3] == 1
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert notices == ("the mask was stretched from 16 x 8 to 4 x 4 pixels",)


def test_a_mask_is_reduced_without_aliasing(tmp_path):
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::4] = 255
    mask, _ = read_mask(saved(tmp_path / "m.png", stripes), 32, 4)
    assert mask[..., 1:-1].numpy() == pytest.approx(0.25, abs=0.05)


def test_a_black_mask_is_said_to_change_nothing(tmp_path):
    mask, notices = read_mask(saved(tmp_path / "m.png", np.zeros((3, 3), np.uint8)), 3, 3)
    assert not mask.any()
    assert notices == ("the mask is all black: nothing will change (white is what may change)",)


def test_a_target_is_its_rgb(tmp_path):
    array = noise(5, 4, 4)
    target = read_target(saved(tmp_path / "t.png", array))
    assert torch.equal(target, from_u8(array[..., :3]))


# Pixels


def test_rounding_never_truncates():
    values = torch.tensor([0.0, 0.49, 0.51, 1.49, 1.51, 254.51, 255.0]) / 255
    images = values.expand(1, 3, 1, 7)
    assert to_u8(images)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 255, 255]


def test_pixels_out_of_range_are_clipped():
    images = torch.tensor([-0.1, 1.1]).expand(1, 3, 1, 2)
    assert to_u8(images)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4), torch.zeros(1, 4, 4, 4)])
def test_to_u8_wants_one_rgb_picture(images):
    with pytest.raises(PictureError, match=r"expected one picture of shape \(1, 3, H, W\)"):
        to_u8(images)


def test_pixels_that_are_not_finite_are_refused():
    with pytest.raises(PictureError, match="not finite"):
        to_u8(torch.full((1, 3, 2, 2), float("nan")))


# Writing


@settings(max_examples=60)
@given(
    array=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([3, 4])).flatmap(
        lambda shape: hnp.arrays(np.uint8, shape)
    ),
    suffix=st.sampled_from([".png", ".tif", ".webp", ".bmp"]),
)
def test_what_is_written_is_read_again(array, suffix):
    if suffix == ".bmp":
        array = array[..., :3]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.png")
        picture = read_picture(saved(source, array))
        write_picture(Path(folder, f"result{suffix}"), picture.images, picture)
        again = read_picture(Path(folder, f"result{suffix}"))
    assert torch.equal(again.images, picture.images)
    assert np.array_equal(to_u8(again.images), array[..., :3])
    assert (again.alpha is None) == (picture.alpha is None)
    assert again.alpha is None or np.array_equal(again.alpha, array[..., 3])


@pytest.fixture
def picture(tmp_path):
    return read_picture(saved(tmp_path / "source.png", noise(6, 6, 3), exif=described_exif(), icc_profile=SRGB))


@pytest.fixture
def clear_picture(tmp_path):
    return read_picture(saved(tmp_path / "clear.png", noise(6, 6, 4)))


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_the_same_input_gives_the_same_bytes(tmp_path, picture, suffix):
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}{suffix}", picture.images, picture, text={"Mist": "{}"})
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_colours_under_full_transparency_are_written(tmp_path, suffix):
    array = noise(6, 6, 4)
    array[:3, :, 3] = 0
    picture = read_picture(saved(tmp_path / "clear.png", array))
    write_picture(tmp_path / f"a{suffix}", picture.images, picture)
    assert np.array_equal(levels(tmp_path / f"a{suffix}"), array[..., :3])


@pytest.mark.parametrize(("fmt", "found"), [("png", "PNG"), ("TIF", "TIFF"), ("webp", "WEBP"), ("bmp", "BMP")])
def test_fmt_goes_before_the_suffix(tmp_path, picture, fmt, found):
    write_picture(tmp_path / "a.jpg", picture.images, picture, fmt=fmt)
    assert Image.open(tmp_path / "a.jpg").format == found


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg_needs_leave(tmp_path, picture, suffix):
    with pytest.raises(OutputError, match=r"use \.png, or allow lossy output"):
        write_picture(tmp_path / f"a{suffix}", picture.images, picture)
    write_picture(tmp_path / f"a{suffix}", picture.images, picture, lossy_quality=95)
    assert Image.open(tmp_path / f"a{suffix}").format == "JPEG"


def test_jpeg_keeps_full_colour_resolution_and_its_quality(tmp_path, picture):
    for quality in (30, 95):
        write_picture(tmp_path / f"{quality}.jpg", picture.images, picture, lossy_quality=quality)
    image = Image.open(tmp_path / "95.jpg")
    assert {layer[1:3] for layer in image.layer} == {(1, 1)}
    assert image.quantization[0] < Image.open(tmp_path / "30.jpg").quantization[0]


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_jpeg_quality_is_checked(tmp_path, picture, quality):
    with pytest.raises(OutputError, match=f"from 1 to 100, got {quality}"):
        write_picture(tmp_path / "a.jpg", picture.images, picture, lossy_quality=quality)


@pytest.mark.parametrize("name", ["a.jpg", "a.bmp"])
def test_alpha_is_not_lost_in_silence(tmp_path, clear_picture, name):
    with pytest.raises(OutputError, match=r"cannot hold the picture's alpha; use \.png"):
        write_picture(tmp_path / name, clear_picture.images, clear_picture, lossy_quality=90)


def test_alpha_of_another_size_is_refused(tmp_path, clear_picture):
    with pytest.raises(OutputError, match="expected the alpha's size"):
        write_picture(tmp_path / "a.png", torch.zeros(1, 3, 5, 6), clear_picture)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.psd"])
def test_other_formats_are_refused(tmp_path, picture, name):
    with pytest.raises(OutputError, match=r"expected one of \.png, .*; use \.png"):
        write_picture(tmp_path / name, picture.images, picture)


def test_what_the_encoder_refuses_is_an_output_error(tmp_path, picture):
    wide = torch.zeros(1, 3, 1, 16384)
    with pytest.raises(OutputError, match="cannot be written as WEBP"):
        write_picture(tmp_path / "a.webp", wide, picture)
    assert not (tmp_path / "a.webp").exists()


def test_text_that_cannot_be_encoded_is_an_output_error(tmp_path, picture):
    with pytest.raises(OutputError, match="cannot be written as PNG"):
        write_picture(tmp_path / "a.png", picture.images, picture, text={"Mist": "\udcff"})


def test_the_source_is_never_overwritten(tmp_path, picture):
    before = picture.path.read_bytes()
    (tmp_path / "link.png").symlink_to(picture.path)
    (tmp_path / "hard.png").hardlink_to(picture.path)
    (tmp_path / "folder").mkdir()
    for name in ("source.png", "link.png", "hard.png", "folder/../source.png"):
        with pytest.raises(OutputError, match="is the source picture, which is never overwritten"):
            write_picture(tmp_path / name, 1 - picture.images, picture)
    picture.path.rename(tmp_path / "moved.png")
    with pytest.raises(OutputError, match="never overwritten"):
        write_picture(tmp_path / "folder" / ".." / "source.png", picture.images, picture)
    assert (tmp_path / "moved.png").read_bytes() == before


def test_the_source_is_known_when_it_was_read_through_a_link(tmp_path, picture):
    (tmp_path / "link.png").symlink_to(picture.path)
    linked = read_picture(tmp_path / "link.png")
    with pytest.raises(OutputError, match="never overwritten"):
        write_picture(picture.path, linked.images, linked)


# Whole or not at all


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_what_is_no_ordinary_file_is_not_replaced(tmp_path):
    """As root, a rename would put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="no ordinary file"):
        atomic_write(pipe, lambda file: file.write(b"x"))
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_missing_folders_are_made(tmp_path):
    atomic_write(tmp_path / "new" / "deep" / "a.bin", lambda file: file.write(b"x"))
    assert (tmp_path / "new" / "deep" / "a.bin").read_bytes() == b"x"
    assert names(tmp_path / "new" / "deep") == ["a.bin"]


def test_an_older_file_is_replaced_and_may_be_read_by_others(tmp_path):
    write_text(tmp_path / "a.json", "old")
    write_text(tmp_path / "a.json", "caf\xe9\n")
    assert (tmp_path / "a.json").read_bytes() == b"caf\xc3\xa9\n"
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_report_names_files_that_are_not_text(tmp_path):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_text(tmp_path / "a.json", json.dumps(name, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == name


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_a_writer_that_fails(tmp_path, raised):
    def fails(file):
        file.write(b"half")
        (temporary,) = set(names(tmp_path)) - {"a.bin"}
        assert temporary.startswith(".a.bin.")
        assert temporary.endswith(".tmp")
        raise raised

    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(raised):
        atomic_write(tmp_path / "a.bin", fails)
    assert names(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "No space left on device.*; free some space"), (errno.EACCES, "a folder you may write to")],
)
def test_what_the_system_refuses_is_an_output_error(tmp_path, monkeypatch, picture, owner, call, code, message):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(OutputError, match=message):
        write_picture(tmp_path / "a.png", picture.images, picture)
    assert names(tmp_path) == ["a.png", "source.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda number: order.append(os.fstat(number).st_size))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    atomic_write(tmp_path / "a.bin", lambda file: file.write(b"12345"))
    assert order == [5, "replace"]


def test_a_folder_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "a.json", "{}")
    assert names(tmp_path) == ["a.json"]


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "file" / "a.json", "{}")


def test_a_read_only_folder_is_an_output_error(tmp_path, picture):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write into a read-only folder")
    with pytest.raises(OutputError, match="choose another name, or a folder you may write to"):
        write_picture(folder / "a.png", picture.images, picture)


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path):
    name = "\u732b" * 80 + ".png"
    atomic_write(tmp_path / name, lambda file: file.write(b"x"))
    assert names(tmp_path) == [name]


def test_a_failing_encoder_leaves_the_older_file(tmp_path, monkeypatch, picture):
    def half(_, buffer, *__, **___):
        buffer.write(b"half")
        raise OSError("encoder error -2")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OutputError, match="encoder error -2"):
        write_picture(tmp_path / "a.png", picture.images, picture)
    assert names(tmp_path) == ["a.png", "source.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_decoders_that_run_programs_are_never_called(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", lambda file, formats: opened.extend(formats) or Image.new("RGB", (1, 1)))
    read_picture(saved(tmp_path / "a.png", Image.new("RGB", (1, 1))))
    assert opened
    assert not {"EPS", "WMF", "PSD"} & set(opened)


def test_a_file_handle_is_not_left_open(tmp_path):
    path = saved(tmp_path / "a.tif", noise(4, 4, 3))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        read_picture(path)
    assert not [warning for warning in seen if warning.category is ResourceWarning]


def test_a_suffix_is_read_or_has_a_hint():
    assert not PICTURE_SUFFIXES & set(UNREAD)
    assert {".heic", ".jxl", ".avif"} <= PICTURE_SUFFIXES | set(UNREAD)
    assert {".psd", ".dng", ".tga", ".jp2", ".cr2", ".nef"} <= set(UNREAD)
    assert all(suffix == suffix.lower() for suffix in UNREAD)


def test_a_header_tells_what_would_be_refused(tmp_path):
    require_readable(saved(tmp_path / "a.png", noise(4, 4, 3)))
    (tmp_path / "b.psd").write_bytes(b"8BPS")
    (tmp_path / "c.png").write_bytes(png(8193, 8192, 8, 2, b""))
    with pytest.raises(PictureError, match="export it as PNG"):
        require_readable(tmp_path / "b.psd")
    with pytest.raises(PictureError, match="reduce it first"):
        require_readable(tmp_path / "c.png")
