"""What artists put into their files travels through every format; what is left out is said."""

import io
import struct
import zlib

import numpy as np
import pytest
from hidden import chunk, dataset, encoded, exif_with_directory, packet, png, raw_profile, resource, segment, xmp_file
from PIL import Image

from mist_attack.errors import PictureError
from mist_attack.pictures.metadata import xmp
from mist_attack.pictures.metadata.exif import exif_of
from mist_attack.pictures.metadata.iptc import XMP_NAMES, as_xmp, parsed, resources, written
from mist_attack.pictures.metadata.plain import told
from mist_attack.pictures.reading import read_picture
from mist_attack.pictures.writing import encode_picture

ARTIST, COPYRIGHT, DESCRIPTION, EXIF, GPS, INTEROPERABILITY = 315, 33432, 270, 34665, 34853, 40965
DATA_MINING = "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"
RIGHTS = {
    "dc:rights": ["\xa9 Ren\xe9 & S\xf8n"],
    "dc:creator": ["Ren\xe9", "S\xf8n"],
    "dc:subject": ["cat", "\u732b"],
    "plus:DataMining": [DATA_MINING],
    "photoshop:Credit": ["Studio <R>"],
    "xmp:CreateDate": ["2024-05-06T07:08:09"],
}
CONTACT = (
    "<Iptc4xmpCore:CreatorContactInfo rdf:parseType='Resource'>"
    "<Iptc4xmpCore:CiEmailWork>ann@example.org</Iptc4xmpCore:CiEmailWork></Iptc4xmpCore:CreatorContactInfo>"
)
OUTPUTS = ["a.png", "a.webp", "a.tif", "a.jpg"]


def read(data, name="a.png"):
    return read_picture(name, data)


def again(picture, name):
    """Written and read once more; the picture, and what was said to be lost."""
    data, lost = encode_picture(name, picture.images, picture, lossy_quality=95)
    return read(data, name), lost


def values(packet):
    """Property -> texts, by a parser that knows nothing of ours."""
    root = xmp.iterparse(io.BytesIO(packet))
    list(root)
    found = {}
    for element in root.root.iter():
        if element.text and element.text.strip():
            found.setdefault(element.tag.rpartition("}")[2], []).append(element.text)
    return found


def jpeg_with(exif=None, xmp=b"", iptc=b"", comment=b""):
    whole = encoded(".jpg", **({"exif": exif} if exif else {}))
    parts = [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)] if xmp else []
    parts += [(0xED, b"Photoshop 3.0\0" + resource(0x0404, iptc))] if iptc else []
    parts += [(0xFE, comment)] if comment else []
    inside = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in parts)
    return whole[:2] + inside + whole[2:]


def exif_with(tags=(), details=(), places=()):
    exif = Image.Exif()
    for tag, value in dict(tags).items():
        exif[tag] = value
    for tag, directory in ((EXIF, dict(details)), (GPS, dict(places))):
        if directory:
            exif[tag] = directory
    return exif.tobytes()


def loaded(picture):
    exif = Image.Exif()
    exif.load(picture.metadata.exif)
    return exif


# Rights


def test_rights_go_through_all_formats():
    source = jpeg_with(
        exif_with({ARTIST: "Ann Artist", COPYRIGHT: "(c) Ann"}),
        xmp.with_missing(b"", RIGHTS)
        .replace(b"<dc:rights>", CONTACT.encode() + b"<dc:rights>")
        .replace(b"xmlns:dc=", b'xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/" xmlns:dc='),
    )
    picture = read(source, "a.jpg")
    for name in ("b.png", "c.webp", "d.tif", "e.jpg"):
        picture, lost = again(picture, name)
        assert lost == picture.notices == ()
        exif, found = loaded(picture), values(picture.metadata.xmp)
        assert (exif[ARTIST], exif[COPYRIGHT]) == ("Ann Artist", "(c) Ann")
        assert found["DataMining"] == [DATA_MINING]
        assert found["CiEmailWork"] == ["ann@example.org"]
        assert found["Credit"] == RIGHTS["photoshop:Credit"]
        assert found["CreateDate"] == RIGHTS["xmp:CreateDate"]
        assert found["li"] == [*RIGHTS["dc:rights"], *RIGHTS["dc:creator"], *RIGHTS["dc:subject"]]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_result_says_the_rights_where_its_format_has_them(name):
    source = read(jpeg_with(exif_with({COPYRIGHT: "(c) Ann"}), xmp.with_missing(b"", RIGHTS)), "a.jpg")
    data, _ = encode_picture(name, source.images, source, lossy_quality=95)
    image = Image.open(io.BytesIO(data))
    assert image.getexif()[COPYRIGHT] == "(c) Ann"
    assert DATA_MINING.encode() in data


