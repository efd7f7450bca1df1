"""The real web UI on the CPU, offline, in a folder of its own; and its HTTP API."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from host_process import ROOT, Host, Server, free_port
from PIL import Image

HERE = Path(__file__).parent
FLAGS = (
    "--skip-prepare-environment --skip-torch-cuda-test --skip-version-check --no-download-sd-model --api "
    "--disable-console-progressbars"
)
A1111 = "--no-half --use-cpu all --do-not-download-clip"
STARTED = "Startup time"
OFFLINE = {"TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}


def prepare(data: Path) -> Path:
    """Our two extensions in a data folder."""
    # The web UI's other previews of sampling would download a model for SDXL.
    (data / "config.json").write_text(json.dumps({"show_progress_type": "Approx cheap"}))
    (data / "extensions").mkdir()
    (data / "extensions" / "mist").symlink_to(ROOT, target_is_directory=True)
    (data / "extensions" / "mist_probe").symlink_to(HERE / "probe", target_is_directory=True)
    return data


class Webui:
    """Its HTTP API. `default`: the checkpoint it starts with."""

    def __init__(self, url: str, data: Path, log: Path, default: str) -> None:
        self.url, self.data, self.log, self.default = url, data, log, default

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
        """By its name without the suffix of the usual kind."""
        name = checkpoint if Path(checkpoint).suffix else f"{checkpoint}.safetensors"
        self.post("/sdapi/v1/options", {"sd_model_checkpoint": name})

    def reload_ui(self):
        """As the button at the foot of the page does."""
        begun = self.log.read_text().count(STARTED)
        self.get("/mist_probe/reload_ui")
        until = time.monotonic() + 300
        while self.log.read_text().count(STARTED) == begun:
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.5)

    def txt2img(self, **options):
        request = {"prompt": "a cat", "steps": 3, "width": 128, "height": 128, "seed": 5, "sampler_name": "Euler"}
        return self.post("/sdapi/v1/txt2img", request | options)

    def protect(self, picture, **options):
        return self.post("/mist/v1/protect", {"image": encoded(picture), "settings": {"steps": 3}} | options)


@contextmanager
def running(host: Host, data: Path, checkpoint: str, *flags: str, **environment: str):
    """A web UI that answers on our routes, the last to appear; stopped afterwards."""
    port = free_port()
    file = data / "models" / "Stable-diffusion" / f"{checkpoint}.safetensors"
    own = ("--data-dir", data, "--port", port, "--ckpt", file, "--gradio-allowed-path", host.folder)
    url = f"http://127.0.0.1:{port}"
    command = [host.python, host.folder / "launch.py", *own, *FLAGS.split(), *flags]
    log = data / f"log-{port}.txt"
    with Server(command, data, f"{url}/sdapi/v1/progress", log, said=STARTED, **OFFLINE, **environment):
        yield Webui(url, data, log, checkpoint)


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
