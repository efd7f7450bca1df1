"""The scripts of rented machines, run as they are, with stand-ins for the rental's command and for `mist`."""

import base64
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="for containers")


class Machine:
    """A folder with commands of its own first on the PATH; `ended` is what the rental was asked for."""

    doctor = 'echo "$*" >>examined; exit 0'

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MIST", "RUNPOD"))},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "RUNPOD_POD_ID": "pod 1",
            "MIST_RUN_DIR": str(folder / "run"),
            "MIST_LOG": str(folder / "log/mist.log"),
            "MIST_CHECKPOINT": str(folder / "models/m.safetensors"),
            "MIST_WATCH_SECONDS": "0.1",
            "MIST_GRACE_SECONDS": "1",
            "MIST_END_RETRY_SECONDS": "0.05",
            "MIST_IDLE_CHECK_SECONDS": "0.2",
            "MIST_FETCH_PAUSE": "0",
            "MIST_KEEP_ROOT": "1",
        }
        self.command("runpodctl", 'echo "$*" >>ended')
        self.command("mist", 'echo "$*" >>asked; echo said; touch working; exit 0')

    def command(self, name, body):
        path = self.bin / name
        if name == "mist":
            body = f'if [ "$1" = doctor ]; then {self.doctor}; fi\n{body}'
        path.write_text(f"#!/usr/bin/env bash\ncd {self.folder}\n{body}\n")
        path.chmod(0o755)
        return path

    def start(self, script, *words, **environment):
        command, pipe = [str(DEPLOY / script), *words], subprocess.PIPE
        settings = {**self.environment, **environment}
        return subprocess.Popen(
            command, cwd=self.folder, env=settings, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def run(self, script, *words, **environment):
        process = self.start(script, *words, **environment)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    @property
    def ended(self):
        path = self.folder / "ended"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        return condition()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", "-x", *map(str, SCRIPTS)], cwd=DEPLOY.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_machine_ends_whatever_the_command_answers(machine, code):
    machine.command("mist", f'echo "$*" >asked; echo said; exit {code}')
    found, said = machine.run("run.sh", "my pictures", "--out", "results")
    assert found == code and machine.ended == ["stop pod pod 1"]
    assert (machine.folder / "asked").read_text() == "protect my pictures --out results\n"
    assert "said" in said and "said" in (machine.folder / "log/mist.log").read_text()


DEVICES = {
    "": "doctor",
    "--device cpu": "doctor --device cpu",
    "--device=cuda:1 --steps 3": "doctor --device=cuda:1",
    "--engine ray": "doctor",
    "--engine ray --address head:6379": None,
    "--engine comfyui --url http://127.0.0.1:8188": None,
}


@pytest.mark.parametrize("words", DEVICES)
def test_the_device_that_is_meant_is_examined_before_a_picture_is_taken(machine, words):
    assert machine.run("run.sh", "in", "--out", "out", *words.split())[0] == 0
    examined = machine.folder / "examined"
    assert (examined.read_text().strip() if examined.exists() else None) == DEVICES[words]
    assert (machine.folder / "asked").read_text().startswith("protect in --out out")


def test_a_device_that_does_not_work_takes_no_picture_and_ends_the_machine(machine):
    machine.doctor = 'echo "device: does not work: reasons" >&2; exit 1'
    machine.command("mist", 'echo "$*" >asked')
    code, said = machine.run("run.sh")
    assert code == 1 and machine.ended == ["stop pod pod 1"] and not (machine.folder / "asked").exists()
    assert "does not work: reasons" in said and "no picture was taken" in said
    assert "does not work: reasons" in (machine.folder / "log/mist.log").read_text()
    assert machine.run("run.sh", MIST_DOCTOR="0")[0] == 0 and (machine.folder / "asked").exists()


def test_without_arguments_the_usual_folders_are_meant(machine):
    machine.run("run.sh", MIST_INPUT="/in", MIST_OUT="/out")
    assert (machine.folder / "asked").read_text() == "protect /in --out /out\n"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_the_machine_ends_on_a_signal_after_the_command_has_wound_up(machine, name):
    machine.command(
        "mist", "trap 'echo wound up >>ended; exit 130' TERM; touch working; while true; do sleep 0.1; done"
    )
    process = machine.start("run.sh")
    assert machine.wait_for((machine.folder / "working").exists)
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=30)
    assert machine.ended == ["wound up", "stop pod pod 1"]


def test_a_command_that_does_not_listen_is_killed(machine):
    machine.command("mist", "trap '' TERM; touch working; while true; do sleep 0.1; done")
    process = machine.start("run.sh")
    assert machine.wait_for((machine.folder / "working").exists)
    process.terminate()
    process.communicate(timeout=30)
    assert machine.ended == ["stop pod pod 1"]


def test_the_machine_ends_though_the_script_itself_is_killed(machine):
    machine.command("mist", "touch working; exec sleep 20")
    process = machine.start("run.sh")
    assert machine.wait_for((machine.folder / "working").exists)
    process.kill()
    process.wait()
    assert machine.wait_for(lambda: machine.ended == ["stop pod pod 1"])
    os.kill(int((machine.folder / "run/child.pid").read_text()), signal.SIGKILL)
    process.communicate(timeout=30)


