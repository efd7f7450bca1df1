"""What travels from a picture's file to the protected one besides its pixels: profile, EXIF, DPI, XMP, IPTC, text.

It is kept by a list: text, numbers, dates and rights, of bounded size. Everything else is left out and told, since it
could show the picture unprotected: thumbnails, maker notes, embedded pictures, Photoshop's layers and previews.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, PngImagePlugin

from ..colour import profile_of
from . import iptc
from .chunks import raw_profile
from .exif import IPTC, ORIENTATION, PHOTOSHOP, XMP, exif_of
from .iptc import Iptc
from .plain import Allowance, NotKeptError, plain, told
from .xmp import GAIN_MAP, data_mining_xmp, rewritten

__all__ = ["IPTC", "ORIENTATION", "XMP", "XMP_TEXT", "Metadata", "data_mining_xmp", "dpi_of", "exif_of", "metadata_of"]

COMMENT = "Comment"
"""The keyword of PNG's own standard; a JPEG's or GIF's comment stands there."""
XMP_TEXT = "XML:com.adobe.xmp"
_RAW_PROFILE = "Raw profile type "
_XMP_SEGMENT, _MORE_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_GAIN_MAP_SEGMENT = b"urn:iso:std:iso:ts:21496:-1\0"
_RESOLUTION = 282
_MOST_TEXT = 2**22
"""Bytes of all PNG text chunks together."""


@dataclass(frozen=True)
class Metadata:
    """What travels from the source file to the result; names that Pillow's `save` has too mean the same."""

    icc_profile: bytes | None = None
    exif: bytes = b""
    """With its `Exif` prefix, orientation 1, no thumbnail."""
    dpi: tuple[float, float] | None = None
    xmp: bytes = b""
    text: dict[str, str] = field(default_factory=dict)
    """PNG text chunks; `PngImagePlugin.iTXt` values keep their language."""
    iptc: Iptc = field(default_factory=dict)
    colour: dict[str, bytes] = field(default_factory=dict)
    """PNG chunks that tell the colours where no profile does: cICP, sRGB, gAMA, cHRM."""


def metadata_of(image: Image.Image, notices: list[str], *, packet: bytes = b"") -> tuple[Metadata, int]:
    """Profile, EXIF, DPI, XMP, IPTC, text, and the orientation that is still to be applied. After loading.

    packet: XMP that Pillow's decoder does not tell. What is left out is named in `notices`."""
    dropped: list[str] = []
    profiles = _raw_profiles(image)
    exif, orientation = exif_of(image, notices, dropped)
    found = packet or xmp_of(image)
    if _has_gain_map(image, found):
        notices.append("the gain map (Ultra HDR) was dropped: the result is the picture of standard range")
    kept = Metadata(
        icc_profile=profile_of(image, notices),
        exif=exif,
        dpi=dpi_of(image),
        xmp=rewritten(found, notices, dropped),
        text=text_of(image, dropped),
        iptc=_iptc_of(image, profiles, notices, dropped),
    )
    if any(data.startswith(_MORE_XMP) for _, data in _segments(image)):
        dropped.append("extended XMP")
    if dropped:
        notices.append(told(dropped))
    return kept, orientation


def dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if (x, y) == (72, 72) and image.format in {"JPEG", "MPO"} and not image.info.get("jfif_unit"):
        return None if _RESOLUTION not in image.getexif() else (x, y)  # Pillow's word for a JPEG that has none
    return (x, y) if 1 < x < 65536 and 1 < y < 65536 else None  # 1: its word for such a TIFF


def xmp_of(image: Image.Image) -> bytes:
    """XMP as it is in the file, which each Pillow keeps elsewhere."""
    segments = [packet for _, data in _segments(image) if (packet := _of_segment(data))]
    found: Any = (
        image.info.get("xmp")
        or image.info.get(XMP_TEXT)
        or getattr(image, "tag_v2", {}).get(XMP)
        or b"".join(segments[:1])
    )
    if isinstance(found, str):
        return found.encode("utf-8", "replace")
    return bytes(found) if isinstance(found, (bytes, tuple)) else b""


def text_of(image: Image.Image, dropped: list[str]) -> dict[str, str]:
    """PNG text chunks, and the comment of a JPEG or GIF. Names of what is left out are added to `dropped`."""
    found: dict[str, str] = getattr(image, "text", {})
    if not found and image.format is None:  # a copy that a host made
        found = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        found = {COMMENT: _comment(comment), **found}
    allowance, kept = Allowance(_MOST_TEXT), {}
    for key, value in found.items():
        if key == XMP_TEXT or key.startswith(_RAW_PROFILE):
            continue
        try:
            kept[plain(key, 79)] = _with_language(value, allowance.take(value))
        except NotKeptError as error:
            dropped.append(f"text {_shown(key)} ({error})")
    return kept


def _comment(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _shown(key: str) -> str:
    return key if len(key) < 80 and key.isprintable() else "of a key that is none"


def _with_language(source: str, text: str) -> str:
    if not isinstance(source, PngImagePlugin.iTXt):
        return text
    language, key = source.lang or "", source.tkey or ""
    try:
        return PngImagePlugin.iTXt(text, plain(str(language), 35), plain(str(key), 79))
    except NotKeptError:
        return PngImagePlugin.iTXt(text, "", "")


def _iptc_of(image: Image.Image, profiles: dict[str, bytes], notices: list[str], dropped: list[str]) -> Iptc:
    try:
        tags = getattr(image, "tag_v2", {})
        photoshop = image.info.get("photoshop") or iptc.resources(_as_bytes(tags.get(PHOTOSHOP)))
        for name in ("8bim", "iptc"):
            photoshop = photoshop or iptc.resources(profiles.get(name, b""))
        alone = _as_bytes(tags.get(IPTC)) or profiles.get("iptc", b"")
        return iptc.of_resources(photoshop, dropped) or iptc.parsed(alone, dropped)
    except Exception as error:  # as with decoders
        notices.append(f"the IPTC data is damaged and was dropped ({error})")
        return {}


def _as_bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, tuple)) else b""


def _raw_profiles(image: Image.Image) -> dict[str, bytes]:
    """What ImageMagick keeps in texts of a PNG, by name; `image.info` gets what Pillow has a name for."""
    found = {
        key.removeprefix(_RAW_PROFILE): raw_profile(value)
        for key, value in image.info.items()
        if isinstance(key, str) and key.startswith(_RAW_PROFILE) and isinstance(value, str)
    }
    segment = found.get("APP1", b"")
    more = {
        "exif": segment if segment.startswith(b"Exif\0\0") else b"",
        "xmp": found.get("xmp") or _of_segment(segment),
        "icc_profile": found.get("icc") or found.get("icm"),
    }
    for name, value in more.items():
        if value:
            image.info.setdefault(name, value)
    return found


def _segments(image: Image.Image) -> list[tuple[str, bytes]]:
    """Of a JPEG."""
    return getattr(image, "applist", [])


def _of_segment(data: bytes) -> bytes:
    return data[len(_XMP_SEGMENT) :] if data.startswith(_XMP_SEGMENT) else b""


def _has_gain_map(image: Image.Image, xmp: bytes) -> bool:
    found = re.search(GAIN_MAP, xmp) is not None
    return found or any(data.startswith(_GAIN_MAP_SEGMENT) for _, data in _segments(image))
