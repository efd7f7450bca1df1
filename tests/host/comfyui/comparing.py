"""What the host saved, as arrays."""

import numpy as np
from PIL import Image
from safetensors.numpy import load_file


def levels(path):
    """(H, W, channels) uint8"""
    with Image.open(path) as picture:
        return np.asarray(picture).copy()


def saved(history, nodes):
    """(latents, picture) of the pair of nodes that `Drawing.save` made."""
    latent, image = nodes
    (latent_file,), (image_file,) = history.files(latent, "latents"), history.files(image)
    return load_file(latent_file)["latent_tensor"], levels(image_file)


def same(one, two):
    """Bit for bit: latents and pictures."""
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
