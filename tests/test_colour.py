"""What tells the colours of a picture goes on, or is converted by, or is said to be lost."""

import io
import struct

import numpy as np
import pytest
from hidden import chunk, encoded, png
from PIL import Image, ImageCms, features

from mist_attack.pictures import colour
from mist_attack.pictures.metadata.chunks import colours
from mist_attack.pictures.reading import read_picture, to_u8
from mist_attack.pictures.writing import encode_picture

D65 = (0.3127, 0.3290)
BT709 = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
LOSSLESS = ["a.png", "a.tif", "a.webp"]
FORMATS = {"a.tif": "TIFF", "a.webp": "WEBP", "a.jpg": "JPEG", "a.bmp": "BMP"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SAMPLES = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def gamma(value):
    return chunk(b"gAMA", struct.pack(">I", round(100000 / value)))


def primaries(values):
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in values)))


def cicp(*values):
    return chunk(b"cICP", bytes(values))


def written(source, name):
    """The file, and what was said to be lost."""
    picture = read_picture("a.png", source)
    return encode_picture(name, picture.images, picture, lossy_quality=95)


def profile_of(data):
    return Image.open(io.BytesIO(data)).info.get("icc_profile")


def seen(profile, levels=SAMPLES):
    """XYZ in D50 of what a viewer shows, by a colour engine that knows nothing of ours."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    lab = ImageCms.createProfile("LAB", 5000)
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return np.array(ImageCms.profileToProfile(Image.fromarray(levels), source, lab, intent, "LAB"))


def distance(lab, other):
    """The largest, in levels of 8 bits; a and b are signed."""
    return np.abs((lab - other).astype(np.int8).astype(int)).max()


def srgb_of(linear):
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("chunks", "names"),
    [
        ((gamma(1.8), primaries(P3)), {"gAMA", "cHRM"}),
        ((gamma(1.0),), {"gAMA"}),
        ((primaries(P3),), {"cHRM"}),
        ((cicp(12, 13, 0, 1),), {"cICP"}),
        ((cicp(9, 16, 0, 1),), {"cICP"}),
        ((chunk(b"sRGB", b"\0"),), {"sRGB"}),
    ],
)
def test_a_png_keeps_what_tells_its_colours(chunks, names):
    data, lost = written(png(*chunks), "a.png")
    assert (lost, profile_of(data)) == ((), None)
    assert colours(data) == colours(png(*chunks))
    assert set(colours(data)) == names


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.jpg"])
def test_gamma_becomes_a_profile_elsewhere(name):
    """A value v of gamma g means the light v ** g: sRGB's levels for that light look the same."""
    data, lost = written(png(gamma(1.8), primaries(BT709)), name)
    same = np.rint(255 * srgb_of((SAMPLES / 255) ** 1.8)).astype(np.uint8)
    assert lost == ()
    assert distance(seen(profile_of(data)), seen(SRGB, same)) <= 1


@pytest.mark.parametrize("source", [png(primaries(P3)), png(cicp(12, 13, 0, 1))])
@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.jpg"])
def test_display_p3_becomes_a_profile_elsewhere(source, name):
    """Mixed by the published matrix from P3 to sRGB, of colours that sRGB has too."""
    to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    levels = np.array([[[200, 150, 100], [100, 180, 120], [90, 120, 160], [128, 128, 128], [255, 255, 255]]], np.uint8)
    linear = np.where(levels / 255 <= 0.04045, levels / 255 / 12.92, ((levels / 255 + 0.055) / 1.055) ** 2.4)
    same = np.rint(255 * np.clip(srgb_of(linear @ to_srgb.T), 0, 1)).astype(np.uint8)
    data, lost = written(source, name)
    assert lost == ()
    assert distance(seen(profile_of(data), levels), seen(SRGB, same)) <= 2


def test_srgb_needs_no_profile():
    for chunks in ((chunk(b"sRGB", b"\0"), gamma(2.2)), (cicp(1, 13, 0, 1),)):
        data, lost = written(png(*chunks), "a.webp")
        assert (profile_of(data), lost) == (None, ())


def test_our_srgb_is_srgb():
    profile = colour._profile(colour._SRGB, colour._SRGB_CURVE)
    assert distance(seen(profile), seen(SRGB)) <= 1


@pytest.mark.parametrize(
    ("chunks", "name", "told"),
    [
        ((cicp(9, 16, 0, 1),), "a.webp", "cICP"),
        ((cicp(9, 18, 0, 1),), "a.tif", "cICP"),
        ((cicp(9, 1, 0, 0),), "a.jpg", "cICP"),
        ((gamma(1.0), primaries(P3)), "a.bmp", "gAMA and cHRM"),
        ((chunk(b"cHRM", bytes(32)),), "a.webp", "cHRM"),
    ],
)
def test_colours_that_a_format_cannot_say_are_said_to_be_lost(chunks, name, told):
    _, lost = written(png(*chunks), name)
    assert lost == (f"not kept, as {FORMATS[name]} cannot hold it: colour ({told})",)