IPTC = {
    5: ["Cat"],
    25: ["cat", "window"],
    55: ["20240506"],
    80: ["Ren\xe9"],
    85: ["Painter"],
    105: ["A cat sits"],
    110: ["Studio"],
    116: ["\xa9 Ren\xe9"],
    120: ["A cat in the window"],
}


def iim(charset="utf-8", iptc=IPTC):
    start = dataset(1, 90, b"\x1b%G") if charset == "utf-8" else b""
    return (
        start
        + dataset(2, 0, b"\0\2")
        + b"".join(dataset(2, number, value.encode(charset)) for number, found in iptc.items() for value in found)
    )


@pytest.mark.parametrize("charset", ["utf-8", "cp1252"])
@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_iptc_is_kept_where_the_format_has_it(charset, name):
    picture = read(jpeg_with(iptc=iim(charset)), "a.jpg")
    assert picture.notices == ()
    kept, lost = again(picture, name)
    assert lost == ()
    assert kept.metadata.iptc == picture.metadata.iptc == {number: tuple(found) for number, found in IPTC.items()}


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_iptc_becomes_xmp_where_the_format_has_none(name):
    kept, lost = again(read(jpeg_with(iptc=iim()), "a.jpg"), name)
    assert lost == ()
    assert kept.metadata.xmp == xmp.with_missing(
        b"", {XMP_NAMES[number]: found for number, found in (IPTC | {55: ["2024-05-06"]}).items()}
    )


def test_iptc_does_not_overwrite_xmp():
    source = read(jpeg_with(iptc=iim(), xmp=xmp.with_missing(b"", {"dc:rights": ["newer"]})), "a.jpg")
    kept, _ = again(source, "a.png")
    assert "newer" in values(kept.metadata.xmp)["li"]
    assert "\xa9 Ren\xe9" not in values(kept.metadata.xmp)["li"]


def test_iptc_goes_from_jpeg_to_png_to_webp_to_tiff():
    picture = read(jpeg_with(iptc=iim()), "a.jpg")
    for name in ("b.png", "c.webp", "d.tif"):
        picture, lost = again(picture, name)
        assert lost == ()
    assert {"\xa9 Ren\xe9", "Ren\xe9", "A cat in the window"} <= set(values(picture.metadata.xmp)["li"])


def test_iptc_that_has_no_name_in_xmp_is_said_to_be_lost():
    _, lost = again(read(jpeg_with(iptc=iim(iptc={80: ["Ann"], 118: ["ann@example.org"]})), "a.jpg"), "a.png")
    assert lost == ("not kept, as PNG cannot hold it: iptc",)


@pytest.mark.parametrize("tag", [33723, 34377])
def test_iptc_of_a_tiff_is_read(tag):
    exif = Image.Exif()
    exif[tag] = iim() if tag == 33723 else resource(0x0404, iim())
    assert read(encoded(".tif", exif=exif.tobytes()), "a.tif").metadata.iptc[116] == ("\xa9 Ren\xe9",)


def test_iptc_is_written_as_it_is_parsed():
    iptc = parsed(iim(), [])
    assert parsed(written(iptc), []) == iptc
    assert written({}) == b""
    assert as_xmp({}) == {}


@pytest.mark.parametrize(
    "data", [b"\x1c", b"\x1c\2\x50\xff\xff", b"\x1c\2\x50\0\x09ab", b"8BIM", b"8BIM\4\4\0\0\xff\xff\xff\xff"]
)
def test_cut_iptc_and_resources_are_read_as_far_as_they_go(data):
    assert isinstance(parsed(data, []), dict)
    assert isinstance(resources(data), dict)


@pytest.mark.parametrize("comment", [b"\xc2\xa9 Ann", b"\xa9 Ann"])
def test_the_comment_of_a_jpeg_is_kept_or_becomes_text_or_xmp(comment):
    picture = read(jpeg_with(comment=comment), "a.jpg")
    for name in OUTPUTS:
        kept, lost = again(picture, name)
        assert lost == ()
        if name in {"a.png", "a.jpg"}:
            assert kept.metadata.text == {"Comment": "\xa9 Ann"}
        else:
            assert values(kept.metadata.xmp)["li"] == ["\xa9 Ann"]


def test_the_comment_of_a_gif_is_kept():
    kept, _ = again(read(encoded(".gif", comment=b"(c) Ann"), "a.gif"), "a.png")
    assert kept.metadata.text == {"Comment": "(c) Ann"}


def test_rights_in_png_texts_become_xmp_where_there_are_no_texts():
    source = read(png(*(chunk(b"tEXt", text) for text in (b"Copyright\0(c) Ann", b"Author\0Ann", b"parameters\0cat"))))
    kept, lost = again(source, "a.webp")
    assert values(kept.metadata.xmp)["li"] == ["(c) Ann", "Ann"]
    assert lost == ("not kept, as WEBP cannot hold it: text",)


