"""The protected picture file out: whole or not at all, lossless, never over the original."""

from __future__ import annotations

import errno
import io
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..errors import OutputError
from .colour import profile_for, told_by
from .metadata import COMMENT, IPTC, XMP, XMP_TEXT, Metadata
from .metadata.chunks import with_colours
from .metadata.exif import loaded
from .metadata.iptc import XMP_NAMES, as_resource, as_xmp, written
from .metadata.xmp import with_missing
from .reading import PathLike, Picture, to_u8

_ENCODERS = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
}
_HOLDS = {
    "PNG": ("icc_profile", "exif", "dpi", "xmp", "text", "colour"),
    "TIFF": ("icc_profile", "exif", "dpi", "xmp", "iptc"),
    "WEBP": ("icc_profile", "exif", "xmp"),
    "JPEG": ("icc_profile", "exif", "dpi", "xmp", "iptc"),
    "BMP": ("dpi",),
}
"""Fields of `Metadata`. Where there is XMP, it takes what it has a name for of the others."""
_TEXT_IN_XMP = {
    "Author": "dc:creator",
    "Copyright": "dc:rights",
    "Description": "dc:description",
    "Title": "dc:title",
    COMMENT: "exif:UserComment",
}
"""Keywords of PNG's own standard."""
_XMP_SEGMENT, _PHOTOSHOP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_LONGEST_SEGMENT = 65533
_REMEDIES = {errno.ENOSPC: "free some space, or choose another folder"}


def write_picture(
    path: PathLike,
    images: Tensor,
    picture: Picture,
    *,
    fmt: str | None = None,
    lossy_quality: int | None = None,
    text: dict[str, str] | None = None,
    check: Callable[[bytes], None] = lambda data: None,
) -> tuple[str, ...]:
    """Write (1, 3, H, W) in [0, 1] with the alpha and metadata of `picture`; returns notices of what was lost.

    The format is `fmt` or else the suffix: PNG, TIFF, WebP (lossless) or BMP; JPEG only when `lossy_quality`
    (1 to 100; ignored by the others) asks for it. `text` is added to a PNG's text chunks. The same input gives the
    same bytes; `check` is shown them before they are written, and may raise. Raises OutputError, also for `picture`'s
    own file, and PictureError as `to_u8` does; the file at `path` is then untouched."""
    path = Path(path)
    if _is_same_file(path, picture.path):
        raise OutputError(f"{path}: is the source picture, which is never overwritten; choose another name")
    data, lost = encode_picture(path, images, picture, fmt=fmt, lossy_quality=lossy_quality, text=text)
    check(data)
    atomic_write(path, lambda file: file.write(data))
    return lost


