"""Which pictures this process has protected, by their pixels: those alone may say so in a file."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from modules import shared
from PIL import Image

KEPT = 10_000
_digests: OrderedDict[bytes, None] = OrderedDict()


def remember(image: Image.Image) -> None:
    _digests[_digest(image)] = None
    if len(_digests) > KEPT:
        _digests.popitem(last=False)


def is_ours(image: Image.Image) -> bool:
    """Has this picture the pixels of one that was protected here? Its alpha does not count."""
    return _digest(image) in _digests


def _digest(image: Image.Image) -> bytes:
    levels = np.asarray(image.convert("RGB"))
    if getattr(shared.opts, "stealth_pnginfo_option", None) == "RGB":
        levels = levels >> 1  # Forge has written the infotext into the lowest bits before we are asked
    return hashlib.sha256(repr(levels.shape).encode() + levels.tobytes()).digest()
