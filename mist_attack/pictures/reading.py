"""A picture file in, as the engine takes it: pixels in [0, 1], and beside them what goes back into the file.

What a file becomes; what is not RGB or RGBA of 8 bits is told in `Picture.notices`:

    RGB, RGBA                 as it is; the colour profile is kept, colours are not converted
    L, LA, 1-bit              grey copied to three channels: the result is RGB, as the perturbation is coloured;
                              sRGB through a grey profile, where there is one
    P (GIF, PNG-8)            RGB, or RGBA where it has transparency
    alpha, transparent colour kept apart, put back bit for bit
    16-bit grey               round(v / 257)
    16-bit RGB, RGBA, LA      v >> 8, which is what Pillow decodes: up to one level darker than rounding
    YCbCr                     RGB (a JPEG is decoded to RGB anyway)
    CMYK                      sRGB through its embedded profile (perceptual); refused without one
    32-bit integers           as 16-bit grey where they are from 0 to 65535; refused else
    32-bit float, LAB         refused
    several frames or pages   refused, but for cameras' MPO (the first picture) and HEIC (the primary one)

The EXIF orientation is applied to the pixels and reset. Of the metadata only what is on a list is kept: see `metadata`.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..budget import to_levels, to_unit
from ..errors import PictureError
from .colour import bits_of, in_srgb, nclx_of
from .formats import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from .formats import UNREAD, decoders
from .masks import as_mask
from .metadata import ORIENTATION, Metadata, metadata_of
from .metadata.boxes import jxl_size, xmp_in_boxes
from .metadata.chunks import colours, readable

MAX_PIXELS = 4 * 4096 * 4096
"""Width times height; more is refused before decoding."""

MAX_BYTES = 2**31
"""Of a file; no picture of MAX_PIXELS needs more."""

_GREY16 = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_PLAIN = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"})
_TOLD = {
    **dict.fromkeys(("1", "L", "LA"), "grey is saved as RGB, since the perturbation is coloured"),
    **dict.fromkeys(("P", "PA"), "palette colours are saved as RGB, since the perturbation has more of them"),
    "YCbCr": "YCbCr was converted to RGB",
}
_BITS_PER_SAMPLE = 258
_FIRST_OF = {"MPO": "first", "HEIF": "primary"}
PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it was read, upright."""

    path: Path
    images: Tensor
    """(1, 3, H, W) float32 in [0, 1], exactly k/255."""
    alpha: np.ndarray | None
    """(H, W) uint8, 255 is opaque."""
    metadata: Metadata
    notices: tuple[str, ...]
    """What was converted or dropped, for the user to read."""


