"""What a picture's numbers mean: its profile, or what a file says instead of one; grey and CMYK become sRGB.

Colours of RGB pictures are never converted: what tells them goes on to the result, as PNG chunks or as a profile.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Colour = dict[str, bytes]
"""PNG's chunks cICP, sRGB, gAMA and cHRM, by name."""

_NO_PRECALCULATION = 0x0100  # of lcms
_LARGEST_PROFILE = 2**22
_GREY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_D65, _D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
_SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65)
# ITU-T H.273: x and y of red, green, blue and white.
_PRIMARIES = {
    1: _SRGB,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    **dict.fromkeys((6, 7), (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65)),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
}
# The parameters of ICC's parametric curves: g; or g, a, b, c, d.
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_CURVES = {
    **dict.fromkeys((1, 6, 14, 15), (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: _SRGB_CURVE,
}
_AS_SRGB = ({1, 2}, {1, 2, 6, 13, 14, 15})  # primaries and transfer that every viewer shows as sRGB
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(image: Image.Image, notices: list[str]) -> bytes | None:
    """The embedded profile, where it is for RGB; one for CMYK or grey is used by `in_srgb`."""
    icc_profile = image.info.get("icc_profile")
    space = _space(icc_profile)
    if not icc_profile or image.mode == "CMYK" or _is_grey(image, space):
        return None
    size = int.from_bytes(icc_profile[:4], "big")
    if icc_profile[36:40] != b"acsp" or not 132 <= size <= min(len(icc_profile), _LARGEST_PROFILE):
        notices.append("the colour profile was dropped: it is damaged")
        return None
    if space == "RGB":
        return icc_profile[:size]
    notices.append(f"the colour profile was dropped: it is for {space}, and the result is RGB")
    return None


def in_srgb(image: Image.Image, icc_profile: bytes | None, notices: list[str]) -> Image.Image:
    """CMYK, and grey of 8 bits with a profile of its own, as RGB or RGBA of sRGB; others as they are.

    Raises ImageCms.PyCMSError, ImportError and OSError."""
    is_cmyk = image.mode == "CMYK"
    if not icc_profile or not (is_cmyk or _is_grey(image, _space(icc_profile))):
        return image
    what = "CMYK" if is_cmyk else "grey"
    colour = _srgb(image, icc_profile) if is_cmyk else _srgb_of_grey(image.convert("L"), icc_profile)
    if not is_cmyk and (image.mode == "LA" or "transparency" in image.info):
        colour.putalpha(image.convert("LA").getchannel("A"))
    notices.append(f"{what} was converted to sRGB through its colour profile, which is dropped")
    return colour


def _srgb(image: Image.Image, icc_profile: bytes, flags: int = 0) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    srgb = ImageCms.createProfile("sRGB")
    intent: Any = ImageCms.Intent.PERCEPTUAL
    converted = ImageCms.profileToProfile(image, source, srgb, renderingIntent=intent, outputMode="RGB", flags=flags)  # type: ignore[arg-type]
    assert converted is not None  # only `inPlace` returns None
    return converted


def _srgb_of_grey(image: Image.Image, icc_profile: bytes) -> Image.Image:
    """Level by level: lcms interpolates a whole picture's dark levels coarsely."""
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    table = np.array(_srgb(levels, icc_profile, _NO_PRECALCULATION))[0]
    return Image.fromarray(table[np.asarray(image)])


def _is_grey(image: Image.Image, space: str) -> bool:
    return image.mode in _GREY and space == "GRAY"


def _space(icc_profile: bytes | None) -> str:
    """Of the ICC header."""
    return (icc_profile or b"")[16:20].decode("ascii", "replace").strip()


def of_nclx(primaries: int, transfer: int) -> Colour:
    """What an AVIF or HEIC says (ITU-T H.273), as a PNG does; empty where it is sRGB."""
    if primaries in _AS_SRGB[0] and transfer in _AS_SRGB[1]:
        return {}
    return {"cICP": bytes([primaries & 255, transfer & 255, 0, 1])}


def nclx_of(image: Image.Image, data: bytes) -> Colour:
    """Of an AVIF or HEIC without a profile. Pillow does not tell, so the box is looked for in the file."""
    if image.format not in {"AVIF", "HEIF"} or image.info.get("icc_profile"):
        return {}
    position = data.find(b"colrnclx")
    if position < 0 or len(data) < position + 12:
        return {}
    return of_nclx(*struct.unpack_from(">HH", data, position + 8))


def bits_of(image: Image.Image, data: bytes) -> int:
    """Per channel, of an AVIF or HEIC; 8 of others, which tell it by themselves."""
    position = data.find(b"pixi") if image.format == "AVIF" else -1
    found = image.info.get("bit_depth", 8) if image.format == "HEIF" else 8
    return data[position + 9] if 0 <= position < len(data) - 9 else found


def told_by(colour: Colour) -> str | None:
    """What counts for the colours and is not sRGB: "cICP", or "gAMA and cHRM"."""
    if "cICP" in colour:
        return None if of_nclx(*colour["cICP"][:2]) == {} else "cICP"
    if "sRGB" in colour:
        return None
    return " and ".join(name for name in ("gAMA", "cHRM") if name in colour) or None


def profile_for(colour: Colour) -> bytes | None:
    """An ICC profile that says the same; None where nothing is said, or no profile can (HDR, narrow range)."""
    told = told_by(colour)
    if told is None:
        return None
    if told == "cICP":
        primaries, transfer, matrix, full_range = colour["cICP"]
        if primaries not in _PRIMARIES or transfer not in _CURVES or matrix or full_range != 1:
            return None
        return _profile(_PRIMARIES[primaries], _CURVES[transfer])
    gamma = int.from_bytes(colour.get("gAMA", b""), "big")
    x_y = [value / 100000 for value in struct.unpack(">8I", colour["cHRM"])] if "cHRM" in colour else [*_D65, *_SRGB]
    return _profile((*x_y[2:8], *x_y[:2]), (100000 / gamma,) if gamma else _SRGB_CURVE)


def _profile(primaries: tuple[float, ...], curve: tuple[float, ...]) -> bytes | None:
    """A matrix profile of ICC 4, in D50; None where the primaries span nothing."""
    try:
        columns = _columns(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100 or curve[0] > 100:
        return None
    text = b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", 22, 28) + "as the file".encode("utf-16-be")
    curves = b"para" + struct.pack(f">4xHH{len(curve)}i", 3 if len(curve) > 1 else 0, 0, *map(_fixed, curve))
    tags = {b"desc": text, b"cprt": text, b"wtpt": _xyz(_D50), b"chad": _array(_adaptation(primaries[6:]))}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curves)
    return _file(tags)


def _columns(primaries: tuple[float, ...]) -> np.ndarray:
    """(3, 3): XYZ of red, green and blue, adapted to D50."""
    xyz = np.array([_lifted(*primaries[i : i + 2]) for i in range(0, 6, 2)]).T
    amounts = np.linalg.solve(xyz, _lifted(*primaries[6:8]))
    return _adaptation(primaries[6:]) @ (xyz * amounts)


def _lifted(x: float, y: float) -> tuple[float, float, float]:
    """XYZ of luminance 1."""
    return x / y, 1.0, (1 - x - y) / y


def _adaptation(white: tuple[float, ...]) -> np.ndarray:
    """Bradford's, from a white to D50."""
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ _lifted(*white[:2]))
    return np.linalg.solve(_BRADFORD, gains[:, None] * _BRADFORD)


def _fixed(value: float) -> int:
    return round(value * 65536)


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *map(_fixed, values))


def _array(values: np.ndarray) -> bytes:
    return b"sf32" + struct.pack(">4x9i", *map(_fixed, values.ravel()))


def _file(tags: dict[bytes, bytes]) -> bytes:
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header += struct.pack(">28x3i48x", *map(_fixed, _D50))
    return header + struct.pack(">I", len(tags)) + table + body
