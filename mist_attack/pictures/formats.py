"""Which files are read: suffixes, decoders, and the optional packages that bring more of them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from PIL import Image

_ALWAYS = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Suffixes, decoder, and the packages that bring it: one of them is enough.
_OPTIONAL = (
    ((".avif",), "AVIF", ("PIL.AvifImagePlugin", "pillow_avif")),
    ((".heic", ".heif", ".hif"), "HEIF", ("pillow_heif",)),
    ((".jxl",), "JXL", ("pillow_jxl",)),
)
_INSTALLS = {"AVIF": "pillow>=11.3", "HEIF": "pillow-heif", "JXL": "pillow-jxl-plugin"}
# What to do with a picture -> the suffixes of such.
_UNREAD = {
    "a raw photograph: develop it and save it as PNG or TIFF": ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc "
    ".mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
    "a painting program's own file: export it as PNG": ".afdesign .afphoto .clip .kra .mdp .ora .pdn .procreate .psb "
    ".psd .sai .sai2 .xcf",
    "a format that is not read: save it as PNG": ".dds .emf .eps .exr .hdr .ico .j2c .j2k .jp2 .jpf .jpm .jpx .jxr "
    ".pbm .pcx .pgm .pnm .ppm .qoi .svg .tga .wdp .wmf",
}


def _is_installed(names: tuple[str, ...]) -> bool:
    return any(find_spec(name) is not None for name in names)


_MISSING = [(suffixes, kind) for suffixes, kind, names in _OPTIONAL if not _is_installed(names)]
_READ = [(suffixes, kind) for suffixes, kind, names in _OPTIONAL if _is_installed(names)]

PICTURE_SUFFIXES = _ALWAYS.union(*(suffixes for suffixes, _ in _READ))
"""Lower case; what counts as a picture when a folder is read. Those of optional packages only where installed."""

UNREAD = {suffix: hint for hint, suffixes in _UNREAD.items() for suffix in suffixes.split()} | {
    suffix: f'needs the extra "formats": pip install "{_INSTALLS[kind]}"'
    for suffixes, kind in _MISSING
    for suffix in suffixes
}
"""Suffix, lower case -> what to do with the picture: files that look like pictures and are not read here."""

# Only these decoders ever see a file: no PostScript, no WMF. JPEG stands for MPO too.
_DECODERS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", *(kind for _, kind in _READ))


def decoders() -> list[str]:
    """Names for Pillow's `open`. Optional packages are imported here, at the first picture."""
    Image.init()
    for _, kind, names in _OPTIONAL:
        if kind not in Image.OPEN:
            _register(names)
    return [name for name in _DECODERS if name in Image.OPEN]


def _register(names: tuple[str, ...]) -> None:
    for name in names:
        if find_spec(name) is not None:
            module = import_module(name)
            getattr(module, "register_heif_opener", lambda: None)()