def read_bytes(path: PathLike) -> bytes:
    """What is in a picture's file, not decoded yet. Raises PictureError."""
    path = Path(path)
    with _file(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise PictureError(f"{path}: expected at most {MAX_BYTES} bytes, found more; reduce it first")
        try:
            return file.read()
        except OSError as error:
            raise PictureError(f"{path}: cannot be read ({error}); check the disk it is on") from error


def read_picture(path: PathLike, data: bytes | None = None) -> Picture:
    """The picture in a file, by the table above. Raises PictureError.

    data: the file's bytes where they were read before; `path` is then only its name."""
    path = Path(path)
    data = read_bytes(path) if data is None else data
    notices: list[str] = []
    with _opened(path, data, notices) as image:
        _check(path, image, notices)
        _check_depth(path, image, notices)
        if (bits := bits_of(image, data)) > 8:
            notices.append(f"{bits} bits per channel were cut to 8")
        with _decoding(path):
            image.load()
        kept, orientation = _metadata_of(image, data, notices)
        pixels = np.array(_upright(_in_colour(path, image, notices), orientation))
    alpha = pixels[..., 3].copy() if pixels.shape[2] == 4 else None
    return Picture(path, from_u8(pixels[..., :3]), alpha, kept, tuple(notices))


def _metadata_of(image: Image.Image, data: bytes, notices: list[str]) -> tuple[Metadata, int]:
    packet = xmp_in_boxes(data) if image.format == "JXL" else b""
    kept, orientation = metadata_of(image, notices, packet=packet)
    colour = colours(data) or nclx_of(image, data)
    if image.info.get("icc_profile"):  # it counts, but for cICP
        colour = {name: value for name, value in colour.items() if name == "cICP" and kept.icc_profile}
    if image.format == "JXL" and not getattr(image, "jpeg", False):  # its decoder turns what is no JPEG inside
        orientation = 1
    return replace(kept, colour=colour), orientation


def require_readable(path: PathLike, data: bytes | None = None) -> None:
    """Raise PictureError for what `read_picture` would refuse, as far as the header tells. Nothing is decoded."""
    path = Path(path)
    with _opened(path, read_bytes(path) if data is None else data, []) as image:
        _check(path, image, [])
        _check_depth(path, image, [])


def size_in(data: bytes) -> tuple[int, int]:
    """Width and height of a picture, by its header; zeros where that tells nothing. Nothing is decoded."""
    with suppress(Exception):  # decoders raise almost anything on a bad file
        return jxl_size(data) or Image.open(io.BytesIO(data), formats=decoders()).size
    return 0, 0


def read_mask(path: PathLike, height: int, width: int, data: bytes | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """A mask file -> (1, 1, height, width) float32 in [0, 1], white = 1 = may change; and notices.

    Grey values are kept as they are: a soft mask is a softer budget. See `as_mask`. data: as in `read_picture`. Raises
    PictureError."""
    found = as_pil(read_picture(path, data))
    mask, notices = as_mask(found, height, width), []
    if found.size != (width, height):
        notices.append(f"the mask was stretched from {found.width} x {found.height} to {width} x {height} pixels")
    if not mask.any():
        notices.append("the mask is all black: nothing will change (white is what may change)")
    return mask, tuple(notices)


def as_pil(picture: Picture) -> Image.Image:
    """RGB, or RGBA where it has an alpha."""
    levels = to_u8(picture.images)
    return Image.fromarray(levels if picture.alpha is None else np.dstack([levels, picture.alpha]))


def read_target(path: PathLike) -> Tensor:
    """A target picture -> (1, 3, h, w) float32 in [0, 1]; its alpha is ignored. Raises PictureError."""
    return read_picture(path).images


def to_u8(images: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8 grey levels: clipped, rounded, never truncated. Raises PictureError."""
    if images.ndim != 4 or images.shape[:2] != (1, 3):
        raise PictureError(f"expected one picture of shape (1, 3, H, W), got {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise PictureError("expected pixels in [0, 1], got some that are not finite")
    levels = to_levels(images.detach().float())
    return np.ascontiguousarray(rearrange(levels, "1 c h w -> h w c").cpu().numpy())


def from_u8(levels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, exactly k/255. The inverse of `to_u8`."""
    return to_unit(rearrange(torch.from_numpy(np.array(levels)), "h w c -> 1 c h w").contiguous())


@contextmanager
def _opened(path: Path, data: bytes, notices: list[str]) -> Iterator[Image.Image]:
    if size := jxl_size(data):  # its decoder decodes at once
        _require_pixels(path, *size)
    with _decoding(path):
        file = io.BytesIO(readable(data, notices))
        image = Image.open(file, formats=decoders())
    suffix = path.suffix.lower()
    if image.format == "TIFF" and suffix in UNREAD:  # raw photographs: the TIFF in it is a preview
        raise PictureError(f"{path}: {UNREAD[suffix]}")
    yield image


def _file(path: Path) -> BinaryIO:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise PictureError(f"{path}: expected a picture file, found a folder; name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise PictureError(f"{path}: expected a picture file, found a device or pipe; save it as a file first")
        if found.st_size == 0:
            raise PictureError(f"{path}: expected a picture, found an empty file (0 bytes); get it again")
        return path.open("rb")
    except FileNotFoundError as error:
        raise PictureError(f"{path}: there is no such file; check the name and the folder") from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{path}: cannot be opened ({error}); check that you may read it") from error


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Pillow's decoders raise almost anything on a bad file; to the user it is one error."""
    try:
        yield
    except UnidentifiedImageError as error:
        hint = UNREAD.get(path.suffix.lower(), "save it as PNG")
        expected = ", ".join(decoders())
        raise PictureError(f"{path}: expected a picture ({expected}), found something else; {hint}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{path}: is too large ({error}); reduce it first") from error
    except Exception as error:
        raise PictureError(f"{path}: is damaged or cut short ({error}); get a whole copy of it") from error


def _require_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        found = f"{width} x {height} pixels"
        raise PictureError(f"{path}: expected at most {MAX_PIXELS} pixels, found {found}; reduce it first")


def _check(path: Path, image: Image.Image, notices: list[str]) -> None:
    _require_pixels(path, image.width, image.height)
    with _decoding(path):
        several = getattr(image, "is_animated", False)
    if several and image.format in _FIRST_OF:
        notices.append(f"the file holds several pictures ({image.format}): the {_FIRST_OF[image.format]} one is used")
    elif several:
        raise PictureError(f"{path}: expected one picture, found several frames or pages; save the one you want alone")


def _check_depth(path: Path, image: Image.Image, notices: list[str]) -> None:
    """Before loading, while Pillow still tells that it will reduce a colour file of 16 bits."""
    reduced = any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
    if image.mode in _GREY16 or not (reduced or 16 in _bits_of_tiff(image)):
        return
    if not reduced:  # Pillow (at least to 13.0) would read each byte of such a file as a pixel
        raise PictureError(f"{path}: expected 16-bit TIFF of interleaved channels, found planes; save it as 8-bit PNG")
    notices.append("16 bits per channel were cut to 8 (the low byte is dropped)")
    if image.info.pop("transparency", None) is not None:
        notices.append("the transparent colour was dropped: it cannot be told apart in 8 bits")


def _bits_of_tiff(image: Image.Image) -> tuple[int, ...]:
    found = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return found if isinstance(found, tuple) else (found,)


def _in_colour(path: Path, image: Image.Image, notices: list[str]) -> Image.Image:
    """RGB or RGBA, with no info of its own."""
    icc_profile = image.info.get("icc_profile")
    if image.mode in _GREY16:
        image = _grey_of_16_bits(path, image)
        notices.append("16-bit grey was rounded to 8 bits")
    if image.mode in _TOLD:
        notices.append(_TOLD[image.mode])
    image = _in_srgb(path, image, icc_profile, notices)
    if image.mode not in _PLAIN:
        raise PictureError(f"{path}: expected grey or RGB of 8 or 16 bits, found {image.mode}; save it as RGB PNG")
    transparent = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    colour = image.convert("RGBA" if transparent else "RGB")
    colour.info = {}
    return colour


def _grey_of_16_bits(path: Path, image: Image.Image) -> Image.Image:
    """Pillow's own `convert` clips at 255 instead."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        found = f"32-bit values from {values.min()} to {values.max()}"
        raise PictureError(f"{path}: expected grey from 0 to 65535, found {found}; save it as 8-bit PNG")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _in_srgb(path: Path, image: Image.Image, icc_profile: bytes | None, notices: list[str]) -> Image.Image:
    if image.mode == "CMYK" and not icc_profile:
        raise PictureError(f"{path}: CMYK without a colour profile has no known colours; convert it to sRGB first")
    try:
        return in_srgb(image, icc_profile, notices)
    except (ImageCms.PyCMSError, ImportError, OSError) as error:
        if image.mode == "CMYK":
            message = f"{path}: its CMYK profile cannot be used ({error}); convert it to sRGB first"
            raise PictureError(message) from error
        notices.append(f"the grey colour profile cannot be used and was dropped ({error})")
        return image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)
