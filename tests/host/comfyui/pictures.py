"""Pictures of our own for the host's input folder."""

import numpy as np
from PIL import Image


def drawing(width, height, seed=0):
    """(H, W, 3) uint8: soft colours, an edge and a little grain, black and white corners."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [127 + 90 * np.sin(6 * x + 3 * y + phase) for phase in (0, 2, 4)]
    picture = np.stack(waves, axis=-1) + random.normal(0, 6, (height, width, 3))
    picture[(x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.08] = (230, 180, 60)
    picture[: height // 8, : width // 8], picture[-height // 8 :, -width // 8 :] = 0, 255
    return picture.clip(0, 255).round().astype(np.uint8)


def write_picture(path, width, height, *, seed=0, alpha=None):
    """The name that LoadImage takes. alpha: (H, W) uint8."""
    picture = drawing(width, height, seed)
    if alpha is not None:
        picture = np.dstack([picture, alpha])
    Image.fromarray(picture).save(path)
    return path.name
