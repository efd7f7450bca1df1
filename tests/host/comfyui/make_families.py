"""Files of other families that ComfyUI's own loaders take, with random weights. Run by the host's Python:

python make_families.py COMFYUI_DIR PYTEST_FOLDER FOLDER NAME...
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

HERE = Path(__file__).parent
FULL = {"qwen-image": {"num_attention_heads": 24, "joint_attention_dim": 3584}}
"""Widths that the host's detection fixes; one block of them."""


def content(name):
    import comfy.supported_models
    from autoencoders import TAEHV
    from families import FAMILIES, new_module, randomised

    if name == "taew21":
        return randomised(TAEHV(16))
    family = FAMILIES[name]
    config = family.config | FULL.get(name, {})
    state = randomised(new_module(getattr(comfy.supported_models, family.kind), config))
    return {key: value.bfloat16() for key, value in state.items()}


def write(name, folder):
    part = folder / f"{name}.part"
    save_file({key: value.contiguous() for key, value in content(name).items()}, part)
    part.rename(folder / f"{name}.safetensors")


def main(comfyui, pytest_folder, folder, *names):
    sys.path[0] = comfyui
    sys.path += [str(HERE / "inside"), str(HERE.parents[1]), str(HERE.parents[2]), pytest_folder]
    os.environ["MIST_CHECKPOINTS"] = folder
    from comfy.cli_args import args

    args.cpu = True
    for name in names:
        write(name, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
