"""The one table of controls: a control that is added to it is everywhere, and what is written from it is up to date."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mist_attack.controls import BY_NAME, CONTROLS, DEFAULTS, Settings, controls_from, settings_from
from mist_attack.presets import preset_controls, preset_names
from mist_attack.sets.settings import SET_CONTROLS
from texts import write

ROOT = Path(__file__).parent.parent
MADE_UP = """    haze: float = control(
        0.0,
        name="fog",
        label="Fog",
        limits=(0, 51),
        step=0.5,
        scale=LEVELS,
        hint="How much fog there is.",
    )
    keep_tone: bool = control("""
FOLDERS = ("nodes", "mist_webui", "locales", "localizations", "web", "docs", "texts", "tests")


@pytest.fixture
def copy(tmp_path):
    """Of this repository, without its models."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.jpg"))
    ignored = shutil.ignore_patterns("__pycache__", "seed*")
    shutil.copytree(ROOT / "mist_attack", tmp_path / "mist_attack", ignore=ignored)
    for name in ("__init__.py", "README.md", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_a_control_that_is_added_to_the_table_is_in_every_face_and_travels_to_the_engine_and_back(copy):
    table = copy / "mist_attack" / "controls.py"
    known = table.read_text("utf-8")
    table.write_text(known.replace("    keep_tone: bool = control(", MADE_UP), "utf-8")
    command = [sys.executable, "-m", "fakes.made_up_control"]
    environment = {"PYTHONPATH": f"{copy}:{copy / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["settings", "command", "comfyui", "remote", "webui", "infotext", "texts"]


@pytest.mark.parametrize(("path", "text"), [pytest.param(*found, id=found[0].name) for found in write.written()])
def test_what_is_written_from_the_table_is_up_to_date(path, text):
    assert path.read_text("utf-8") == text, "make texts"


@pytest.mark.parametrize("language", write.LANGUAGES)
def test_every_control_is_translated_and_nothing_else(language):
    words = yaml.safe_load((ROOT / "texts" / f"{language}.yaml").read_text("utf-8"))
    assert words["controls"].keys() == BY_NAME.keys() | {control.name for control in SET_CONTROLS}
    for control in (*CONTROLS, *SET_CONTROLS):
        found = words["controls"][control.name]
        assert found["label"] and found["hint"] and found.get("notes", {}).keys() <= control.notes.keys()
        assert {"comfyui", "webui"} & control.notes.keys() <= found.get("notes", {}).keys(), control.name
    assert {control.scale.unit for control in CONTROLS} - {""} == words["units"].keys()


def test_every_control_can_be_read_and_its_default_is_one_of_its_values():
    for control in CONTROLS:
        control.check(control.default)
        assert control.label and re.match(r"[A-Z].*\.$", control.hint), control.name
        assert control.setting in Settings.__dataclass_fields__ and control.kind in (float, int, bool, str)
    assert settings_from({}) == Settings() and controls_from(Settings()) == DEFAULTS


@pytest.mark.parametrize("preset", preset_names())
def test_what_people_ask_for_comes_back_in_their_own_numbers(preset):
    asked = {**DEFAULTS, **preset_controls(preset), "strength": 7.3, "step": 0.7, "fusion_weight": -1.25}
    assert controls_from(settings_from(asked)) == asked
    assert settings_from(controls_from(settings_from(asked))) == settings_from(asked)
