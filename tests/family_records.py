"""What was run outside of ComfyUI, for docs/models.md: MIST_FAMILIES=bench/families.json in a test's environment, then
`python -m bench.model_families`."""

import json
import os
from pathlib import Path


def record(name, label, gradients, host):
    """A family's name and label, the gradients that worked just now, and where. Nothing where no file is named."""
    if not (named := os.environ.get("MIST_FAMILIES")):
        return
    file = Path(named)
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    row = found.setdefault(name, {"label": label, "by_detection": True, "gradients": [], "tested": []})
    row["gradients"] = sorted({*row["gradients"], *gradients})
    row["tested"] = sorted({*row["tested"], host})
    file.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
