"""What travels from a picture's file to the protected one besides its pixels: profile, EXIF, DPI, XMP, text.

What could show the picture unprotected does not: EXIF thumbnails, Photoshop's layers and previews.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

ORIENTATION, XMP = 274, 700
_DATA_MINING = "http://ns.useplus.org/ldf/vocab/DMI-"
XMP_TEXT = {"XML:com.adobe.xmp", "Raw profile type exif"}  # PNG text chunks that are carried as what they are
# How the *source* stores its pixels, its profile and XMP (written anew), and Photoshop's previews and layers.
_NOT_CARRIED = frozenset(
    {*range(254, 260), 262, 266, 273, *range(277, 280), 284, 317, 320, *range(322, 326), 330, 338, 339, 347}
    | {*range(512, 522), *range(529, 533), XMP, 34377, 34675, 37724}
)


@dataclass(frozen=True)
class Metadata:
    """What travels from the source file to the result; the names are those of Pillow's `save`."""

    icc_profile: bytes | None = None
    exif: bytes = b""
    """With its `Exif` prefix, orientation 1, no thumbnail."""
    dpi: tuple[float, float] | None = None
    xmp: bytes = b""
    text: dict[str, str] = field(default_factory=dict)
    """PNG text chunks; `PngImagePlugin.iTXt` values keep their language."""


def exif_of(image: Image.Image, notices: list[str]) -> tuple[bytes, int]:
    """EXIF to carry on, and the orientation that is still to be applied. After loading."""
    orientation = 1
    try:
        exif = image.getexif()
        if image.format != "TIFF":  # Pillow turns a TIFF while loading it, but before 10.1 left the tag as it was
            orientation = exif.get(ORIENTATION, 1)
        return _carried(exif), orientation
    except Exception as error:  # as with decoders: damaged EXIF raises almost anything
        notices.append(f"the EXIF data is damaged and was dropped ({error})")
        return b"", orientation


def _carried(exif: Image.Exif) -> bytes:
    for tag in _NOT_CARRIED.intersection(exif):
        del exif[tag]
    if not len(exif):
        return b""
    exif[ORIENTATION] = 1
    exif.bigtiff = False  # of the source TIFF; EXIF is never one
    return exif.tobytes()


def profile_of(image: Image.Image, notices: list[str]) -> bytes | None:
    icc_profile = image.info.get("icc_profile")
    if not icc_profile or image.mode == "CMYK":
        return None
    colour_space = icc_profile[16:20].decode("ascii", "replace")  # of the ICC header
    if colour_space == "RGB ":
        return icc_profile
    notices.append(f"the colour profile was dropped: it is for {colour_space.strip()}, and the result is RGB")
    return None


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 65536 and 1 < y < 65536 else None  # 1: Pillow's word for a TIFF that has none


def xmp_of(image: Image.Image) -> bytes:
    """XMP, which each Pillow keeps elsewhere, with its orientation reset."""
    prefix = b"http://ns.adobe.com/xap/1.0/\0"
    segments = [data[len(prefix) :] for _, data in getattr(image, "applist", []) if data.startswith(prefix)]
    found: Any = (
        image.info.get("xmp")
        or image.info.get("XML:com.adobe.xmp")
        or getattr(image, "tag_v2", {}).get(XMP)
        or b"".join(segments[:1])
    )
    xmp = found.encode() if isinstance(found, str) else found
    return re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", xmp) if isinstance(xmp, bytes) else b""


def text_of(image: Image.Image) -> dict[str, str]:
    return {key: value for key, value in getattr(image, "text", {}).items() if key not in XMP_TEXT}


def data_mining_xmp(*, allowed: bool) -> bytes:
    """XMP that says whether AI models may be trained on the picture: the property Data Mining of IPTC 2023.1 (PLUS)."""
    value = _DATA_MINING + ("ALLOWED" if allowed else "PROHIBITED-AIMLTRAINING")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/">'
        f"<plus:DataMining>{value}</plus:DataMining>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
