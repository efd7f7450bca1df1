"""The architecture's promises: which way imports point, what importing does, what hosts must never install for us."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from mist_attack.needs import Objective
from mist_attack.settings import Gradient

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mist_attack"
ENGINE = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__main__.py")
EVALUATION = sorted((PACKAGE / "evaluation").glob("*.py"))
SETS = sorted((PACKAGE / "sets").glob("*.py"))
PICTURES = sorted((PACKAGE / "pictures").rglob("*.py"))
HOSTS = {"comfyui": {"comfy", "nodes", "folder_paths"}, "webui": {"modules"}, "forge": {"modules", "backend"}}
HOSTS |= {"headless": {"diffusers", "transformers"}, "taesd": {"modules"}}
HOSTS |= {"classic": {"modules", "ldm_patched"}}
FACES = {"hosts", "gallery", "runners", "command", "bench", "demo"}  # what neither the engine nor pictures know


def imports(path):
    """(level, dotted name) of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            if not node.module:
                yield from ((node.level, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", [*ENGINE, *SETS, *EVALUATION, *PICTURES], ids=lambda p: p.stem)
def test_the_engine_imports_no_host_and_no_face(path):
    foreign = set().union(*HOSTS.values())
    for level, name in imports(path):
        first = name.split(".")[0]
        assert level or first not in foreign, f"{path.name} imports {name}"
        assert not level or first not in FACES, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "gallery").glob("*.py")), ids=lambda p: p.stem)
def test_a_gallery_knows_no_host_no_flag_and_of_runners_what_one_is(path):
    foreign = set().union(*HOSTS.values()) | {"ray"}
    for level, name in imports(path):
        first = name.split(".")[0]
        assert level or first not in foreign, f"{path.name} imports {name}"
        assert level != 2 or first not in FACES - {"gallery"} or name == "runners.protocol", f"{path.name}: {name}"


def test_a_file_fits_on_a_few_screens():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 300, path


@pytest.mark.parametrize("path", sorted((PACKAGE / "hosts").rglob("*.py")), ids=lambda p: p.stem)
def test_a_host_adapter_imports_only_its_own_host(path):
    """A host is a file or a folder of that name; what they borrow with knows none."""
    own = HOSTS.get(path.relative_to(PACKAGE / "hosts").parts[0].removesuffix(".py"), set())
    foreign = set().union(*HOSTS.values()) - own
    assert not {name for level, name in imports(path) if not level} & foreign


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_the_package_imports_itself_relatively(path):
    """Hosts import it under names of their own."""
    assert not [name for level, name in imports(path) if not level and name.split(".")[0] == "mist_attack"]


@pytest.mark.parametrize("path", sorted((ROOT / "mist_webui").glob("*.py")), ids=lambda p: p.stem)
def test_what_the_web_ui_face_takes_from_the_engine_is_there(path):
    """Its modules can be imported in a web UI alone, so nothing else would tell."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mist_attack":
            module = importlib.import_module(node.module)
            for alias in node.names:
                known = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert known, ast.unparse(node)


@pytest.mark.parametrize("folder", ["mist_attack", "nodes", "mist_webui", "bench", "training", "scripts"])
def test_no_code_asks_for_the_name_of_an_objective_or_a_gradient(folder):
    """What they need is in tables, `needs.NEEDS` and `objectives.ESTIMATES`; a new one has no other place to visit."""
    names = {*get_args(Objective), *get_args(Gradient)}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            words = {part.value for x in compared for part in ast.walk(x) if isinstance(part, ast.Constant)}
            assert not words & names, f"{path}: {ast.unparse(node)}"


def test_importing_does_nothing():
    modules = [f"mist_attack.{path.stem}" for path in ENGINE if path.stem != "__init__"]
    script = f"""
import os, sys, torch
environment, state, path = dict(os.environ), torch.get_rng_state(), list(sys.path)
threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
import {", ".join(modules)}
assert environment == dict(os.environ) and path == sys.path
assert torch.equal(state, torch.get_rng_state())
assert threads == torch.get_num_threads() and grad == torch.is_grad_enabled()
assert not {{"diffusers", "transformers", "comfy", "gradio", "modules"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""


@pytest.mark.parametrize("first", ["", "import mist_attack.settings, mist_attack.report, mist_attack.protection"])
def test_the_package_offers_what_a_program_needs_and_loads_it_when_asked(first):
    """Whichever modules were imported before: no module has the name of what is offered."""
    script = f"""
import sys, mist_attack
assert "torch" not in sys.modules
{first}
from mist_attack import protect, Settings, resolve, Report
from mist_attack import protection, report, settings
assert (protect, Report, Settings, resolve) == (protection.protect, report.Report, settings.Settings, settings.resolve)
assert mist_attack.protect is protect and {{"protect", "Settings", "resolve", "Report"}} <= set(dir(mist_attack))
try:
    mist_attack.protected
except AttributeError as error:
    assert "protected" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hosts_are_made_to_install_omegaconf_alone():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    names = [re.match(r"[A-Za-z0-9._-]+", line).group() for line in lines if line]
    assert names == ["omegaconf"]
    assert "==" not in "".join(lines)


def test_no_source_names_one_kind_of_accelerator_as_its_default():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        assert ".cuda(" not in text, path
        assert not re.search(r"""(?<![=!])=\s*["']cuda["']""", text), path


def test_sources_are_ascii():
    """Consoles and editors of one code page exist, and hosts read files with them."""
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.yaml")]:
        assert path.read_bytes().isascii(), path
