"""EXIF, by a list of what is kept: text, numbers, dates and rights. Everything else could be a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from .plain import Allowance, NotKeptError

ORIENTATION, XMP, IPTC, PHOTOSHOP = 274, 700, 33723, 34377
_DETAILS, _GPS, _INTEROPERABILITY, _THUMBNAIL = 34665, 34853, 40965, ExifTags.IFD.IFD1
_USER_COMMENT, _GPS_TEXT = 37510, frozenset({27, 28})
_WINDOWS_TEXT = frozenset(range(40091, 40096))
# How the *source* stores its pixels, its profile, XMP and IPTC: written anew, and nothing to tell of.
_STORAGE = frozenset(
    {*range(254, 260), 262, 266, 273, *range(277, 281), 284, 317, 320, *range(322, 326), 338, 339, 347, 34675}
    | {*range(529, 533), XMP, IPTC, ORIENTATION, 40962, 40963, _DETAILS, _GPS, _INTEROPERABILITY}
)
_KEPT = frozenset(
    {269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 318, 319, 18246, 18249, 33432, *_WINDOWS_TEXT}
    | {33434, 33437, 34850, 34852, 34855, *range(34864, 34870), 36864, 36867, 36868, *range(36880, 36883)}
    | {*range(37121, 37123), *range(37377, 37387), 37396, _USER_COMMENT, *range(37520, 37523), *range(37888, 37894)}
    | {40960, 40961, 40964, 41483, *range(41486, 41489), 41492, 41493, 41495, 41728, 41729, *range(41985, 41995)}
    | {41996, 42016, *range(42032, 42044), 42080, 42081, 42240}
)
_MOST_NUMBERS, _MOST_BYTES, _MOST_TEXT = 16, 16, 40_000
"""Of one tag, of one tag, and of all together: a JPEG has room for 64 KiB of EXIF."""
_CHARSETS = {b"ASCII\0\0\0": ("ascii", "utf-8"), b"UNICODE\0": ("utf-16-be", "utf-16-le"), bytes(8): ("utf-8",)}


class _Utf8(str):
    """Pillow writes ASCII alone, with question marks; EXIF 3.0 allows UTF-8."""

    def encode(self, *_: str) -> bytes:  # type: ignore[override]
        return super().encode("utf-8")


def exif_of(image: Image.Image, notices: list[str], dropped: list[str] | None = None) -> tuple[bytes, int]:
    """EXIF to carry on, and the orientation that is still to be applied. After loading.

    Names of what is left out are added to `dropped`."""
    orientation = 1
    try:
        exif = image.getexif()
        if image.format != "TIFF":  # Pillow turns a TIFF while loading it, but before 10.1 left the tag as it was
            orientation = exif.get(ORIENTATION, 1)
        return _carried(exif, [] if dropped is None else dropped, is_tiff=image.format == "TIFF"), orientation
    except Exception as error:  # as with decoders: damaged EXIF raises almost anything
        notices.append(f"the EXIF data is damaged and was dropped ({error})")
        return b"", orientation


def _carried(exif: Image.Exif, dropped: list[str], *, is_tiff: bool) -> bytes:
    allowance = Allowance(_MOST_TEXT)
    kept = Image.Exif()
    kept.endian = getattr(exif, "endian", None)  # the comment in it is in this order
    for tag, value in _allowed(exif, _KEPT, ExifTags.TAGS, allowance, dropped):
        kept[tag] = value
    details = dict(_allowed(exif.get_ifd(_DETAILS), _KEPT, ExifTags.TAGS, allowance, dropped))
    colours = dict(_allowed(_directory(exif, _INTEROPERABILITY), frozenset({1, 2}), {}, allowance, dropped))
    if colours:  # Adobe RGB of a camera is told here
        details[_INTEROPERABILITY] = colours
    places = dict(_allowed(exif.get_ifd(_GPS), frozenset(range(32)), ExifTags.GPSTAGS, allowance, dropped))
    for tag, directory in ((_DETAILS, details), (_GPS, places)):
        if directory:
            kept[tag] = directory
    if not is_tiff and _has_thumbnail(exif):
        dropped.append("EXIF thumbnail")
    if not len(kept):
        return b""
    kept[ORIENTATION] = 1
    return kept.tobytes()


def loaded(exif: bytes) -> Image.Exif:
    """What `exif_of` gave, for a format that writes its tags itself."""
    tags = Image.Exif()
    tags.load(exif)
    details, places, colours = (_directory(tags, tag) for tag in (_DETAILS, _GPS, _INTEROPERABILITY))
    directories: tuple[MutableMapping[int, Any], ...] = (tags, details, places, colours)
    for directory in directories:
        for tag, value in list(directory.items()):
            if isinstance(value, str):
                directory[tag] = _Utf8(_decoded(value))
    if colours:
        details[_INTEROPERABILITY] = colours
    return tags


def _has_thumbnail(exif: Image.Exif) -> bool:
    try:
        return bool(_directory(exif, _THUMBNAIL))
    except Exception:  # a damaged one is one too
        return True


def _directory(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return exif.get_ifd(tag)
    except KeyError:  # in older Pillows, where there is none
        return {}


def _allowed(
    directory: Mapping[int, Any], kept: frozenset[int], names: dict[int, str], allowance: Allowance, dropped: list[str]
) -> Iterator[tuple[int, Any]]:
    for tag, value in sorted(directory.items()):
        try:
            if tag in kept:
                yield tag, _value(tag, value, allowance)
            elif tag not in _STORAGE:
                raise NotKeptError("it is not on the list")
        except NotKeptError:
            dropped.append(f"EXIF {names.get(tag, f'tag {tag}')}")


def _value(tag: int, value: Any, allowance: Allowance) -> Any:
    """The value, or its text as UTF-8. Raises NotKeptError."""
    if isinstance(value, str):
        return _Utf8(allowance.take(_decoded(value)))
    if isinstance(value, bytes):
        return _checked_bytes(tag, value, allowance)
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) <= _MOST_NUMBERS and all(isinstance(number, (int, float, IFDRational)) for number in numbers):
        return value
    raise NotKeptError("it is neither text nor a few numbers")


def _decoded(text: str) -> str:
    """Pillow reads Latin-1; most writers mean UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _checked_bytes(tag: int, value: bytes, allowance: Allowance) -> bytes:
    if tag == _USER_COMMENT or tag in _GPS_TEXT:
        encodings, data = _CHARSETS.get(value[:8], ()), value[8:]
    elif tag in _WINDOWS_TEXT:
        encodings, data = ("utf-16-le",), value
    elif len(value) <= _MOST_BYTES:
        return value
    else:
        raise NotKeptError("its bytes are not text")
    allowance.take_bytes(data, encodings)
    return value
