"""Writes what people read of the controls, wherever it stands: `make texts`. A test says when that is to be done.

English comes from the table of controls and the nodes' schemas, other languages from one file each (texts/zh.yaml ...).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from mist_attack.control import Control, Face  # noqa: E402
from mist_attack.controls import BY_NAME, CONTROLS  # noqa: E402
from mist_attack.presets import node_presets, usual  # noqa: E402
from mist_attack.sets.settings import SET_CONTROLS  # noqa: E402

LANGUAGES = {"zh": "zh_CN", "ja": "ja_JP"}
"""ComfyUI's name of a language, and the web UI's."""
HOSTS_OWN = ("Prompt", "Seed", "Steps")
"""Labels that the web UI has words for."""
BEGIN, END = "<!-- written by make texts -->\n", "<!-- end of controls -->"
CONTROL_NODES = ("MistProtect", "MistProtectSet", "MistOptions")
Words = dict[str, Any]


def main() -> None:
    for path, text in written():
        path.write_text(text, encoding="utf-8")


def written() -> Iterator[tuple[Path, str]]:
    """Every file and what is to stand in it."""
    schemas = node_schemas()
    english = _read("en")
    yield ROOT / "locales/en/nodeDefs.json", _json(_defs(schemas, _English(english["names"])))
    yield ROOT / "locales/en/main.json", _json(english["menus"])
    for comfyui, webui in LANGUAGES.items():
        words = _read(comfyui)
        yield ROOT / "locales" / comfyui / "nodeDefs.json", _json(_defs(schemas, _Translated(words)))
        yield ROOT / "locales" / comfyui / "main.json", _json(words["menus"])
        yield ROOT / "localizations" / f"{webui}.json", _json(page_words(words))
    yield _with_table("README.md", _flag_rows())
    yield _with_table("docs/webui.md", _webui_rows())
    for node in CONTROL_NODES:
        yield _with_table(f"web/docs/{node}.md", _widget_rows(schemas[node]))


def node_schemas() -> Words:
    """By node id, of the nodes as a ComfyUI gets them."""
    from fakes import comfyui_pack
    from pytest import MonkeyPatch

    with MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        comfyui_pack.install(patch, Path(folder))
        _, nodes = comfyui_pack.load(patch)
        return {name: node.GET_SCHEMA() for name, node in nodes.items()}


class _English:
    """As the code has it."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def node(self, schema: Any) -> Words:
        return {"display_name": schema.display_name, "description": schema.description}

    def control(self, control: Control, tooltip: str) -> Words:
        return {"name": control.title[0].lower() + control.title[1:], "tooltip": tooltip}

    def preset(self, tooltip: str) -> Words:
        return {"name": "preset", "tooltip": tooltip}

    def socket(self, node: str, kind: str, key: str, socket: Any) -> Words:
        del node, kind, key
        return {"name": self.names.get(socket.id, socket.id.replace("_", " ")), "tooltip": socket.tooltip}


class _Translated:
    def __init__(self, words: Words) -> None:
        self.words = words

    def node(self, schema: Any) -> Words:
        found = self.words["nodes"][schema.node_id]
        return {name: found[name] for name in ("display_name", "description")}

    def control(self, control: Control, tooltip: str) -> Words:
        del tooltip
        label, unit = _label(self.words, control), self.words["units"].get(control.scale.unit)
        title = self.words["title"].format(label=label, unit=unit) if unit else label
        return {"name": title, "tooltip": explained(self.words, control, "comfyui")}

    def preset(self, tooltip: str) -> Words:
        del tooltip
        words = self.words["presets"]
        filled = [f"{name}{words['is']}{self._contents(name)}{words['stop']}" for name in node_presets()]
        return {"name": words["label"], "tooltip": "".join([words["intro"], *filled])}

    def _contents(self, preset: str) -> str:
        words, values = self.words["presets"], self.words["values"]
        filled = [(BY_NAME[name], value) for name, value in node_presets()[preset].items()]
        told = [f"{_label(self.words, known)} {values.get(s := known.shown(value), s)}" for known, value in filled]
        return words["join"].join(told) or words["nothing"]

    def socket(self, node: str, kind: str, key: str, socket: Any) -> Words:
        del socket
        return self.words["nodes"][node][kind][key]


