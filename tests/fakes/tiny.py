"""Small autoencoders with weights of chance, in each layout in which their files come."""

import torch

from mist_attack.hosts.tiny.modules import FAMILIES

BY_NAME = {family.name: family for family in FAMILIES}
TAESD, TAESD3, TAEF2, TAESANA = FAMILIES


def tensors(family=TAESD, half="encoder", seed=0):
    """As published: numbered."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: tensor.detach() for name, tensor in family.make(half).state_dict().items()}


def both(family=TAESD, encoder="taesd_encoder.", decoder="taesd_decoder."):
    """In one file, as ComfyUI has them."""
    halves = {encoder: tensors(family), decoder: tensors(family, "decoder", 1)}
    return {prefix + name: tensor for prefix, found in halves.items() for name, tensor in found.items()}


def write(folder, family=TAESD, name="taesd", dtype=torch.float32):
    """Both halves in files of their own; the encoder's."""
    for half, seed in (("encoder", 0), ("decoder", 1)):
        found = {key: tensor.to(dtype) for key, tensor in tensors(family, half, seed).items()}
        torch.save(found, folder / f"{name}_{half}.pth")
    return folder / f"{name}_encoder.pth"
