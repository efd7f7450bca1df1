"""What the nodes call of ComfyUI, as 0.3.64 ("old") and 0.33 ("new") have it, and the way both load a pack."""

from __future__ import annotations

import asyncio
import glob
import importlib.util
import inspect
import os
import sys
from collections import Counter
from dataclasses import field, fields, make_dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

ROOT = Path(__file__).parents[2]
BASE = {"display_name", "optional", "tooltip", "lazy"}
WIDGET = {*BASE, "default", "socketless"}
NUMBER = {*WIDGET, "min", "max", "step", "display_mode", "force_input"}
KEYWORDS = {
    "IMAGE": BASE,
    "MASK": BASE,
    "MODEL": BASE,
    "CLIP": BASE,
    "VAE": BASE,
    "CONDITIONING": BASE,
    "INT": {*NUMBER, "control_after_generate"},
    "FLOAT": {*NUMBER, "round"},
    "BOOLEAN": {*WIDGET, "label_on", "label_off", "force_input"},
    "STRING": {*WIDGET, "multiline", "placeholder", "dynamic_prompts", "force_input"},
    "COMBO": {*WIDGET, "options", "control_after_generate", "upload", "image_folder", "remote"},
}
SCHEMA = {
    "display_name": None,
    "category": "sd",
    "inputs": None,
    "outputs": None,
    "hidden": None,
    "description": "",
    "is_input_list": False,
    "is_output_node": False,
    "is_deprecated": False,
    "is_experimental": False,
    "is_api_node": False,
    "not_idempotent": False,
    "enable_expand": False,
}


class Interrupted(BaseException):
    """As in 0.33; an `Exception` in 0.3.64."""


class Input:
    """Refuses keywords that the host refuses, which there makes the whole pack fail."""

    io_type, allowed = "", frozenset()

    def __init__(self, id, **keywords):
        unknown = set(keywords) - self.allowed
        if unknown:
            raise TypeError(f"{self.io_type}.Input got unexpected keywords {sorted(unknown)}")
        self.id, self.keywords = id, keywords
        self.optional, self.tooltip = keywords.get("optional", False), keywords.get("tooltip")
        self.extra_dict = {}


class Output:
    io_type = ""

    def __init__(self, id=None, *, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = id, display_name, tooltip


class Hidden(str, Enum):
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    unique_id = "UNIQUE_ID"


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = None

    @classmethod
    def GET_SCHEMA(cls):  # noqa: N802  # the host's name
        schema = cls.define_schema()
        ids = [x.id for x in [*(schema.inputs or []), *(schema.outputs or [])]]
        assert max(Counter(ids).values()) == 1, "0.3.64 refuses one id for an input and an output"
        return schema


class ComfyExtension:
    async def on_load(self):
        pass


def _type(io_type, allowed):
    own_input = type("Input", (Input,), {"io_type": io_type, "allowed": frozenset(allowed)})
    return type(
        io_type, (), {"io_type": io_type, "Input": own_input, "Output": type("Output", (Output,), {"io_type": io_type})}
    )


def _io(host):
    more = {"advanced", "raw_link", "extra_dict"} if host == "new" else set()
    types = {name.capitalize(): _type(name, keywords | more) for name, keywords in KEYWORDS.items()}
    defaults = dict(SCHEMA)
    if host == "new":
        defaults |= {"search_aliases": None, "essentials_category": None, "is_dev_only": False}
    columns = [("node_id", str), *((name, object, field(default=value)) for name, value in defaults.items())]
    names = SimpleNamespace(
        **types,
        Schema=make_dataclass("Schema", columns),
        Custom=lambda io_type: _type(io_type, BASE | more),
        ComfyNode=ComfyNode,
        NodeOutput=NodeOutput,
        Hidden=Hidden,
        Input=Input,
        Output=Output,
    )
    if host == "new":
        names.ControlAfterGenerate = Enum("ControlAfterGenerate", {"fixed": "fixed"})
    return names


class Bar:
    """comfy.utils.ProgressBar: keeps what the page would show."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, total, node_id=None):
        self.total, self.updates = total, []
        Bar.made.append(self)

    def update_absolute(self, value, total=None, preview=None):
        self.updates.append((value, total, preview))


def install(monkeypatch, folder, host="new"):
    """Put the fakes into sys.modules and the output into `folder`; returns a switch with `interrupt_at` (a step)."""
    switch = SimpleNamespace(interrupt_at=None, asked=0, disable_metadata=False)

    def throw_exception_if_processing_interrupted():
        switch.asked += 1
        if switch.asked == switch.interrupt_at:
            raise Interrupted

    Bar.made.clear()
    modules = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": Bar},
        "comfy.model_management": {
            "InterruptProcessingException": Interrupted,
            "throw_exception_if_processing_interrupted": throw_exception_if_processing_interrupted,
        },
        "comfy.cli_args": {"args": switch},
        "comfy_api": {},
        "comfy_api.latest": {"ComfyExtension": ComfyExtension, "io": _io(host)},
        "folder_paths": {
            "get_output_directory": lambda: str(folder),
            "get_save_image_path": get_save_image_path,
        },
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return switch


class Outside(Exception):  # noqa: N818
    """What the host raises for a name that leads out of the output folder, as a bare Exception."""


def get_save_image_path(prefix, output_dir, width=0, height=0):
    """Folder, name, next free counter, subfolder, prefix: the host's contract."""
    prefix = prefix.replace("%width%", str(width)).replace("%height%", str(height))
    subfolder, name = os.path.split(os.path.normpath(prefix))
    folder = Path(output_dir, subfolder)
    if not folder.resolve().is_relative_to(Path(output_dir).resolve()):
        raise Outside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(path.stem[len(name) + 1 :].split("_")[0]) for path in folder.glob(f"{glob.escape(name)}_*_.*")]
    return str(folder), name, max(taken, default=0) + 1, subfolder, prefix


def load(monkeypatch, module_path=ROOT):
    """(module, node classes by id): what both hosts' `load_custom_node` does with a folder, V1 form first."""
    sys_module_name = str(module_path).replace(".", "_x_")
    for name in [name for name in sys.modules if name.startswith(sys_module_name)]:
        del sys.modules[name]  # of an earlier test, on other fakes
    spec = importlib.util.spec_from_file_location(sys_module_name, str(Path(module_path, "__init__.py")))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, sys_module_name, module)
    spec.loader.exec_module(module)
    nodes = asyncio.run(_nodes(module))
    return module, nodes


async def _nodes(module):
    if getattr(module, "NODE_CLASS_MAPPINGS", None) is not None:
        return dict(module.NODE_CLASS_MAPPINGS)
    extension = module.comfy_entrypoint()
    if inspect.iscoroutine(extension):
        extension = await extension
    assert isinstance(extension, ComfyExtension)
    classes = await extension.get_node_list()
    return {cls.GET_SCHEMA().node_id: cls for cls in classes}


def schema_fields(schema):
    return {field.name for field in fields(schema)}
