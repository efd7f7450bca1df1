"""What the host saved, as arrays."""

import numpy as np
from PIL import Image
from safetensors.numpy import load_file


def levels(path):
    """(H, W, channels) uint8"""
    with Image.open(path) as picture:
        return np.asarray(picture).copy()


def latents(history, node):
    (file,) = history.files(node, "latents")
    return load_file(file)["latent_tensor"]


def shown(history, node):
    """(H, W, 3) uint8"""
    (file,) = history.files(node)
    return levels(file)
