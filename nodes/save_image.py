"""MistSaveImage: the protected picture into a file, losslessly, and nothing of the artist's beside it unless asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..mist_attack.errors import SettingsError, quoted
from .layout import alpha_for, to_engine
from .request import one_of
from .schema import ALIASES, CATEGORY, DATA_MINING, FORMATS, new_schema

if TYPE_CHECKING:
    from ..mist_attack.pictures.metadata import Metadata

MODEL = 0x0110  # an EXIF tag
MAX_PREFIX = 200


class MistSaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return new_schema(
            node_id="MistSaveImage",
            display_name="Mist Save Image",
            category=CATEGORY,
            description="Saves losslessly, rounded and not truncated to 8 bits, without the workflow: that holds "
            "names of your files and folders.",
            search_aliases=[*ALIASES, "save png", "save webp", "no metadata"],
            inputs=_inputs(),
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        filename_prefix: str,
        format: str,
        data_mining: str,
        embed_workflow: bool,
        alpha: Tensor | None = None,
    ) -> io.NodeOutput:
        one_of("format", format, FORMATS)
        one_of("data_mining", data_mining, DATA_MINING)
        _check_prefix(filename_prefix)
        embedded = _workflow(cls.hidden) if embed_workflow and not args.disable_metadata else {}
        return io.NodeOutput(ui={"images": _save(image, alpha, filename_prefix, format, data_mining, embedded)})


def _inputs() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="The pictures to save. A fourth channel is saved as alpha."),
        io.String.Input(
            "filename_prefix",
            default="mist/protected",
            tooltip="Name in the output folder, before a counter; may hold a subfolder and %year%, %month%, %day%, "
            "%width%, %height%.",
        ),
        io.Combo.Input(
            "format",
            options=FORMATS,
            default="png",
            tooltip="Both lossless. JPEG would weaken the protection.",
        ),
        io.Combo.Input(
            "data_mining",
            options=DATA_MINING,
            default="off",
            tooltip="Rights metadata in the file (IPTC/PLUS Data Mining): whether training AI models on it is allowed "
            "or prohibited. A statement that crawlers can read, not a lock.",
        ),
        io.Boolean.Input(
            "embed_workflow",
            default=False,
            tooltip="Also write the workflow into the file. It holds the names of your files and folders.",
        ),
        io.Mask.Input(
            "alpha",
            optional=True,
            tooltip="Load Image's MASK of the original: the file gets the original's transparency.",
        ),
    ]


def _check_prefix(prefix: str) -> None:
    """The host sees to it that the folder is below its own. Raises SettingsError."""
    if not isinstance(prefix, str) or len(prefix) > MAX_PREFIX or not prefix.isprintable():
        raise SettingsError(f"Expected filename_prefix of at most {MAX_PREFIX} characters; got {quoted(prefix)}.")


def _save(
    image: Tensor, alpha: Tensor | None, prefix: str, suffix: str, data_mining: str, embedded: dict[str, str]
) -> list[dict[str, str]]:
    """One file for each picture, named and counted as core's Save Image does; what the page shows of them."""
    from ..mist_attack.pictures.reading import Picture
    from ..mist_attack.pictures.writing import write_picture

    pictures, channel = to_engine(image), alpha_for(image, alpha)
    levels = None if channel is None else channel[..., 0].mul(255).round().to(torch.uint8).cpu().numpy()
    metadata = _metadata(suffix, data_mining, embedded)
    height, width = pictures.shape[2:]
    root = folder_paths.get_output_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    shown = []
    for i in range(len(pictures)):
        file = f"{name.replace('%batch_num%', str(i))}_{counter + i:05}_.{suffix}"
        no_source = Path()  # it comes from a graph, not from a file that must not be overwritten
        picture = Picture(no_source, pictures[i : i + 1], None if levels is None else levels[i], metadata, ())
        write_picture(Path(folder, file), picture.images, picture)
        shown.append({"filename": file, "subfolder": subfolder, "type": "output"})
    return shown


def _metadata(suffix: str, data_mining: str, embedded: dict[str, str]) -> Metadata:
    from ..mist_attack.pictures.metadata import Metadata, data_mining_xmp

    xmp = b"" if data_mining == "off" else data_mining_xmp(allowed=data_mining == "allowed")
    if suffix == "webp":
        return Metadata(exif=_exif(embedded), xmp=xmp)
    return Metadata(text=embedded, xmp=xmp)


def _workflow(hidden: Any) -> dict[str, str]:
    """As core's Save Image writes it: dropping the file on the page opens the workflow."""
    found = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in found.items() if value is not None}


def _exif(embedded: dict[str, str]) -> bytes:
    """A WebP has no text chunks: core puts the prompt into EXIF's Model and the rest into Make and the tags below."""
    exif = Image.Exif()
    for i, (name, value) in enumerate(embedded.items()):
        exif[MODEL - i] = f"{name}:{value}"
    return exif.tobytes() if embedded else b""
