"""A settings file: lines of YAML like `strength: 8`. Values are plain text; nothing in it is looked up or run."""

from __future__ import annotations

from pathlib import Path

import yaml

from .errors import SettingsError, quoted

MAX_BYTES = 2**16
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}
_NULL = "tag:yaml.org,2002:null"


def read_config(path: Path, known: str) -> dict[str, tuple[str | None, int]]:
    """What a settings file says: name -> text and line, from 1; None for a null. `known`: names, for messages.

    Raises SettingsError for what cannot be read and for all that is not a mapping of names to plain values."""
    node = _parsed(path)
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{path}: expected lines like 'strength: 8'. Known controls: {known}.")
    found: dict[str, tuple[str | None, int]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{path}, line {line}: expected the name of a control. Known controls: {known}.")
        if not isinstance(value, yaml.ScalarNode) or value.tag not in _PLAIN:
            raise SettingsError(f"{path}, line {line}, {quoted(key.value)}: expected one plain value, found more.")
        if key.value in found:
            raise SettingsError(f"{path}, line {line}, {quoted(key.value)}: is there twice; keep one of them.")
        found[key.value] = (None if value.tag == _NULL else value.value), line
    return found


def _parsed(path: Path) -> yaml.Node | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SettingsError(f"{path}: expected a settings file of at most {MAX_BYTES} bytes, found more.")
        return yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: expected lines like 'strength: 8'; {error.problem}.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(f"Cannot read the settings file {path}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8 text" if isinstance(error, ValueError) else "it is not YAML"
