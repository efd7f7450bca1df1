"""Where a file can hold another picture: carriers, encodings, and a search that finds it again."""

import base64
import io
import json
import re
import struct
import zlib

import numpy as np
from PIL import Image, features

try:
    import pillow_heif
    import pillow_jxl  # noqa: F401  # registers itself
except ImportError:
    PLUGINS = ()
else:
    pillow_heif.register_heif_opener()
    PLUGINS = (".heic", ".jxl")

PIXELS = np.random.default_rng(7).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def encoded(suffix, pixels=PIXELS, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


KNOWN = encoded(".jpg", PIXELS[::-1, ::-1], quality=60)
"""The picture that must not be found."""

BINARY = {
    "raw": lambda data: data,
    "deflated": zlib.compress,
}
TEXTUAL = {
    "base64": base64.b64encode,
    "base64 in lines": base64.encodebytes,
    "base64 in a URL": lambda data: b"data:image/jpeg;base64," + base64.b64encode(data),
    "base64 in JSON": lambda data: json.dumps({"image": base64.encodebytes(data).decode()}).encode(),
    "base64url": base64.urlsafe_b64encode,
    "hex": lambda data: data.hex().encode(),
    "hex with spaces": lambda data: data.hex(" ").upper().encode(),
    "ASCII85": lambda data: base64.b85encode(data),
    "numbers": lambda data: ", ".join(map(str, data)).encode(),
    "deflated base64": lambda data: base64.b64encode(zlib.compress(data)),
    "deflated hex": lambda data: zlib.compress(data).hex().encode(),
}
ENCODINGS = BINARY | TEXTUAL


def needles(known):
    for encode in ENCODINGS.values():
        whole = re.sub(rb"\s|\\n", b"", encode(known)).lower()
        yield from (whole[len(whole) * part // 100 :][:48] for part in (70, 90))  # past the tables that JPEGs share


NEEDLES = list(needles(KNOWN))


def holds(data):
    """Whether the picture can be found in a file: as it is, inflated, in lines, in UTF-16, in any encoding."""
    return any(needle in view for view in map(bytes.lower, views(data)) for needle in NEEDLES)


def views(data, deep=2):
    without = re.sub(rb"\s|\\n|\0|&#10;", b"", data)
    plain = without.replace(b"&lt;", b"<").replace(b"&gt;", b">").replace(b"&quot;", b'"').replace(b"&amp;", b"&")
    yield from (data, without, plain, data.decode("utf-8", "ignore").encode("latin-1", "ignore"))
    for found in re.finditer(rb"[0-9A-Fa-f]{400,}", without) if deep else ():
        for digits in (found.group(), found.group()[1:]):
            yield from views(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()), 0)
    for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data) if deep else ():
        try:
            inflated = zlib.decompressobj().decompress(data[found.start() :])
        except zlib.error:
            continue
        yield from views(inflated, deep - 1)


# Carriers: name -> (suffixes, encodings, data -> bytes of a file)

EXIF_SUFFIXES = [".png", ".jpg", ".webp", ".tif", *((".avif",) if features.check("avif") else ()), *PLUGINS]
FEW = ("raw", "base64", "hex", "deflated base64")
"""Encodings for one suffix more; PNG has them all."""
NOT_IN_TIFF = ("EXIF interoperability", "EXIF thumbnail", "EXIF sub-directory")  # Pillow does not write them
EXIF, GPS, INTEROPERABILITY = 34665, 34853, 40965


def exif(data, tag, inside=None, convert=bytes):
    tags = Image.Exif()
    tags[271], value = "Mist", convert(data)
    if inside:
        tags[inside] = {tag: value}
    else:
        tags[tag] = value
    return tags.tobytes()


class Latin(str):
    """Pillow writes ASCII alone."""

    def encode(self, *_):
        return super().encode("latin-1")


def text(data):
    return Latin(data, "latin-1")


def numbers(data):
    return tuple(data)


def in_utf16(data):
    return text(data).encode("utf-16-le")


def exif_with_directory(data, *, sub):
    """A picture as cameras embed it: in a directory of its own, which comes next or below."""
    start = 8 + 2 + 12 + 4
    child = struct.pack("<H HHII HHII I", 2, 513, 4, 1, start + 30, 514, 4, 1, len(data), 0)
    tag = struct.pack("<HHII", 330, 4, 1, start) if sub else struct.pack("<HHI4s", 271, 2, 4, b"Mis\0")
    head = struct.pack("<H", 1) + tag + struct.pack("<I", 0 if sub else start)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + head + child + data


EXIF_CARRIERS = {
    **{
        f"EXIF {name}": (lambda data, tag=tag: exif(data, tag, convert=text))
        for name, tag in {"ImageDescription": 270, "Artist": 315, "Copyright": 33432, "Software": 305}.items()
    },
    **{
        f"EXIF tag {tag}": (lambda data, tag=tag: exif(data, tag))
        for tag in (46, 347, 700, 33723, 34377, 34675, 37500, 37724, 50341, 50740, 50827, 59932, 65000)
    },
    **{
        f"EXIF detail {tag}": (lambda data, tag=tag: exif(data, tag, EXIF))
        for tag in (37500, 36864, 41995, 37510, 42240, 46, 65000)
    },
    **{
        f"EXIF comment {charset!r}": (lambda data, charset=charset: exif(charset + data, 37510, EXIF))
        for charset in (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8))
    },
    "EXIF comment in UTF-16": lambda data: exif(b"UNICODE\0" + in_utf16(data), 37510, EXIF),
    "EXIF XPComment": lambda data: exif(data, 40092, convert=in_utf16),
    "EXIF XPComment, bytes": lambda data: exif(data, 40092),
    "EXIF numbers": lambda data: exif(data, 18246, convert=numbers),
    "EXIF detail, numbers": lambda data: exif(data, 37396, EXIF, numbers),
    "EXIF lens": lambda data: exif(data, 42036, EXIF, text),
    "GPS place": lambda data: exif(b"ASCII\0\0\0" + data, 28, GPS),
    "GPS tag": lambda data: exif(data, 77, GPS),
    "GPS text": lambda data: exif(data, 18, GPS, text),
    "EXIF interoperability": lambda data: exif(data, INTEROPERABILITY, EXIF, lambda data: {1: "R03", 4096: data}),
    "EXIF thumbnail": lambda data: exif_with_directory(data, sub=False),
    "EXIF sub-directory": lambda data: exif_with_directory(data, sub=True),
}

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpGImg": "http://ns.adobe.com/xap/1.0/g/img/",
    "GImage": "http://ns.google.com/photos/1.0/image/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "my": "http://example.org/my/",
}