def test_the_limit_of_hours_ends_the_machine(machine):
    machine.command("mist", "exec sleep 60")
    _, said = machine.run("run.sh", MIST_MAX_HOURS="0.0003")
    assert machine.ended == ["stop pod pod 1"] and "limit of 0.0003 hours" in said


def faketime():
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.mark.skipif(faketime() is None, reason="faketime is not installed")
@pytest.mark.parametrize("jump", ["+30h", "-30h"])
def test_a_clock_that_is_set_moves_no_limit(machine, jump):
    clock = machine.folder / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(faketime()), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    machine.command("mist", "unset LD_PRELOAD; touch working; exec sleep 20")
    process = machine.start("run.sh", MIST_MAX_HOURS="0.0009", **faked)
    assert machine.wait_for((machine.folder / "working").exists)
    clock.write_text(jump)
    time.sleep(1)
    assert process.poll() is None and machine.ended == []
    process.communicate(timeout=15)
    assert machine.ended == ["stop pod pod 1"]


def test_a_limit_that_is_no_number_is_told_and_ends_the_machine(machine):
    code, said = machine.run("run.sh", MIST_MAX_HOURS="soon")
    assert code == 1 and "expected a number" in said and machine.ended == ["stop pod pod 1"]


def test_what_is_asked_of_the_rental(machine):
    assert "stays on" in machine.run("run.sh", MIST_STAY="1")[1] and machine.ended == []
    machine.run("run.sh", RUNPOD_VOLUME_ID="volume")
    machine.run("run.sh", MIST_END="remove")
    assert machine.ended == ["remove pod pod 1"] * 2
    machine.run("run.sh", RUNPOD_POD_ID="", MIST_END_COMMAND="echo hook >>ended")
    assert machine.ended[2:] == ["hook"]
    assert "not the machine" in machine.run("run.sh", RUNPOD_POD_ID="")[1]


def test_a_rental_that_does_not_answer_is_asked_again(machine):
    machine.command("runpodctl", 'echo "$*" >>ended; [ "$(wc -l <ended)" = 3 ]')
    machine.run("run.sh")
    assert machine.ended == ["stop pod pod 1"] * 3
    machine.command("runpodctl", "exit 1")
    assert "STILL ON" in machine.run("run.sh", MIST_END_TRIES="2")[1]


