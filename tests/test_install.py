"""install.py as hosts run it: a process of its own, harmless where there is nothing to do or nobody to do it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "install.py"
# A module that hides omegaconf from the finder, as in a host without it.
HIDE = """
import importlib.util, runpy, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "omegaconf" else found(name, *rest)
runpy.run_path(sys.argv[1], run_name="__main__")
assert "torch" not in sys.modules
"""


def run(*arguments, **options):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_happens_where_nothing_is_missing(tmp_path):
    assert run(SCRIPT, cwd=tmp_path) == ""


def test_outside_a_web_ui_it_says_what_to_type(tmp_path):
    assert '-m pip install "omegaconf>=2.2,<3"' in run("-c", HIDE, SCRIPT, cwd=tmp_path)


def test_in_a_web_ui_its_own_installer_is_asked_and_its_failure_survived(tmp_path):
    launch = tmp_path / "launch.py"
    launch.write_text("def run_pip(command, description): print('asked to', command)")
    assert 'asked to install "omegaconf>=2.2,<3"' in run("-c", HIDE, SCRIPT, cwd=tmp_path)
    launch.write_text("def run_pip(command, description): raise RuntimeError('no network')")
    assert "could not install omegaconf>=2.2,<3: no network" in run("-c", HIDE, SCRIPT, cwd=tmp_path)


def test_it_names_what_the_requirements_name():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert f'REQUIREMENT = "{lines[-1]}"' in SCRIPT.read_text("utf-8")
