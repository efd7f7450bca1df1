"""What was run, for docs/models.md: `MIST_FAMILIES=bench/families.json make host-tests COMFYUI_DIR=...`, then
`python -m bench.model_families`."""

import json
import os
from pathlib import Path

import comfyui_version

HOST = f"ComfyUI {comfyui_version.__version__}"


def record(name, label, gradients, *, by_detection=True):
    """A family's name and label, the gradients that worked just now, and whether the host's detection took a small
    one. Nothing where no file is named."""
    if not (named := os.environ.get("MIST_FAMILIES")):
        return
    file = Path(named)
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    row = found.setdefault(name, {"label": label, "by_detection": by_detection, "gradients": [], "tested": []})
    row["gradients"] = sorted({*row["gradients"], *gradients})
    row["tested"] = sorted({*row["tested"], HOST})
    file.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
