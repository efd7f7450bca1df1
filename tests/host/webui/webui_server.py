"""The real web UI on the CPU, offline, in a folder of its own; and its HTTP API."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
FLAGS = (
    "--skip-prepare-environment --skip-torch-cuda-test --skip-version-check --no-half --use-cpu all "
    "--do-not-download-clip --no-download-sd-model --api --api-server-stop --disable-console-progressbars"
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
START_WITHIN = 300  # seconds


def python_of(webui: Path) -> str:
    own = webui / "venv" / "bin" / "python"
    return os.environ.get("WEBUI_PYTHON") or (str(own) if own.exists() else "python3")


def prepare(webui: Path, data: Path) -> Path:
    """Checkpoints, LoRA, tokenizer and our two extensions in a data folder."""
    subprocess.run([python_of(webui), HERE / "checkpoints.py", webui, data], check=True, capture_output=True)
    (data / "extensions").mkdir()
    (data / "extensions" / "mist").symlink_to(ROOT, target_is_directory=True)
    (data / "extensions" / "mist_probe").symlink_to(HERE / "probe", target_is_directory=True)
    return data


class Server:
    def __init__(self, port: int, data: Path, log: Path) -> None:
        self.url, self.data, self.log = f"http://127.0.0.1:{port}", data, log

    def request(self, path, body=None, method=None):
        """(status, answer)"""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path):
        return self._answer(path, self.request(path))

    def post(self, path, body=None):
        return self._answer(path, self.request(path, body or {}))

    def _answer(self, path, found):
        status, answer = found
        assert status == 200, f"{path}: {status} {answer}"
        return answer

    def load(self, checkpoint):
        self.post("/sdapi/v1/options", {"sd_model_checkpoint": f"{checkpoint}.safetensors"})

    def txt2img(self, **options):
        request = {"prompt": "a cat", "steps": 3, "width": 128, "height": 128, "seed": 5, "sampler_name": "Euler"}
        return self.post("/sdapi/v1/txt2img", request | options)

    def protect(self, picture, **options):
        return self.post("/mist/v1/protect", {"image": encoded(picture), "settings": {"steps": 3}} | options)


@contextmanager
def running(webui: Path, data: Path, checkpoint: str = "sd1", *flags: str):
    """A web UI that has finished starting; stopped afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = data / f"log-{port}.txt"
    file = data / "models" / "Stable-diffusion" / f"{checkpoint}.safetensors"
    command = [python_of(webui), webui / "launch.py", "--data-dir", data, "--port", str(port), "--ckpt", file]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **OFFLINE}
    environment.pop("PYTHONPATH", None)
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command), *FLAGS.split(), *flags], cwd=data, env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_WITHIN
        while "Startup time" not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
        yield Server(port, data, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def encoded(picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def levels(image) -> np.ndarray:
    return np.asarray(image).astype(int)


def painting(height=96, width=128, channels=3, seed=0):
    """Smooth colours: every kind of pixel, and none that JPEG or gradio would treat apart."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(20, 236, (height // 16, width // 16, channels), dtype=np.uint8)
    layers = [
        Image.fromarray(coarse[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(channels)
    ]
    return np.dstack([np.asarray(layer) for layer in layers])
