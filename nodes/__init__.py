"""The ComfyUI face: what each node takes and gives. The work is done in `mist_attack`, which is imported on a run."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .evaluate import MistEvaluate
from .options import MistOptions
from .protect import MistProtect
from .protect_set import MistProtectSet
from .save_image import MistSaveImage
from .target import MistTarget


class MistExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [MistProtect, MistProtectSet, MistTarget, MistOptions, MistEvaluate, MistSaveImage]