@pytest.mark.parametrize("name", OUTPUTS)
def test_exif_keeps_letters_that_are_not_ascii(name):
    exif = exif_with({ARTIST: "Ren? S?n"}).replace(b"Ren? S?n", "Ren\xe9 S".encode())
    kept, _ = again(read(encoded(".jpg", exif=exif), "a.jpg"), name)
    assert loaded(kept)[ARTIST].encode("latin-1").decode() == "Ren\xe9 S"


def test_exif_keeps_numbers_dates_and_places():
    comment = b"UNICODE\0" + "ein K\xe4tzchen".encode("utf-16-be")
    details = {36867: "2024:05:06 07:08:09", 33437: 2.8, 34855: 100, 37510: comment, 36864: b"0232", 37500: b"maker"}
    source = exif_with({DESCRIPTION: "cat", 18246: 5}, details, {1: "N", 2: (52.0, 31.0, 12.0)})
    for name in OUTPUTS:
        exif = loaded(again(read(encoded(".jpg", exif=source), "a.jpg"), name)[0])
        assert (exif[DESCRIPTION], exif[18246]) == ("cat", 5)
        kept = exif.get_ifd(EXIF)
        assert set(kept) == set(details) - {37500}
        assert (kept[36867], float(kept[33437]), kept[34855]) == ("2024:05:06 07:08:09", 2.8, 100)
        assert (kept[37510], kept[36864]) == (comment, b"0232")
        assert [float(value) for value in exif.get_ifd(GPS)[2]] == [52, 31, 12]


@pytest.mark.parametrize("name", OUTPUTS)
def test_adobe_rgb_of_a_camera_is_still_told(name):
    """It is told by EXIF's interoperability directory where a camera embeds no profile."""
    source = exif_with({}, {40961: 65535, INTEROPERABILITY: {1: "R03", 2: b"0100"}})
    exif = loaded(again(read(encoded(".jpg", exif=source), "a.jpg"), name)[0])
    assert exif.get_ifd(EXIF)[40961] == 65535
    assert exif.get_ifd(INTEROPERABILITY)[1] == "R03"


# What is left out is said


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (encoded(".jpg", exif=exif_with({}, {37500: b"maker" * 9})), "a.jpg", "EXIF MakerNote"),
        (encoded(".jpg", exif=exif_with_directory(b"x" * 9, sub=False)), "a.jpg", "EXIF thumbnail"),
        (encoded(".png", exif=exif_with({59932: b"x" * 99})), "a.png", "EXIF tag 59932"),
        (xmp_file(".png", packet("<xmp:Thumbnails>x</xmp:Thumbnails>")), "a.png", "XMP xmp:Thumbnails"),
        (xmp_file(".png", packet("", 'GImage:Data="x"')), "a.png", "XMP GImage"),
        (segment(0xED, b"Photoshop 3.0\0" + resource(0x040C, b"x")), "a.jpg", "Photoshop resources"),
        (jpeg_with(iptc=dataset(2, 202, b"x")), "a.jpg", "IPTC 2:202"),
        (segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 40), "a.jpg", "extended XMP"),
        (
            png(chunk(b"tEXt", b"Thumb\0" + b"/9j/4AAQSkZJRgABAQEASABIAAD" * 20)),
            "a.png",
            "text Thumb (it holds encoded",
        ),
    ],
)
def test_what_is_left_out_is_named(data, name, said):
    (notice,) = read(data, name).notices
    assert notice.startswith(f"not kept, since only text, numbers, dates and rights are: {said}")


def test_many_names_are_cut_short():
    assert told(["a", "a", "b"]).endswith(": a, b")
    assert told([str(i) for i in range(20)]).endswith(", 11 and 8 more")