def packet(inside, attributes="", around=("", "")):
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    described = f'<rdf:Description rdf:about="" {attributes}><dc:format>x</dc:format>{inside}</rdf:Description>'
    return f"{around[0]}<rdf:RDF {spaces}>{described}</rdf:RDF>{around[1]}".encode()


def escaped(data):
    return text(data).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


XMP_CARRIERS = {
    **{
        f"XMP {name}": (lambda data, name=name: packet(f"<{name}>{escaped(data)}</{name}>"))
        for name in ("GImage:Data", "GDepth:Data", "dc:description", "exif:MakerNote", "exif:UserComment", "my:own")
    },
    **{
        f"XMP {name}, short": (lambda data, name=name: packet("", f'{name}="{escaped(data)}"'))
        for name in ("GImage:Data", "GDepth:Data", "dc:source", "xmp:Label", "my:own")
    },
    "XMP thumbnails": lambda data: packet(
        "<xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType='Resource'><xmpGImg:format>JPEG</xmpGImg:format>"
        f"<xmpGImg:image>{escaped(data)}</xmpGImg:image></rdf:li></rdf:Alt></xmp:Thumbnails>"
    ),
    "XMP rights": lambda data: packet(f"<dc:rights><rdf:Alt><rdf:li>{escaped(data)}</rdf:li></rdf:Alt></dc:rights>"),
    "XMP keyword": lambda data: packet(
        f"<dc:subject><rdf:Bag><rdf:li>cat</rdf:li><rdf:li>{escaped(data)}</rdf:li></rdf:Bag></dc:subject>"
    ),
    "XMP structure": lambda data: packet(
        "<Iptc4xmpCore:CreatorContactInfo rdf:parseType='Resource'><Iptc4xmpCore:CiAdrCity>"
        f"{escaped(data)}</Iptc4xmpCore:CiAdrCity></Iptc4xmpCore:CreatorContactInfo>"
    ),
    "XMP structure, short": lambda data: packet(
        f'<Iptc4xmpCore:CreatorContactInfo Iptc4xmpCore:CiAdrCity="{escaped(data)}"/>'
    ),
    "XMP resource": lambda data: packet(f'<plus:DataMining rdf:resource="{escaped(data)}"/>'),
    "XMP language": lambda data: packet(f'<dc:rights xml:lang="{escaped(data)}">(c) Ann</dc:rights>'),
    "XMP comment": lambda data: packet(f"<!-- {text(data).replace('-', '')} -->"),
    "XMP CDATA": lambda data: packet(f"<dc:title><![CDATA[{text(data)}]]></dc:title>"),
    "XMP padding": lambda data: packet("", around=("", f"<?xpacket {text(data)}?>")),
    "XMP between": lambda data: packet(f"<dc:title>cat</dc:title>{escaped(data)}<dc:format>x</dc:format>"),
}