def _label(words: Words, control: Control) -> str:
    """What is not translated yet stays English."""
    return words["controls"].get(control.name, {}).get("label", control.label)


def explained(words: Words, control: Control, face: Face) -> str:
    """The hint in another language, with what is to be added in one face."""
    found = words["controls"].get(control.name)
    return found["hint"] + found.get("notes", {}).get(face, "") if found else control.explained(face)


def page_words(words: Words) -> dict[str, str]:
    """The web UI's page: English text by English text."""
    shown = (*CONTROLS, *SET_CONTROLS)
    labels = {known.label: _label(words, known) for known in shown if known.label not in HOSTS_OWN}
    hints = {known.explained("webui"): explained(words, known, "webui") for known in shown}
    return {**words["page"], **labels, **hints}


def _defs(schemas: Words, language: _English | _Translated) -> Words:
    return {name: _node_defs(schema, language) for name, schema in schemas.items()}


def _node_defs(schema: Any, language: _English | _Translated) -> Words:
    inputs = {socket.id: _input_words(schema.node_id, socket, language) for socket in schema.inputs}
    numbered = {str(number): found for number, found in enumerate(schema.outputs or ())}
    outputs = {key: language.socket(schema.node_id, "outputs", key, found) for key, found in numbered.items()}
    return {**language.node(schema), "inputs": inputs, **({"outputs": outputs} if outputs else {})}


def _input_words(node: str, socket: Any, language: _English | _Translated) -> Words:
    if node in CONTROL_NODES and socket.id == "preset":
        return language.preset(socket.tooltip)
    known = [control for control in (*CONTROLS, *SET_CONTROLS) if control.widget_name == socket.id]
    if node in CONTROL_NODES and known:
        return language.control(known[0], socket.tooltip)
    return language.socket(node, "inputs", socket.id, socket)


# Tables of the documentation


def _with_table(name: str, rows: list[str]) -> tuple[Path, str]:
    before, rest = (ROOT / name).read_text(encoding="utf-8").split(BEGIN)
    return ROOT / name, before + BEGIN + "".join(f"{row}\n" for row in rows) + END + rest.split(END, 1)[1]


def _table(face: Face, columns: str, cells: Callable[[Control], list[str]]) -> list[str]:
    head = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
    return [*head, *(f"| {' | '.join(cells(known))} |" for known in CONTROLS if face in known.faces)]


def _flag_rows() -> list[str]:
    def cells(known: Control) -> list[str]:
        return [
            f"{known.title}: {known.explained('command')}",
            f"`{known.flag}`",
            known.shown(usual(known.name, known.default)),
        ]

    return _table("command", "What you choose | Flag | Default", cells)


def _webui_rows() -> list[str]:
    def cells(known: Control) -> list[str]:
        return [known.label, f"`{known.name}`", _allowed(known), known.explained("webui")]

    return _table("webui", "Control | in requests | Values | What it does", cells)


def _allowed(known: Control) -> str:
    if known.limits:
        return f"{known.shown(known.least)} to {known.shown(known.most)} {known.scale.unit}".rstrip()
    return ", ".join(known.offered) or {bool: "on, off", str: "text"}[known.kind]


def _widget_rows(schema: Any) -> list[str]:
    widgets = [found for found in schema.inputs if "default" in found.keywords]
    rows = [f"| `{found.id}` | {_shown(found.keywords['default'])} | {found.tooltip} |" for found in widgets]
    return ["| widget | default | meaning |", "|---|---|---|", *rows]


def _shown(value: Any) -> str:
    return Control(default=value, label="", hint="").shown(value)


def _read(language: str) -> Words:
    return yaml.safe_load((ROOT / "texts" / f"{language}.yaml").read_text(encoding="utf-8"))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
