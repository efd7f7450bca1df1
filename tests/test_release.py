"""What is published: the wheel and ComfyUI's archive hold what they must and nothing else (.ci/release.py)."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mist_attack import __version__

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this copy has no commit to publish")


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["release"]


@pytest.fixture(scope="module")
def wheel(release, tmp_path_factory):
    return release.build_wheel(tmp_path_factory.mktemp("wheel"))


def packed(path, names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return path


def test_the_wheel_is_the_package_with_its_data_and_nothing_else(release, wheel):
    sizes = release.check(wheel, release.WHEEL)
    data = {".py", ".json", ".yaml", ".safetensors", ".md", ".html", ".css", ".js"}
    ours = {name for name in release.tracked("mist_attack") if Path(name).suffix in data}
    assert {name for name in sizes if not name.split("/")[0].endswith(".dist-info")} == ours
    assert f"-{__version__}-" in wheel.name


def test_a_build_leaves_nothing_in_the_checkout(wheel):
    done = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {line.split("/")[0] for line in done.stdout.splitlines() if line.startswith("?? build")}
    assert not list((ROOT / "build").glob("bdist*")) and not list((ROOT / "build").glob("lib*"))


def test_the_archive_is_what_the_registry_serves_twice_the_same(release, tmp_path):
    path = release.build_archive(tmp_path, release.version())
    sizes = release.check(path, release.ARCHIVE)
    assert list(sizes) == release.archived() and path.name == f"mist-protect-comfyui-{__version__}.zip"
    first = path.read_bytes()
    assert release.build_archive(tmp_path, release.version()).read_bytes() == first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda names: [*names, "notes.txt"], "not expected: notes.txt"),
        (lambda names: [*names, "nodes/tests/test_a.py"], "must not be in it: nodes/tests/test_a.py"),
        (lambda names: [*names, "mist_attack/demo/seed0/x.safetensors"], "must not be in it: mist_attack/demo"),
        (lambda names: [*names, "nodes/.env"], "must not be in it: nodes/.env"),
        (lambda names: [name for name in names if not name.startswith("locales")], "missing: locales"),
    ],
)
def test_a_file_too_many_or_too_few_stops_a_release(release, tmp_path, changed, said):
    path = packed(tmp_path / "archive.zip", changed(release.archived()))
    with pytest.raises(release.ReleaseError, match=f"archive.zip: {said}"):
        release.check(path, release.ARCHIVE)


def test_a_wheel_without_weights_or_with_the_training_stops_a_release(release, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    with pytest.raises(release.ReleaseError, match=r"missing: mist_attack/demo/seed1"):
        release.check(packed(tmp_path / "a.whl", [n for n in names if "seed1" not in n]), release.WHEEL)
    with pytest.raises(release.ReleaseError, match=r"training(?s:.)*must not be in it: .*training/train.py"):
        release.check(packed(tmp_path / "b.whl", [*names, "training/train.py"]), release.WHEEL)


def test_a_file_that_has_grown_stops_a_release(release, wheel):
    small = release.Contents(release.WHEEL.top, (), (), 1000)
    with pytest.raises(release.ReleaseError, match="bytes, where at most 1000 were expected"):
        release.check(wheel, small)


def test_what_no_commit_holds_is_not_published(release, tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    (tmp_path / "a.py").write_text("")
    (tmp_path / ".comfyignore").write_text("/.comfyignore\n/docs/\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("")
    git("add", "a.py", ".comfyignore", "docs/b.md")
    git("commit", "-qm", "first")
    (tmp_path / "lying_about.py").write_text("")
    release.require_commit(tmp_path)
    assert release.archived(tmp_path) == ["a.py"]
    (tmp_path / "a.py").write_text("changed")
    with pytest.raises(release.ReleaseError, match=r"a\.py"):
        release.require_commit(tmp_path)