def segment(marker, data):
    """Into a JPEG; what is longer than a segment goes into several."""
    whole = encoded(".jpg")
    pieces = [data[i : i + 65000] for i in range(0, len(data), 65000)]
    return whole[:2] + b"".join(struct.pack(">BBH", 0xFF, marker, len(p) + 2) + p for p in pieces) + whole[2:]


def extended_xmp(data):
    first = packet("", 'xmpNote:HasExtendedXMP="' + 32 * "A" + '" xmlns:xmpNote="http://ns.adobe.com/xmp/note/"')
    more = packet(f"<GImage:Data>{escaped(data)}</GImage:Data>")
    extension = b"http://ns.adobe.com/xmp/extension/\0" + 32 * b"A" + struct.pack(">II", len(more), 0) + more
    whole = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + first)
    return whole[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(extension) + 2) + extension + whole[2:]


def resource(number, data):
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2)


def dataset(record, number, data):
    return struct.pack(">BBBH", 0x1C, record, number, len(data)) + data


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks, after=b""):
    whole = encoded(".png")
    return whole[:33] + b"".join(chunks) + whole[33:] + after


def raw_profile(name, data):
    """As ImageMagick writes it."""
    lines = "\n".join(data.hex()[i : i + 72] for i in range(0, 2 * len(data), 72))
    written = f"\n{name}\n{len(data):8}\n{lines}\n".encode()
    return png(chunk(b"zTXt", f"Raw profile type {name}".encode() + b"\0\0" + zlib.compress(written)))


def several(data):
    """A second picture, as in an MPO."""
    file = io.BytesIO()
    second = Image.open(io.BytesIO(KNOWN))
    Image.fromarray(PIXELS[::-1]).save(file, "MPO", save_all=True, append_images=[second])
    return file.getvalue() + data


def riff(data, kind=b"XTRA"):
    whole = encoded(".webp", exif=exif(b"", 270, convert=text)) + kind + struct.pack("<I", len(data)) + data
    whole += bytes(len(data) % 2)
    return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]


def bmp(data):
    """Between the header and the pixels, and behind them."""
    whole = encoded(".bmp")
    offset = struct.unpack_from("<I", whole, 10)[0]
    return whole[:10] + struct.pack("<I", offset + len(data)) + whole[14:offset] + data + whole[offset:] + data


def gif(data):
    return encoded(".gif", comment=data)


