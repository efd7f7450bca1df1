"""ComfyUI's server with this pack in its custom_nodes, and what a client says to it."""

import json
import shutil
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from host_process import ROOT, Server, cached_folder, free_port

HERE = Path(__file__).parent
MAKER = HERE / "make_checkpoints.py"
PLACES = dict.fromkeys(("sd1", "sd1-fp8", "sd1-int8", "full"), "checkpoints")
PLACES |= dict.fromkeys(("vae4", "vae16", "wan21"), "vae")
PLACES |= dict.fromkeys(("taesd_encoder", "taesd_decoder"), "vae_approx")
PLACES |= {"lora": "loras", "sd2": "diffusion_models", "sdxl": "diffusion_models"}
PACK_NAME = "mist-v2.0"  # nobody promised us a name that is a Python identifier
ENDS = ("execution_success", "execution_error", "execution_interrupted")
FLAGS = ["--cpu", "--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]


def make_checkpoint(host, name):
    """Random weights, by the host's own modules; kept between runs."""
    folder = cached_folder(MAKER)
    path = folder / f"{name}.safetensors"
    if name in ("lora", "sd1-fp8", "sd1-int8"):
        make_checkpoint(host, "sd1")
    if not path.is_file():
        host.script(MAKER, host.folder, folder, name)
    return path


class BaseFolder:
    """A folder of models, inputs and outputs of our own: the host's checkout stays as it is."""

    def __init__(self, host, path):
        self.host, self.path = host, path
        for name in ("input", "output", "temp", "user", "custom_nodes", "models"):
            (path / name).mkdir()
        (path / "custom_nodes" / PACK_NAME).symlink_to(ROOT)
        shutil.copytree(HERE / "helper_nodes", path / "custom_nodes" / "helper_nodes")

    def need(self, *names):
        """Put checkpoints where the host looks for them."""
        for name in names:
            target = self.path / "models" / PLACES[name] / f"{name}.safetensors"
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(make_checkpoint(self.host, name))


class Comfy(Server):
    """A running server. `flags` come on top of FLAGS."""

    def __init__(self, base, *flags):
        self.base, port = base, free_port()
        command = [base.host.python, "main.py", *FLAGS, "--base-directory", base.path, "--port", port, *flags]
        log = base.path / f"server{port}.log"
        super().__init__(command, base.host.folder, f"http://127.0.0.1:{port}", log)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path, body=None):
        data = json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} -> {error.code}: {error.read().decode()[:4000]}") from None
        return json.loads(text) if text else None

    def queue(self, graph, client=""):
        return self.post("/prompt", {"prompt": graph, "client_id": client})["prompt_id"]

    def wait(self, prompt, seconds=900):
        """The history of a prompt: it is written after the last message of the websocket."""
        until = time.monotonic() + seconds
        while not (history := self.get(f"/history/{prompt}")):
            assert self.process.poll() is None, f"the host ended:\n{self.tail()}"
            assert time.monotonic() < until, f"not done after {seconds} s:\n{self.tail()}"
            time.sleep(0.2)
        return History(history[prompt], self.base.path)

    def run(self, graph):
        """Queue, wait, and require success."""
        history = self.wait(self.queue(graph))
        assert history.ok, f"{history.error}\n{self.tail()}"
        return history

    def events(self, graph):
        """Queue and yield the websocket's messages, ("binary", bytes) for previews, until the prompt is done."""
        from websockets.sync.client import connect  # here, so that tests without a host do not need it

        client = uuid.uuid4().hex
        with connect(f"{self.url.replace('http', 'ws')}/ws?clientId={client}", max_size=None) as socket:
            prompt = self.queue(graph, client)
            while True:
                message = socket.recv(timeout=600)
                if isinstance(message, bytes):
                    yield "binary", message
                    continue
                message = json.loads(message)
                yield message["type"], message["data"]
                if message["type"] in ENDS and message["data"]["prompt_id"] == prompt:
                    return


class History:
    """What the host noted of a prompt."""

    def __init__(self, entry, folder):
        self.outputs, self.folder = entry["outputs"], folder
        self.messages = dict(entry["status"]["messages"])
        self.ok = entry["status"]["status_str"] == "success"

    @property
    def error(self):
        return self.messages.get("execution_error", {}).get("exception_message", "")

    @property
    def interrupted(self):
        return "execution_interrupted" in self.messages

    @property
    def cached(self):
        return set(self.messages["execution_cached"]["nodes"])

    def files(self, node, kind="images"):
        """The files a node saved."""
        return [self.folder / x["type"] / x["subfolder"] / x["filename"] for x in self.outputs[node.id][kind]]

    def text(self, node):
        return "".join(self.outputs[node.id]["text"])


class Graph(dict):
    """A prompt in the API's form. Nodes are joined by `node[number of the output]`."""

    def add(self, class_type, **inputs):
        node = Node(str(len(self) + 1))
        self[node.id] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}
        return node


class Node:
    def __init__(self, number):
        self.id = number

    def __getitem__(self, output):
        return [self.id, output]
