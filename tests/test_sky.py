"""The SkyPilot file against SkyPilot's own schema and parser, where SkyPilot is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[1] / "deploy/sky.yaml"


@pytest.fixture
def sky():
    return pytest.importorskip("sky", reason="SkyPilot is not installed")


def test_the_file_is_a_task_by_skypilots_own_schema(sky):
    import jsonschema
    from sky.utils import schemas

    task = yaml.safe_load(FILE.read_text("utf-8"))
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    for place in (task["resources"]["autostop"], task["resources"]):
        place["idle_minuets"] = 5
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(task["resources"], schemas.get_resources_schema())
        del place["idle_minuets"]


def test_skypilot_reads_it_with_the_users_own_places(sky, tmp_path, monkeypatch):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "m.safetensors").write_bytes(b"model")
    monkeypatch.chdir(FILE.parents[1])
    overrides = {"GALLERY": str(tmp_path / "gallery"), "CHECKPOINT": str(tmp_path / "m.safetensors"), "SHARD": "2/4"}
    task = sky.Task.from_yaml_config(yaml.safe_load(FILE.read_text("utf-8")), env_overrides=list(overrides.items()))
    assert task.envs["SHARD"] == "2/4" and task.file_mounts["/gallery"] == overrides["GALLERY"]
    clouds = {str(resources.cloud).lower() for resources in task.resources}
    assert clouds == {"runpod", "aws"}
    for resources in task.resources:
        assert resources.autostop_config.enabled and resources.autostop_config.down
        assert resources.autostop_config.idle_minutes == 5


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SKY_DRYRUN"), reason="needs cloud credentials: SKY_DRYRUN=1")
def test_skypilots_dry_run_finds_a_machine(sky, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"model")
    words = ["--env", f"GALLERY={tmp_path}", "--env", f"CHECKPOINT={tmp_path / 'm.safetensors'}"]
    command = [str(Path(sys.executable).with_name("sky")), "launch", "--dryrun", "--yes", str(FILE), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FILE.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
