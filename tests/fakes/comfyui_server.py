"""A server that answers as ComfyUI's recorded answers do, protecting by adding one level; faults on demand."""

import io
import json
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from mist_attack.report import Report

KINDS = ("MistProtect", "MistOptions", "MistTarget", "LoadImage", "LoadImageMask", "PreviewImage", "PreviewAny")
REPORT = dict.fromkeys(Report.__dataclass_fields__, 0) | {"settings": {}, "notices": [], "before": {}, "after": {}}
REPORT |= {"model": "there", "target": "lattice", "psnr_db": None, "mean_shift_levels": []}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        place, (path, _, query) = self.server, self.path.partition("?")
        place.asked.append((self.command, path, dict(self.headers)))
        if place.redirects_to:
            return self.answer(b"", 302, Location=place.redirects_to + self.path)
        if path == "/object_info/CheckpointLoaderSimple":
            names = {"input": {"required": {"ckpt_name": ["COMBO", {"options": ["sd.safetensors"]}]}}}
            return self.answer({"CheckpointLoaderSimple": names})
        if path.startswith("/object_info/"):
            kind = path.rpartition("/")[2]
            return self.answer({kind: {}} if kind in place.kinds else {})
        if path == "/system_stats":
            return self.answer({"system": {"pytorch_version": "2.13.0"}, "devices": [{"name": "cpu", "type": "cpu"}]})
        if path.startswith("/history/") and place.hiccups:
            place.hiccups -= 1
            return self.answer(b"", 502)
        if path.startswith("/history/"):
            return self.answer(place.history(path.rpartition("/")[2]))
        if path == "/queue":
            return self.answer({"queue_running": [[0, name, {}] for name in place.running], "queue_pending": []})
        if path == "/view":
            return self.answer(place.files[urllib.parse.parse_qs(query)["filename"][0]])
        return self.answer({}, 404)

    def do_POST(self):
        place, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        place.asked.append((self.command, self.path, dict(self.headers)))
        place.received.append(body)
        if self.path == "/upload/image":
            head, _, rest = body.partition(b"Content-Type: image/png\r\n\r\n")
            name = re.search(rb'filename="([^"]+)"', head)[1].decode()
            place.files[name] = rest[: rest.rindex(b"\r\n--")]
            return self.answer({"name": name, "subfolder": "mist", "type": "temp"})
        if self.path == "/prompt":
            if place.refuses:
                error = {"message": "Value not in list", "details": "strength"}
                return self.answer({"error": error, "node_errors": {"protect": {"errors": [error]}}}, 400)
            return self.answer({"prompt_id": place.take(json.loads(body)["prompt"])})
        if self.path == "/interrupt":
            place.running.clear()
        return self.answer(b"")

    def answer(self, body, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class FakeComfy(ThreadingHTTPServer):
    """`url`, what was `received`; faults: fails, refuses, never_ends, hiccups, shift, kinds, redirects_to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.prompts, self.running = {}, {}, []
        self.asked, self.received, self.graphs = [], [], []
        self.kinds, self.shift, self.seconds, self.hiccups = KINDS, 1, 0.0, 0
        self.fails, self.refuses, self.never_ends, self.redirects_to = None, False, False, None
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, graph):
        prompt = f"prompt{len(self.graphs)}"
        self.graphs.append(graph)
        self.prompts[prompt] = (graph, time.monotonic() + self.seconds)
        self.running.append(prompt)
        return prompt

    def history(self, prompt):
        graph, done = self.prompts[prompt]
        if self.never_ends or time.monotonic() < done:
            return {}
        self.running = [name for name in self.running if name != prompt]
        if self.fails:
            status = {"status_str": "error", "messages": [["execution_error", {"exception_message": self.fails}]]}
            return {prompt: {"outputs": {}, "status": status}}
        name = graph["image"]["inputs"]["image"].removeprefix("mist/").removesuffix(" [temp]")
        levels = np.asarray(Image.open(io.BytesIO(self.files[name])).convert("RGB")).astype(int)
        moved = io.BytesIO()
        Image.fromarray(np.where(levels > 127, levels - self.shift, levels + self.shift).astype(np.uint8)).save(
            moved, "PNG"
        )
        self.files[f"of-{name}"] = moved.getvalue()
        images = [{"filename": f"of-{name}", "subfolder": "", "type": "temp"}]
        outputs = {"picture": {"images": images}, "report": {"text": [json.dumps([{"summary": "", **REPORT}])]}}
        return {prompt: {"outputs": outputs, "status": {"status_str": "success", "messages": []}}}