class Cut(http.server.BaseHTTPRequestHandler):
    """Breaks off in the middle of the file, again and again; goes on where it is asked to."""

    content, starts, ranges = os.urandom(300_000), [], True

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        wanted = self.headers.get("Range") if self.ranges else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.starts.append(start)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        whole = not self.ranges and len(self.starts) > 1
        self.wfile.write(self.content[start:] if whole else self.content[start : start + 120_000])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Cut,), {"starts": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_goes_on_where_it_broke_off_and_shows_its_checksum(machine, server):
    handler, url = server
    file, digest = machine.folder / "models/m.safetensors", hashlib.sha256(Cut.content).hexdigest()
    code, said = machine.run("run.sh", MIST_CHECKPOINT_URL=f"{url}/m", MIST_CHECKPOINT_SHA256=digest)
    assert code == 0, said
    assert file.read_bytes() == Cut.content and digest in said
    assert handler.starts == [0, 120_000, 240_000]
    machine.run("run.sh", MIST_CHECKPOINT_URL=f"{url}/m")
    assert len(handler.starts) == 3  # it is there
    assert (machine.folder / "asked").read_text().count("--out") == 2


def test_a_download_from_a_server_that_cannot_go_on_begins_again(machine, server):
    handler, url = server
    handler.ranges = False
    part = machine.folder / "models/m.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(b"older")
    assert machine.run("fetch-checkpoint.sh", f"{url}/m", str(part.with_suffix("")), MIST_FETCH_RETRIES="3")[0] == 0
    assert part.with_suffix("").read_bytes() == Cut.content


def test_a_wrong_or_missing_checkpoint_starts_nothing_and_ends_the_machine(machine, server):
    _, url = server
    code, said = machine.run("run.sh", MIST_CHECKPOINT_URL=f"{url}/m", MIST_CHECKPOINT_SHA256="0" * 64)
    assert code == 1 and "another file" in said and not (machine.folder / "models/m.safetensors").exists()
    code, said = machine.run("run.sh", MIST_CHECKPOINT_URL=f"{url}/missing", MIST_FETCH_RETRIES="0")
    assert code == 1 and "could not be fetched" in said
    assert machine.ended == ["stop pod pod 1"] * 2 and not (machine.folder / "asked").exists()


HOST = """
import http.server, json, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        queue = pathlib.Path({folder!r}, "queue")
        body = json.dumps({{"queue_running": [1] * queue.exists(), "queue_pending": []}}).encode()
        self.send_response(200), self.send_header("Content-Length", str(len(body))), self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
LOG_IN = {"MIST_USER": "artist", "MIST_PASSWORD": "a long password"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def host(machine):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    for name in ("main.py", "launch.py"):
        path = machine.folder / "host" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(HOST.format(folder=str(machine.folder)))
    (machine.folder / "models").mkdir()
    (machine.folder / "models/m.safetensors").write_bytes(b"model")
    port, inner = free_port(), free_port()
    machine.environment |= {"MIST_HOST_DIR": str(machine.folder / "host"), "MIST_HOST_PYTHON": sys.executable, **LOG_IN}
    machine.environment |= {"MIST_PORT": port, "MIST_INNER_PORT": inner, "MIST_IDLE_MINUTES": "0.05"}
    machine.url = f"http://127.0.0.1:{port}/queue"
    return machine


def ask(url, user=None, password=None):
    request = urllib.request.Request(url)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError:
        return None, None


@pytest.mark.parametrize("kind, models", [("comfyui", "checkpoints"), ("webui", "Stable-diffusion")])
def test_a_host_asks_for_a_log_in_and_ends_its_machine_when_idle(host, kind, models):
    process = host.start("host.sh", kind, MIST_IDLE_MINUTES="0.1")
    assert host.wait_for(lambda: ask(host.url, *LOG_IN.values())[0] == 200)
    assert ask(host.url)[0] == 401 and ask(host.url, "artist", "wrong")[0] == 401
    assert (host.folder / "host/models" / models / "m.safetensors").read_bytes() == b"model"
    users = host.folder / "run/users"
    assert "a long password" not in users.read_text() and users.stat().st_mode & 0o77 == 0
    while process.poll() is None:  # strangers at the door keep nothing awake
        ask(host.url)
        time.sleep(0.1)
    assert host.ended == ["stop pod pod 1"] and "nobody worked" in process.communicate()[0]


def test_a_queue_a_busy_gpu_and_requests_keep_a_host_awake(host):
    host.command("nvidia-smi", "if [ -e busy ]; then echo 80; else echo 0; fi")
    process = host.start("host.sh", "comfyui")
    assert host.wait_for(lambda: ask(host.url, *LOG_IN.values())[0] == 200)
    for reason in ("queue", "busy"):
        (host.folder / reason).touch()
        time.sleep(4)
        assert process.poll() is None, reason
        (host.folder / reason).unlink()
    for _ in range(16):
        ask(host.url, *LOG_IN.values())
        time.sleep(0.25)
    assert process.poll() is None and host.ended == []
    process.communicate(timeout=30)
    assert host.ended == ["stop pod pod 1"]


@pytest.mark.parametrize("log_in", [{"MIST_USER": ""}, {"MIST_PASSWORD": "short"}])
def test_a_host_without_a_log_in_does_not_start(host, log_in):
    code, said = host.run("host.sh", "comfyui", **log_in)
    assert code == 1 and "log-in" in said and host.ended == ["stop pod pod 1"]


def test_a_host_that_crashes_ends_its_machine(host):
    (host.folder / "host/main.py").write_text("raise SystemExit(3)")
    assert host.run("host.sh", "comfyui")[0] == 3 and host.ended == ["stop pod pod 1"]


def test_what_skypilot_runs_is_this_part_of_the_gallery_and_leaves_the_end_to_skypilot(machine):
    task = yaml.safe_load((DEPLOY / "sky.yaml").read_text("utf-8"))
    (machine.folder / "mist/bin").mkdir(parents=True)
    machine.command("mist", 'echo "$* of $MIST_CHECKPOINT" >asked').rename(machine.folder / "mist/bin/mist")
    own = {**task["envs"], "HOME": str(machine.folder), "RESULTS": "s3://my bucket", "SHARD": "2/4"}
    environment = {**machine.environment, **own, "ARGUMENTS": "--strength 8"}
    subprocess.run(["bash", "-c", task["run"]], cwd=DEPLOY.parent, env=environment, check=True, capture_output=True)
    asked = "protect /gallery --out s3://my bucket --shard 2/4 --strength 8 of /models/checkpoint.safetensors\n"
    assert (machine.folder / "asked").read_text() == asked and machine.ended == []


def test_the_health_check_asks_the_child(machine):
    machine.command("mist", "touch working; exec sleep 20")
    process = machine.start("run.sh")
    assert machine.wait_for((machine.folder / "working").exists)
    assert machine.run("healthcheck.sh")[0] == 0
    process.terminate()
    process.communicate(timeout=30)
    assert machine.run("healthcheck.sh")[0] != 0


def test_images_hold_no_weights_and_run_as_nobody_special():
    for path in (DEPLOY / "Dockerfile", DEPLOY / "host.Dockerfile"):
        lines = path.read_text("utf-8").splitlines()
        assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE}"]
        assert [line for line in lines if line.startswith("USER")][-1] == "USER ${START_AS}"
        assert "ARG START_AS=mist" in lines
        assert any(line.startswith("HEALTHCHECK") for line in lines) and any('["tini"' in line for line in lines)
        assert not [line for line in lines if "safetensors" in line or "ADD" in line.split()]
