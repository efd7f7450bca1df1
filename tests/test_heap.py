"""Memory that serves again while a run lasts, and is the system's afterwards. In processes of their own: what an
allocator does depends on what it did before."""

import json
import subprocess
import sys

import pytest
import torch

from mist_attack.hosts.borrowing import heap

SIDE = 640  # the largest arrays are then larger than what glibc keeps by itself

pytestmark = pytest.mark.skipif(heap.glibc() is None, reason="needs Linux with glibc")

PROGRAM = f"""
import json, resource, sys, torch
from contextlib import nullcontext
from pathlib import Path
from mist_attack.bench.cost import our_step
from mist_attack.hosts.borrowing import heap
from mist_attack.hosts.headless import diffusers
from mist_attack.hosts.headless.checkpoints import find_checkpoint
from mist_attack.settings import Settings

CPU, SIDE = torch.device("cpu"), {SIDE}
model = diffusers.load(find_checkpoint("demo"), CPU)

def faults(call):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def job(ready):
    step = our_step(ready, SIDE, Settings(objective="textural", working_size=SIDE))
    step(), step()
    found = dict(faults=faults(step), held=resident())
    if "fail" in sys.argv:
        raise KeyboardInterrupt
    return found

if "plain" in sys.argv:
    heap.reused = lambda device: nullcontext()

def run(**how):
    before = resident()
    try:
        found = model.run(job, 1, SIDE, SIDE, **how)
    except KeyboardInterrupt:
        found = dict(held=resident())
    return found | dict(before=before, after=resident())
"""


def in_a_process(last_line, *arguments):
    """What `last_line` prints, after PROGRAM."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + last_line, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain():
    return in_a_process("print(json.dumps(run()))", "plain")


def test_steps_reuse_their_memory_and_give_it_back(plain):
    found = in_a_process("print(json.dumps(run()))")
    assert plain["faults"] > 10_000  # pages
    assert found["faults"] < plain["faults"] / 2
    assert found["after"] - found["before"] < (found["held"] - found["before"]) / 2


def test_it_is_given_back_after_an_error_too():
    found = in_a_process("print(json.dumps(run()))", "fail")
    assert found["after"] - found["before"] < 100 * 2**20


def test_the_low_vram_way_keeps_nothing(plain):
    found = in_a_process("print(json.dumps(run(low_vram=True)))")
    assert found["faults"] > plain["faults"] / 2


def test_on_an_accelerator_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(heap, "_keep", lambda library: pytest.fail("changed"))
    with heap.reused(torch.device("meta")), heap.given_back(torch.device("meta")):
        pass