FILE_CARRIERS = {
    "JPEG comment": (".jpg", ENCODINGS, lambda data: segment(0xFE, data)),
    "JPEG segment": (".jpg", ENCODINGS, lambda data: segment(0xE5, b"Mine\0" + data)),
    "JPEG thumbnail": (".jpg", ENCODINGS, lambda data: segment(0xE0, b"JFXX\0\x10" + data)),
    "JPEG trailer": (".jpg", ENCODINGS, lambda data: encoded(".jpg") + data),
    "MPO": (".jpg", {"raw": bytes}, several),
    "extended XMP": (".jpg", TEXTUAL, extended_xmp),
    **{
        f"Photoshop resource {number}": (
            ".jpg",
            ENCODINGS,
            lambda data, number=number: segment(0xED, b"Photoshop 3.0\0" + resource(number, data)),
        )
        for number in (0x0404, 0x0409, 0x040C, 0x0FA0)
    },
    **{
        f"IPTC {record}:{number}": (
            ".jpg",
            ENCODINGS,
            lambda data, at=(record, number): segment(
                0xED, b"Photoshop 3.0\0" + resource(0x0404, dataset(2, 80, b"Ann") + dataset(*at, data))
            ),
        )
        for record, number in ((1, 20), (2, 120), (2, 116), (2, 118), (2, 202), (2, 250), (7, 10), (8, 10))
    },
    "PNG text": (".png", ENCODINGS, lambda data: png(chunk(b"tEXt", b"Comment\0" + data))),
    "PNG parameters": (".png", ENCODINGS, lambda data: png(chunk(b"tEXt", b"parameters\0a cat, " + data))),
    "PNG compressed text": (
        ".png",
        ENCODINGS,
        lambda data: png(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(data))),
    ),
    "PNG international text": (
        ".png",
        ENCODINGS,
        lambda data: png(chunk(b"iTXt", b"Comment\0\0\0\0\0" + text(data).encode())),
    ),
    "PNG compressed international text": (
        ".png",
        ENCODINGS,
        lambda data: png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(text(data).encode()))),
    ),
    "PNG translated keyword": (
        ".png",
        TEXTUAL,
        lambda data: png(chunk(b"iTXt", b"Comment\0\0\0de\0" + data + b"\0a cat")),
    ),
    "PNG language": (".png", TEXTUAL, lambda data: png(chunk(b"iTXt", b"Comment\0\0\0" + data + b"\0k\0a cat"))),
    "PNG private chunk": (".png", ENCODINGS, lambda data: png(chunk(b"prVt", data))),
    "PNG content credentials": (".png", ENCODINGS, lambda data: png(chunk(b"caBX", data))),
    "PNG trailer": (".png", ENCODINGS, lambda data: png(after=data)),
    **{
        f"PNG raw profile {name}": (".png", ENCODINGS, lambda data, name=name: raw_profile(name, data))
        for name in ("APP1", "8bim", "xmp", "exif", "iptc", "icc", "mine")
    },
    "PNG raw profile APP1, EXIF": (".png", ENCODINGS, lambda data: raw_profile("APP1", exif(data, 37500, EXIF))),
    "PNG raw profile 8bim, thumbnail": (".png", ENCODINGS, lambda data: raw_profile("8bim", resource(0x040C, data))),
    "PNG raw profile iptc, caption": (
        ".png",
        ENCODINGS,
        lambda data: raw_profile("iptc", resource(0x0404, dataset(2, 120, data))),
    ),
    "PNG raw profile xmp, thumbnail": (
        ".png",
        TEXTUAL,
        lambda data: raw_profile("xmp", XMP_CARRIERS["XMP thumbnails"](data)),
    ),
    "WebP chunk": (".webp", ENCODINGS, riff),
    "BMP gap": (".bmp", ENCODINGS, bmp),
    "GIF comment": (".gif", ENCODINGS, gif),
    "GIF trailer": (".gif", ENCODINGS, lambda data: encoded(".gif") + data),
    "TIFF trailer": (".tif", ENCODINGS, lambda data: encoded(".tif") + data),
    "TIFF IPTC": (".tif", ENCODINGS, lambda data: encoded(".tif", exif=exif(dataset(2, 120, data), 33723))),
    "TIFF resources": (".tif", ENCODINGS, lambda data: encoded(".tif", exif=exif(resource(0x040C, data), 34377))),
}


def xmp_file(suffix, data):
    """The packet in a file's own place for it."""
    if suffix == ".png":
        return png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(data)))
    if suffix == ".jpg":
        return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + data)
    if suffix == ".tif":
        return encoded(".tif", exif=exif(data, 700))
    container = {"use_container": True} if suffix == ".jxl" else {}
    return encoded(suffix, xmp=data, **container)


def carriers():
    """(name, suffix, encodings, data -> bytes of a file)."""
    for suffix in EXIF_SUFFIXES:
        chosen = ENCODINGS if suffix == ".png" else {name: ENCODINGS[name] for name in FEW}
        for name, make in EXIF_CARRIERS.items():
            if suffix != ".tif" or name not in NOT_IN_TIFF:
                yield f"{suffix} {name}", suffix, chosen, lambda data, s=suffix, m=make: encoded(s, exif=m(data))
        for name, make in XMP_CARRIERS.items():
            texts = {name: encode for name, encode in chosen.items() if name in TEXTUAL}
            yield f"{suffix} {name}", suffix, texts, lambda data, s=suffix, m=make: xmp_file(s, m(data))
    for name, (suffix, encodings, make) in FILE_CARRIERS.items():
        yield name, suffix, encodings, make