@pytest.mark.parametrize(
    "claim",
    [
        packet("", 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" hdrgm:GainMapMax="2"'),
        packet("<my:Directory><rdf:li my:Semantic='GainMap'/></my:Directory>"),
    ],
)
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_gain_map_is_dropped_and_no_longer_claimed(claim, name):
    picture = read(xmp_file(".jpg", claim), "a.jpg")
    assert picture.notices[0] == ("the gain map (Ultra HDR) was dropped: the result is the picture of standard range")
    data, _ = encode_picture(name, picture.images, picture, lossy_quality=95)
    assert b"hdrgm" not in data
    assert b"GainMap" not in data


def test_a_gain_map_of_iso_is_told():
    data = segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")
    assert "gain map" in read(data, "a.jpg").notices[0]


# XMP


@pytest.mark.parametrize(
    "hostile",
    [
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + packet("<dc:title>&a;</dc:title>"),
        b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + packet("<dc:title>&b;</dc:title>"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "ha">]><x>&a;</x>').encode("utf-16"),
        b'<!DOCTYPE x SYSTEM "http://example.org/x.dtd">' + packet(""),
        packet("<dc:title>&unknown;</dc:title>"),
        packet("<dc:title>"),
        b"\xff\xfe\x00",
        b"no xml",
        b"<a>" * 5000,
    ],
)
def test_hostile_and_damaged_xmp_is_dropped_and_said(hostile):
    notices = []
    assert xmp.rewritten(hostile, notices, []) == b""
    (notice,) = notices
    assert notice.startswith("the XMP data is damaged and was dropped")
    assert "root:" not in notice
    assert read(xmp_file(".tif", hostile), "a.tif").notices == (notice,)


def test_xmp_in_utf_16_is_read():
    data = ('<?xml version="1.0" encoding="utf-16"?>' + packet("<dc:title>\u732b</dc:title>").decode()).encode("utf-16")
    assert values(xmp.rewritten(data, [], []))["title"] == ["\u732b"]


def test_xmp_is_the_same_when_it_is_written_twice():
    once = xmp.rewritten(packet(CONTACT + "<dc:title>a &amp; b</dc:title>", 'xmp:Label="x"'), [], [])
    assert xmp.rewritten(once, [], []) == once
    assert xmp.with_missing(once, {"dc:title": ["other"]}) == once


def test_xmp_that_is_deep_or_long_is_not_kept():
    dropped = []
    deep = "<dc:title>" + "<rdf:Alt>" * 50 + "x" + "</rdf:Alt>" * 50 + "</dc:title>"
    words = "<dc:description>" + "a cat sits here " * 4000 + "</dc:description>"
    kept = xmp.rewritten(packet(deep + words), [], dropped)
    assert dropped == ["XMP dc:title", "XMP dc:description"]
    assert values(kept) == {"format": ["x"]}


def test_names_from_xmp_are_not_repeated_when_they_are_none():
    dropped = []
    xmp.rewritten(
        b'<r:RDF xmlns:r="%s"><r:Description><x xmlns="my"/></r:Description></r:RDF>' % xmp._RDF.encode(), [], dropped
    )
    assert dropped == ["XMP of an unknown kind"]


# What ImageMagick keeps in texts of a PNG


def test_raw_profiles_of_imagemagick_are_read():
    assert values(read(raw_profile("xmp", xmp.with_missing(b"", RIGHTS))).metadata.xmp)["Credit"] == ["Studio <R>"]
    assert read(raw_profile("iptc", resource(0x0404, iim()))).metadata.iptc[80] == ("Ren\xe9",)
    assert read(raw_profile("iptc", iim())).metadata.iptc[80] == ("Ren\xe9",)
    assert loaded(read(raw_profile("APP1", exif_with({ARTIST: "Ann"}))))[ARTIST] == "Ann"
    assert loaded(read(raw_profile("exif", exif_with({ARTIST: "Ann"}))))[ARTIST] == "Ann"


# A PNG's chunks


def damaged(data, kind, at=10):
    position = data.index(kind) + at
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_a_damaged_byte_anywhere_in_the_pixels_of_a_png_is_told():
    whole = encoded(".png")
    size = int.from_bytes(whole[whole.index(b"IDAT") - 4 :][:4], "big")
    for at in range(4, 4 + size + 4, 7):  # the data and its checksum
        with pytest.raises(PictureError, match=r"a\.png: is damaged or cut short \(the checksum of its IDAT chunk"):
            read(damaged(whole, b"IDAT", at))


def test_a_damaged_text_of_a_png_is_left_out_and_told():
    picture = read(damaged(png(chunk(b"tEXt", b"Comment\0a cat sits here")), b"tEXt"))
    assert picture.notices == ("a damaged chunk ('tEXt') was left out",)
    assert picture.metadata.text == {}


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_a_png_with_three_megabytes_of_text_is_read(kind):
    text = b"a cat sits in the window " * 120_000
    head = {b"zTXt": b"story\0\0", b"iTXt": b"story\0\1\0\0\0", b"tEXt": b"story\0"}[kind]
    data = png(chunk(kind, head + (text if kind == b"tEXt" else zlib.compress(text))), chunk(b"tEXt", b"Title\0cat"))
    picture = read(data)
    assert picture.notices == ("a text of more than 1048576 bytes was not kept: 'story'",)
    assert picture.metadata.text == {"Title": "cat"}


def test_a_bomb_of_text_is_not_inflated():
    bomb = zlib.compress(bytes(2**26))
    picture = read(png(*[chunk(b"zTXt", b"bomb\0\0" + bomb)] * 20))
    assert len(picture.notices) == 20


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_of_one_directory_does_not_raise():
    image = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
    image.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\4\0\1\0\0\0\xff\xff\xff\x7f\0\0\0\0"
    assert exif_of(image, [])[1] == 1
