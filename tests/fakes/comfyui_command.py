"""`mist protect --engine comfyui` in an empty folder."""

import json
from pathlib import Path

from .command import mist


def protect(*servers, words=(), out="out"):
    urls = [word for server in servers for word in ("--url", getattr(server, "url", server))]
    return mist("protect", "in", "--out", out, "--engine", "comfyui", *urls, "--checkpoint", "sd.safetensors", *words)


def rows():
    return [json.loads(line) for line in Path("out/mist-manifest.jsonl").read_text("utf-8").splitlines()]
