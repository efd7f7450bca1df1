"""A server that answers as ComfyUI's recorded answers do, protecting by adding one level; faults on demand.

A prompt is at work for `seconds` in a thread of its own, and what happens is told over the websocket of its client, in
the messages and the order of ComfyUI 0.3.64.
"""

import io
import json
import queue
import re
import select
import socket
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from mist_attack.report import Report

KINDS = ("MistProtect", "MistOptions", "MistTarget", "LoadImage", "LoadImageMask", "PreviewImage", "PreviewAny")
REPORT = dict.fromkeys(Report.__dataclass_fields__, 0) | {"settings": {}, "notices": [], "before": {}, "after": {}}
REPORT |= {"model": "there", "target": "lattice", "psnr_db": None, "mean_shift_levels": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        place, (path, _, query) = self.server, self.path.partition("?")
        place.asked.append((self.command, path, dict(self.headers)))
        if path == "/ws" and place.ws_status:
            return self.answer(b"", place.ws_status, Location=f"{place.ws_elsewhere}/ws")
        if path == "/ws":
            return self.talk(urllib.parse.parse_qs(query)["clientId"][0])
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
            prompt = path.rpartition("/")[2]
            return self.answer({prompt: place.done[prompt]} if prompt in place.done else {})
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
            return self.answer({"prompt_id": place.take(**json.loads(body))})
        if self.path == "/interrupt":
            place.interrupted.add(json.loads(body)["prompt_id"])
        return self.answer(b"")

    def talk(self, client):
        """The websocket of a client, until one of both closes it."""
        place, protocol = self.server, ServerProtocol()
        protocol.receive_data(Request(self.path, Headers(self.headers.items())).serialize())
        protocol.send_response(protocol.accept(*protocol.events_received()))
        place.sockets[client] = messages = queue.Queue()
        if not place.mute:
            place.tell(client, "status", sid=client)
        self.close_connection = True
        while protocol.state is not State.CLOSED and self.exchange(protocol, wait=messages.empty()):
            if messages.empty():
                continue
            if (message := messages.get()) is None:  # a drop: no farewell
                self.connection.shutdown(socket.SHUT_RDWR)
                break
            if protocol.state is State.OPEN:
                (protocol.send_text if message.startswith(b"{") else protocol.send_binary)(message)
        if place.sockets.get(client) is messages:
            del place.sockets[client]

    def exchange(self, protocol, wait):
        """Send and receive what there is; False where the client has gone."""
        try:
            for data in protocol.data_to_send():
                self.connection.sendall(data) if data else self.connection.shutdown(socket.SHUT_WR)
            if select.select([self.connection], [], [], 0.01 if wait else 0)[0]:
                data = self.connection.recv(65536)
                protocol.receive_data(data)
                return bool(data)
        except OSError:
            return False
        return True

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
    """`url`, what was `received`. Faults: fails, refuses, never_ends, hiccups, shift, kinds, redirects_to; of the
    websocket: mute, ws_status (and ws_elsewhere), and drops, after each of which it is refused with `ws_after`, or its
    messages go nowhere (`deaf`); `forgets`: so many prompts are taken out of the queue."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.running, self.done, self.interrupted, self.sockets = {}, [], {}, set(), {}
        self.asked, self.received, self.graphs = [], [], []
        self.kinds, self.shift, self.seconds, self.hiccups = KINDS, 1, 0.0, 0
        self.fails, self.refuses, self.never_ends, self.redirects_to = None, False, False, None
        self.mute, self.ws_status, self.ws_after, self.ws_elsewhere = False, None, None, None
        self.drops, self.dropped, self.forgets, self.deaf = 0, 0, 0, False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def take(self, prompt, client_id):
        name = f"prompt{len(self.graphs)}"
        self.graphs.append(prompt)
        self.running.append(name)
        threading.Thread(target=self.work, args=(name, prompt, client_id), daemon=True).start()
        return name

    def tell(self, client, kind, **data):
        """To that client alone, if it listens."""
        if client in self.sockets and not (self.deaf and self.dropped and kind != "status"):
            self.sockets[client].put(json.dumps({"type": kind, "data": data}).encode())

    def work(self, name, graph, client):
        about = {"prompt_id": name}
        self.tell(client, "status", status={"exec_info": {"queue_remaining": 1}})
        if self.forgets:  # somebody took it out of the queue
            self.forgets -= 1
            return self.leave(name, client)
        self.tell(client, "execution_start", **about, timestamp=0)
        self.tell(client, "execution_cached", nodes=[], **about, timestamp=0)
        self.tell(client, "executing", node="protect", display_node="protect", **about)
        status, messages = self.steps(name, graph, client, about)
        outputs = self.outputs(graph) if status == "success" else {}
        self.done[name] = {"outputs": outputs, "status": {"status_str": status, "messages": messages}}
        for kind, data in messages:
            self.tell(client, kind, **data)
        self.leave(name, client)
        self.tell(client, "executing", node=None, **about)

    def leave(self, name, client):
        self.running.remove(name)
        self.tell(client, "status", status={"exec_info": {"queue_remaining": 0}})

    def steps(self, name, graph, client, about):
        """What comes of it, as the history says."""
        steps = graph["protect"]["inputs"]["steps"]
        for step in range(1, steps + 1):
            time.sleep(self.seconds / steps)
            self.tell(client, "progress", value=step, max=steps, node="protect", **about)
            if client in self.sockets:
                self.sockets[client].put(b"\0\0\0\1\0\0\0\1JPEG")
            if step == steps // 2 and self.drops:
                self.drops, self.dropped = self.drops - 1, self.dropped + 1
                self.ws_status = self.ws_after
                self.sockets.pop(client).put(None)
        while self.never_ends and name not in self.interrupted:
            time.sleep(0.01)
        if name in self.interrupted:
            return "error", [["execution_interrupted", about]]
        if self.fails:
            return "error", [["execution_error", {"exception_message": self.fails, **about}]]
        return "success", [["execution_success", about]]

    def outputs(self, graph):
        name = graph["image"]["inputs"]["image"].removeprefix("mist/").removesuffix(" [temp]")
        levels = np.asarray(Image.open(io.BytesIO(self.files[name])).convert("RGB")).astype(int)
        moved = np.where(levels > 127, levels - self.shift, levels + self.shift).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(moved).save(data, "PNG")
        self.files[f"of-{name}"] = data.getvalue()
        images = [{"filename": f"of-{name}", "subfolder": "", "type": "temp"}]
        return {"picture": {"images": images}, "report": {"text": [json.dumps([{"summary": "", **REPORT}])]}}
