"""IPTC (IIM, as in JPEG and TIFF): its texts alone, and where each of them stands in XMP."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from .plain import Allowance, NotKeptError

Iptc = dict[int, tuple[str, ...]]
"""Dataset of record 2 (the caption is 120) -> its values."""

XMP_NAMES = {
    5: "dc:title",
    10: "photoshop:Urgency",
    15: "photoshop:Category",
    20: "photoshop:SupplementalCategories",
    25: "dc:subject",
    40: "photoshop:Instructions",
    55: "photoshop:DateCreated",
    80: "dc:creator",
    85: "photoshop:AuthorsPosition",
    90: "photoshop:City",
    92: "Iptc4xmpCore:Location",
    95: "photoshop:State",
    100: "Iptc4xmpCore:CountryCode",
    101: "photoshop:Country",
    103: "photoshop:TransmissionReference",
    105: "photoshop:Headline",
    110: "photoshop:Credit",
    115: "photoshop:Source",
    116: "dc:rights",
    120: "dc:description",
    122: "photoshop:CaptionWriter",
}
"""As IPTC's own standard maps them."""
_NO_XMP = frozenset({60, 62, 63, 65, 118})  # times, the program and a contact: text, kept in IPTC alone
_SILENT = frozenset({0})  # the record's version
_IN_PHOTOSHOP, _UTF8 = 0x0404, b"\x1b%G"
_MOST_TEXT = 40_000
_DATE = 55


def parsed(data: bytes, dropped: list[str]) -> Iptc:
    """The texts in a block of IIM. Names of what is left out are added to `dropped`."""
    found: dict[int, list[str]] = {}
    allowance, encodings = Allowance(_MOST_TEXT), ("utf-8", "cp1252")
    for record, dataset, value in _datasets(data):
        try:
            if record == 2 and (dataset in XMP_NAMES or dataset in _NO_XMP):
                found.setdefault(dataset, []).append(allowance.take_bytes(value, encodings))
            elif record != 1 and not (record == 2 and dataset in _SILENT):
                raise NotKeptError("it is not on the list")
        except NotKeptError:
            dropped.append(f"IPTC {record}:{dataset:02}")
    return {dataset: tuple(values) for dataset, values in found.items()}


def _datasets(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    position = 0
    while data[position : position + 1] == b"\x1c" and position + 5 <= len(data):
        record, dataset, size = struct.unpack_from(">BBH", data, position + 1)
        position += 5
        if size & 0x8000:  # the size of the size
            width = size & 0x7FFF
            size = int.from_bytes(data[position : position + width], "big")
            position += width
        yield record, dataset, data[position : position + size]
        position += size


def written(iptc: Iptc) -> bytes:
    """IIM in UTF-8. Values are cut at the size that a plain dataset holds."""
    parts = [_dataset(1, 90, _UTF8), _dataset(2, 0, b"\0\4")]
    parts += [_dataset(2, number, value.encode()[:32767]) for number in sorted(iptc) for value in iptc[number]]
    return b"".join(parts) if iptc else b""


def _dataset(record: int, number: int, value: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


def as_xmp(iptc: Iptc) -> dict[str, tuple[str, ...]]:
    """XMP property -> values."""
    named = {XMP_NAMES[number]: values for number, values in iptc.items() if number in XMP_NAMES}
    date = XMP_NAMES[_DATE]
    if date in named:
        named[date] = tuple(f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 else text for text in named[date])
    return named


def resources(data: bytes) -> dict[int, bytes]:
    """Photoshop's resources: number -> data."""
    found, position = {}, 0
    while data[position : position + 4] == b"8BIM" and position + 12 <= len(data):
        (number,) = struct.unpack_from(">H", data, position + 4)
        position += 6 + (data[position + 6] + 2 & ~1)  # a name of even size with its length
        (size,) = struct.unpack_from(">I", data, position)
        found[number] = data[position + 4 : position + 4 + size]
        position += 4 + (size + 1 & ~1)
    return found


def of_resources(found: Mapping[int, bytes], dropped: list[str]) -> Iptc:
    """The IPTC in Photoshop's resources; all others are left out."""
    if set(found) - {_IN_PHOTOSHOP}:
        dropped.append("Photoshop resources")
    return parsed(found.get(_IN_PHOTOSHOP, b""), dropped)


def as_resource(iptc: Iptc) -> bytes:
    """A resource of Photoshop, as a JPEG holds it."""
    data = written(iptc)
    return b"8BIM" + struct.pack(">HHI", _IN_PHOTOSHOP, 0, len(data)) + data + bytes(len(data) % 2)