def encode_picture(
    path: PathLike,
    images: Tensor,
    picture: Picture,
    *,
    fmt: str | None = None,
    lossy_quality: int | None = None,
    text: dict[str, str] | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """The bytes that `write_picture` would write to `path`, and its notices. Raises as it does."""
    path = Path(path)
    kind = _encoder(path, fmt, lossy_quality)
    image = Image.fromarray(_with_alpha(path, to_u8(images), picture.alpha, kind))
    metadata, lost = _held(kind, picture.metadata)
    data = _encoded(path, image, kind, lambda: _save_options(kind, metadata, lossy_quality, text))
    if kind == "PNG":
        data = with_colours(data, metadata.colour)
    if "xmp" in _HOLDS[kind] and metadata.xmp not in data:  # too long for a JPEG
        lost.append("xmp")
    return data, (f"not kept, as {kind} cannot hold it: {', '.join(lost)}",) if lost else ()


def write_text(path: PathLike, text: str) -> None:
    """Write a report as UTF-8, as `atomic_write` does. Names of files that are not text are escaped as in JSON."""
    atomic_write(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


TEMPORARY = ".tmp"


def temporaries(path: Path) -> list[Path]:
    """What killed processes have left of writing the file at `path`."""
    start, tokens = f".{path.name[:50]}.", 12
    try:
        beside = list(path.parent.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    length = len(start) + tokens + len(TEMPORARY)
    return [p for p in beside if p.name.startswith(start) and p.name.endswith(TEMPORARY) and len(p.name) == length]


def atomic_write(path: PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Make the file at `path` by `write(file)`: whole, or not at all.

    Missing folders are made. Whatever is raised, an older file stays as it was and nothing is left beside it.
    Raises OutputError for what the system refuses, and where a device or a pipe is."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # a rename would take its place
        raise OutputError(f"{path}: is no ordinary file, and is left as it is; choose another name")
    temporary = path.with_name(f".{path.name[:50]}.{secrets.token_hex(6)}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another name, or a folder you may write to")
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error


def _encoder(path: Path, fmt: str | None, lossy_quality: int | None) -> str:
    suffix = f".{fmt}".lower() if fmt else path.suffix.lower()
    kind = _ENCODERS.get(suffix)
    if kind is None:
        raise OutputError(f"{path}: expected one of {', '.join(_ENCODERS)}, got {suffix or 'no suffix'}; use .png")
    if kind == "JPEG" and lossy_quality is None:
        raise OutputError(f"{path}: JPEG is lossy and weakens the protection; use .png, or allow lossy output")
    if kind == "JPEG" and lossy_quality not in range(1, 101):
        raise OutputError(f"{path}: expected a JPEG quality from 1 to 100, got {lossy_quality}; 95 is a good one")
    return kind


def _is_same_file(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except OSError:  # one of them does not exist
        return os.path.realpath(path) == os.path.realpath(source)


def _with_alpha(path: Path, levels: np.ndarray, alpha: np.ndarray | None, kind: str) -> np.ndarray:
    if alpha is None:
        return levels
    if kind in {"JPEG", "BMP"}:
        raise OutputError(f"{path}: {kind} cannot hold the picture's alpha; use .png, .tif or .webp")
    if alpha.shape != levels.shape[:2]:
        raise OutputError(f"{path}: expected the alpha's size {alpha.shape}, got a picture of {levels.shape[:2]}")
    return np.dstack([levels, alpha])


def _held(kind: str, metadata: Metadata) -> tuple[Metadata, list[str]]:
    """The metadata as the format says it, and names of what it cannot say."""
    holds = _HOLDS[kind]
    lost = [name for name, value in vars(metadata).items() if value and name not in holds]
    if "xmp" in holds:
        metadata = replace(metadata, xmp=_xmp(kind, metadata))
        known = {"iptc"} if set(metadata.iptc) <= set(XMP_NAMES) else set()
        known |= {"text"} if set(metadata.text) <= set(_TEXT_IN_XMP) else set()
        lost = [name for name in lost if name not in known]
    if "colour" in lost:
        lost.remove("colour")
        told, profile = told_by(metadata.colour), profile_for(metadata.colour)
        if told and (profile is None or "icc_profile" not in holds):
            lost.append(f"colour ({told})")
        metadata = replace(metadata, icc_profile=profile or metadata.icc_profile)
    return metadata, lost


def _xmp(kind: str, metadata: Metadata) -> bytes:
    """With what has no other place in the format."""
    values = {} if "iptc" in _HOLDS[kind] else as_xmp(metadata.iptc)
    if "text" not in _HOLDS[kind]:
        named = {_TEXT_IN_XMP[key]: (text,) for key, text in metadata.text.items() if key in _TEXT_IN_XMP}
        values = named | values
    return with_missing(metadata.xmp, values) if values else metadata.xmp


def _save_options(kind: str, metadata: Metadata, quality: int | None, text: dict[str, str] | None) -> dict[str, Any]:
    kept = {name: value for name in ("icc_profile", "dpi", "exif") if (value := getattr(metadata, name))}
    kept = {name: value for name, value in kept.items() if name in _HOLDS[kind]}
    if kind == "PNG":
        kept["pnginfo"] = _png_chunks(metadata.xmp, metadata.text | (text or {}))
    elif kind == "TIFF":  # uncompressed: Pillow's compressing writer fails on EXIF sub-directories
        kept["exif"] = _tiff_tags(metadata)
    elif kind == "WEBP":
        kept |= {"xmp": metadata.xmp, "lossless": True, "exact": True}  # exact: the colours under alpha 0 too
    elif kind == "JPEG":
        kept |= {"quality": quality, "subsampling": 0, "extra": _segments(metadata)}
        kept["comment"] = metadata.text.get(COMMENT, "").encode()[:_LONGEST_SEGMENT]
    return kept


def _png_chunks(xmp: bytes, text: dict[str, str]) -> PngImagePlugin.PngInfo:
    """`save(xmp=...)` is ignored for PNG. `add_text` writes iTXt for what is not Latin-1."""
    chunks = PngImagePlugin.PngInfo()
    if xmp:
        chunks.add_itxt(XMP_TEXT, xmp)
    for key, value in text.items():
        chunks.add_text(key, value)
    return chunks


def _tiff_tags(metadata: Metadata) -> Image.Exif:
    tags = loaded(metadata.exif)
    if metadata.xmp:
        tags[XMP] = metadata.xmp
    if metadata.iptc:
        tags[IPTC] = written(metadata.iptc)
    return tags


def _segments(metadata: Metadata) -> bytes:
    """Of a JPEG: XMP, which Pillow writes from 11 on, and IPTC, which it does not."""
    found = [(0xE1, _XMP_SEGMENT + metadata.xmp)] if metadata.xmp else []
    if metadata.iptc:
        found.append((0xED, _PHOTOSHOP_SEGMENT + as_resource(metadata.iptc)))
    return b"".join(
        struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
        for marker, data in found
        if len(data) <= _LONGEST_SEGMENT
    )


def _encoded(path: Path, image: Image.Image, kind: str, options: Callable[[], dict[str, Any]]) -> bytes:
    """In memory, so that a full disk is told from a format that cannot hold the picture."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options())
    except Exception as error:  # encoders raise almost anything
        raise OutputError(f"{path}: cannot be written as {kind} ({error}); use .png") from error
    return buffer.getvalue()
