"""XMP, written anew from a list of what is kept: rights, descriptions, dates and numbers, as text.

No entity is ever expanded and no file or address is ever opened: a packet with a document type is refused.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from xml.etree.ElementTree import Element, ParseError, SubElement, iterparse, tostring

from .plain import Allowance, NotKeptError

_RDF, _X, _XML = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "adobe:ns:meta/", "http://www.w3.org/XML/1998/namespace"
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "cc": "http://creativecommons.org/ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "exifEX": "http://cipa.jp/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "GPano": "http://ns.google.com/photos/1.0/panorama/",
}
_PREFIXES = {uri: prefix for prefix, uri in _NAMESPACES.items()} | {_RDF: "rdf", _XML: "xml"}
# Of these namespaces only some; of the others every property that is text.
_SOME = {
    "xmp": "CreateDate ModifyDate MetadataDate CreatorTool Label Rating Identifier Nickname BaseURL",
    "photoshop": "AuthorsPosition CaptionWriter Category City Country Credit DateCreated Headline Instructions Source "
    "State SupplementalCategories TransmissionReference Urgency",
    "lr": "hierarchicalSubject weightedFlatSubject",
    "tiff": "Make Model Software DateTime Artist Copyright ImageDescription Orientation XResolution YResolution "
    "ResolutionUnit",
    "rdf": "Alt Bag Seq li Description value",
}
_SOME_OF = {prefix: frozenset(names.split()) for prefix, names in _SOME.items()}
_NOT_OF = {"exif": frozenset({"MakerNote", "PixelXDimension", "PixelYDimension"})}
_STORAGE = re.compile(r"tiff:|exif:Pixel|xmpNote:HasExtendedXMP")  # of the source: nothing to tell of
_LOCAL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_MOST_READ, _MOST_TEXT, _DEEPEST = 2**24, 48_000, 8
"""Bytes of a packet, characters of text in the result (a JPEG has room for 64 KiB), elements in each other."""
_ORIENTATION = "tiff:Orientation"
_LISTS = {
    "dc:creator": "Seq",
    "dc:subject": "Bag",
    "photoshop:SupplementalCategories": "Bag",
    **dict.fromkeys(("dc:title", "dc:description", "dc:rights", "exif:UserComment"), "Alt"),
}
DATA_MINING = "http://ns.useplus.org/ldf/vocab/DMI-"
GAIN_MAP = re.compile(rb"http://ns\.adobe\.com/hdr-gain-map/|GainMap\b|HDRGainMap\b")
"""What the XMP of a picture with a gain map (Ultra HDR, Apple's) names."""


def rewritten(packet: bytes, notices: list[str], dropped: list[str]) -> bytes:
    """The packet with what is kept, and orientation 1; empty where nothing is.

    Names of what is left out are added to `dropped`."""
    if not packet.strip(b"\0 \t\r\n"):
        return b""
    try:
        return _packet(_kept(packet, dropped))
    except (ParseError, UnicodeError, NotKeptError) as error:
        notices.append(f"the XMP data is damaged and was dropped ({error})")
        return b""


def with_missing(packet: bytes, values: Mapping[str, Iterable[str]]) -> bytes:
    """A packet that was written here, with properties ("dc:rights") that it does not hold yet."""
    kept = _kept(packet, []) if packet else {}
    for name, texts in values.items():
        if name not in kept and (found := [text for text in texts if text]):
            kept[name] = _property(name, found)
    return _packet(kept)


def data_mining_xmp(*, allowed: bool) -> bytes:
    """XMP that says whether AI models may be trained on the picture: the property Data Mining of IPTC 2023.1 (PLUS)."""
    value = DATA_MINING + ("ALLOWED" if allowed else "PROHIBITED-AIMLTRAINING")
    return with_missing(b"", {"plus:DataMining": [value]})


def _property(name: str, texts: list[str]) -> Element:
    element = Element(name)
    if name not in _LISTS:
        element.text = texts[0]
        return element
    items = SubElement(element, f"rdf:{_LISTS[name]}")
    for text in texts[:1] if _LISTS[name] == "Alt" else texts:
        language = {"xml:lang": "x-default"} if _LISTS[name] == "Alt" else {}
        SubElement(items, "rdf:li", language).text = text
    return element


def _kept(packet: bytes, dropped: list[str]) -> dict[str, Element]:
    """Name -> property as it is written. Raises ParseError, UnicodeError and NotKeptError."""
    root, prefixes = _parsed(packet)
    allowance, kept = Allowance(_MOST_TEXT), {}
    for element in _properties(root):
        try:
            name = _name(element.tag)
            if name not in kept:
                kept[name] = _copied(element, allowance)
        except NotKeptError:
            dropped.extend(_told(element.tag, prefixes))
    if _ORIENTATION in kept:
        kept[_ORIENTATION] = _property(_ORIENTATION, ["1"])
    return kept


def _parsed(packet: bytes) -> tuple[Element, dict[str, str]]:
    """The root, and the prefix of each namespace."""
    if len(packet) > _MOST_READ:
        raise NotKeptError("it is too long")
    text = packet.decode(json.detect_encoding(packet)).strip("\ufeff\0 \t\r\n")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise NotKeptError("it declares a document type")
    text = re.sub(r"^<\?xml\s[^>]*\?>", "", text)  # whose encoding is no longer true
    events = iterparse(io.BytesIO(text.encode()), events=("start-ns",))
    prefixes = {uri: prefix for _, (prefix, uri) in events}
    return events.root, prefixes  # type: ignore[attr-defined]  # where the parser leaves it


def _properties(root: Element) -> Iterator[Element]:
    """Of the picture itself; one in the short form, as an attribute, becomes an element."""
    top = next(root.iter(f"{{{_RDF}}}RDF"), None)
    for description in () if top is None else top.findall(f"{{{_RDF}}}Description"):
        for tag, text in description.items():
            if not tag.startswith(f"{{{_RDF}}}") and not tag.startswith(f"{{{_XML}}}") and tag.startswith("{"):
                element = Element(tag)
                element.text = text
                yield element
        yield from description


def _name(tag: str) -> str:
    """ "dc:rights" of a name with its namespace. Raises NotKeptError where it is not on the list."""
    uri, _, local = tag[1:].rpartition("}")
    prefix = _PREFIXES.get(uri)
    if prefix is None or not _LOCAL.fullmatch(local):
        raise NotKeptError("it is not on the list")
    if local not in _SOME_OF.get(prefix, {local}) or local in _NOT_OF.get(prefix, ()):
        raise NotKeptError("it is not on the list")
    return f"{prefix}:{local}"


def _copied(element: Element, allowance: Allowance, depth: int = 0) -> Element:
    """The element with its text and what is in it. Raises NotKeptError where a part of it may not be kept."""
    if depth > _DEEPEST:
        raise NotKeptError("it is too deep")
    copy = Element(_name(element.tag))
    allowance.spend(2 * len(copy.tag) + 5)
    for tag, value in element.items():
        copy.set(_attribute(tag, value), allowance.take(value))
    for child in element:
        copy.append(_copied(child, allowance, depth + 1))
    if not len(copy) and element.text:
        copy.text = allowance.take(element.text)
    return copy


def _attribute(tag: str, value: str) -> str:
    if tag == f"{{{_XML}}}lang" and re.fullmatch(r"[A-Za-z0-9-]{1,35}", value):
        return "xml:lang"
    if tag == f"{{{_RDF}}}parseType" and value == "Resource":
        return "rdf:parseType"
    if tag == f"{{{_RDF}}}resource":
        return "rdf:resource"
    name = _name(tag)
    if name.startswith("rdf:"):
        raise NotKeptError("it is not on the list")
    return name


def _told(tag: str, prefixes: Mapping[str, str]) -> Iterator[str]:
    """How the user knows it: a whole namespace that is not kept, or the one property."""
    uri, _, local = tag[1:].rpartition("}")
    prefix = _PREFIXES.get(uri) or prefixes.get(uri, "")
    name = f"{prefix}:{local}"
    if not _LOCAL.fullmatch(prefix):
        yield "XMP of an unknown kind"
    elif uri not in _PREFIXES:
        yield f"XMP {prefix}"
    elif not _STORAGE.match(name):
        yield f"XMP {name if _LOCAL.fullmatch(local) else prefix}"


def _packet(kept: Mapping[str, Element]) -> bytes:
    if not kept:
        return b""
    used = {
        name.split(":")[0] for element in kept.values() for part in element.iter() for name in (part.tag, *part.keys())
    }
    spaces = {f"xmlns:{prefix}": uri for prefix, uri in _NAMESPACES.items() if prefix in used}
    root = Element("x:xmpmeta", {"xmlns:x": _X})
    description = SubElement(
        SubElement(root, "rdf:RDF", {"xmlns:rdf": _RDF}), "rdf:Description", {"rdf:about": "", **spaces}
    )
    description.extend(kept.values())
    body = tostring(root, encoding="unicode")
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{body}<?xpacket end="w"?>'.encode()