def test_a_profile_counts_more_than_gamma():
    source = Image.open(io.BytesIO(png(gamma(1.0))))
    file = io.BytesIO()
    source.save(file, "PNG", icc_profile=SRGB)
    whole = file.getvalue()
    data, _ = written(whole[:33] + gamma(1.0) + whole[33:], "a.png")
    assert (colours(data), profile_of(data)) == ({}, SRGB)


def test_chunks_of_a_wrong_size_are_not_carried():
    assert colours(png(chunk(b"cICP", b"x" * 99), chunk(b"gAMA", b""))) == {}


@pytest.mark.parametrize("profile", [b"x" * 200, SRGB[:100], b"\xff" * 4 + SRGB[4:]], ids=["no", "cut", "damaged"])
def test_a_damaged_profile_is_dropped_and_said(profile):
    picture = read_picture("a.webp", encoded(".webp", icc_profile=profile))
    assert picture.metadata.icc_profile is None
    assert picture.notices[0].startswith("the colour profile was dropped: it is damaged")


def test_what_follows_a_profile_is_cut_off():
    picture = read_picture("a.webp", encoded(".webp", icc_profile=SRGB + b"x" * 500))
    assert picture.metadata.icc_profile == SRGB


# AVIF


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize(("said", "kept"), [((12, 13), {"cICP": bytes([12, 13, 0, 1])}), ((1, 13), {}), ((1, 1), {})])
def test_what_an_avif_says_of_its_colours_is_kept(said, kept):
    data = encoded(".avif")
    at = data.index(b"colrnclx") + 8
    picture = read_picture("a.avif", data[:at] + struct.pack(">HH", *said) + data[at + 4 :])
    assert picture.metadata.colour == kept


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_more_than_eight_bits_of_an_avif_are_said_to_be_cut():
    image = Image.open(io.BytesIO(encoded(".avif")))
    assert colour.bits_of(image, encoded(".avif")) == 8
    assert colour.bits_of(image, b"....pixi\0\0\0\0\3\x0a\x0a\x0a") == 10


# Grey


def grey_profile(power):
    curve = b"curv" + struct.pack(">4xIH2x", 1, round(power * 256))
    white = b"XYZ " + struct.pack(">4x3i", 63190, 65536, 54061)
    header = struct.pack(">I4sI4s4s4s", 168 + len(curve), b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + white[8:] + bytes(48)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, len(curve))
    whole = header + tags + white + curve
    return struct.pack(">I", len(whole)) + whole[4:]


def grey_file(image, power, **options):
    file = io.BytesIO()
    image.save(file, "PNG", icc_profile=grey_profile(power), **options)
    return file.getvalue()


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("power", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "transparent"])
def test_grey_is_converted_by_its_profile(power, mode):
    """Light of v ** power, in sRGB's levels."""
    options = {}
    image = Image.fromarray(RAMP)
    if mode == "LA":
        image.putalpha(Image.fromarray(RAMP.T.copy()))
    elif mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    elif mode == "transparent":
        options["transparency"] = 7
    picture = read_picture("a.png", grey_file(image, power, **options))
    expected = np.rint(255 * srgb_of((RAMP / 255) ** power))
    found = to_u8(picture.images).astype(int)
    assert np.abs(found - expected[..., None]).max() <= 1
    assert picture.metadata.icc_profile is None
    assert "grey was converted to sRGB through its colour profile, which is dropped" in picture.notices
    alpha = {"LA": RAMP.T, "transparent": np.where(RAMP == 7, 0, 255)}.get(mode)
    assert (picture.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(picture.alpha, alpha)


def test_a_grey_profile_that_cannot_be_used_is_said():
    broken = grey_profile(2.2).replace(b"kTRC", b"kxxx")
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "PNG", icc_profile=broken)
    picture = read_picture("a.png", file.getvalue())
    assert any("grey colour profile cannot be used and was dropped" in notice for notice in picture.notices)
    assert np.array_equal(to_u8(picture.images)[..., 0], RAMP)


@pytest.mark.parametrize("name", LOSSLESS)
def test_grey_with_gamma_keeps_it(name):
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "PNG")
    data, lost = written(file.getvalue()[:33] + gamma(1.0) + file.getvalue()[33:], name)
    assert lost == ()
    assert bool(colours(data)) != bool(profile_of(data))
