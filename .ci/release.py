"""Build what is published and check what is in it: `make release` leaves a wheel and ComfyUI's archive in dist/.

Both are made of the files that git tracks, as they are in a commit: nothing that only lies about here gets in. The
archive is what ComfyUI's registry would serve: all but what .comfyignore names.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WEIGHTS = tuple(f"mist_attack/demo/seed{seed}/*/*.safetensors" for seed in (0, 1))
DATA = ("mist_attack/presets.yaml", "mist_attack/hosts/headless/sd_v1/unet/config.json")
NEVER = ("*/tests/*", "tests/*", "texts/*", "training/*", "*results*.json", "*.pyc", "*.ckpt", ".*", "*/.*")


@dataclass(frozen=True)
class Contents:
    """What may and what must be in a published file; patterns as in a shell, `*` across folders too."""

    top: frozenset[str]
    """Files and folders of the first level, exactly these."""
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]
    most: int
    """Bytes, compressed."""


WHEEL = Contents(
    frozenset({"mist_attack", "*.dist-info"}), (*WEIGHTS, *DATA, "*.dist-info/entry_points.txt"), NEVER, 20 * 2**20
)
ARCHIVED = """\
CHANGELOG.md LICENSE README.md __init__.py example_workflows install.py locales mist_attack nodes pyproject.toml
requirements.txt web"""
ARCHIVE = Contents(
    frozenset(ARCHIVED.split()),
    ("nodes/__init__.py", "mist_attack/presets.yaml", "web/docs/MistProtect.md", "locales/en/nodeDefs.json"),
    (*NEVER, "mist_attack/demo/*", "mist_webui/*", "scripts/*", "bench/*", "docs/*", "deploy/*", "evidence/*"),
    2 * 2**20,
)


class ReleaseError(Exception):
    """What is wrong with a published file, or why none can be made; one line for each fault."""


def tracked(*words: str, root: Path = ROOT) -> set[str]:
    """Paths that `git ls-files` gives."""
    done = subprocess.run(["git", "ls-files", "-z", *words], cwd=root, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name}


def archived(root: Path = ROOT) -> list[str]:
    """What ComfyUI's registry gets: .comfyignore is in gitignore's syntax, so git reads it."""
    return sorted(tracked(root=root) - tracked("--cached", "--ignored", "--exclude-from=.comfyignore", root=root))


def build_archive(folder: Path, version: str, root: Path = ROOT) -> Path:
    """The same commit gives the same bytes."""
    path = folder / f"mist-protect-comfyui-{version}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in archived(root):
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            file.writestr(entry, (root / name).read_bytes())
    return path


def build_wheel(folder: Path, root: Path = ROOT) -> Path:
    """From a copy, as builds leave files where they work; with the environment's setuptools, so without a network."""
    with tempfile.TemporaryDirectory() as copy:
        for name in tracked(root=root):
            target = Path(copy, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target)
        words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", *words, "--wheel-dir", str(folder), copy], check=True)
    return max(folder.glob("mist_protect-*.whl"), key=lambda path: path.stat().st_mtime)


def check(path: Path, contents: Contents) -> Mapping[str, int]:
    """Sizes by name, of a file that is as it must be.

    Raises ReleaseError.
    """
    with zipfile.ZipFile(path) as file:
        sizes = {entry.filename: entry.file_size for entry in file.infolist()}
    faults = list(_faults(path.stat().st_size, sizes, contents))
    if faults:
        raise ReleaseError("\n".join(f"{path.name}: {fault}" for fault in faults))
    return sizes


def _faults(size: int, names: Collection[str], contents: Contents) -> Iterator[str]:
    top = {name.split("/")[0] for name in names}
    unknown = [name for name in top if not _matching([name], contents.top)]
    missing = [wanted for wanted in contents.top if not fnmatch.filter(top, wanted)]
    missing += [wanted for wanted in contents.wanted if not fnmatch.filter(names, wanted)]
    if unknown:
        yield f"not expected: {', '.join(sorted(unknown))}. Leave it out (.comfyignore), or list it in .ci/release.py"
    if missing:
        yield f"missing: {', '.join(sorted(missing))}"
    if found := _matching(names, contents.unwanted):
        yield f"must not be in it: {', '.join(sorted(found))}"
    if size > contents.most:
        yield f"{size} bytes, where at most {contents.most} were expected"


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def version(root: Path = ROOT) -> str:
    lines = (root / "mist_attack" / "__init__.py").read_text("utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("__version__"))


def require_commit(root: Path = ROOT) -> None:
    """Raises ReleaseError where tracked files differ from the commit: nobody could find them again."""
    words = ["git", "status", "--porcelain", "--untracked-files=no"]
    changed = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
    if changed:
        raise ReleaseError(f"expected a checkout without changes, found:\n{changed}Commit them, or put them away.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    folder: Path = parser.parse_args().out
    try:
        require_commit()
        folder.mkdir(parents=True, exist_ok=True)
        for path, contents in (build_wheel(folder), WHEEL), (build_archive(folder, version()), ARCHIVE):
            sizes = check(path, contents)
            unpacked = sum(sizes.values()) / 2**20
            print(f"{path}: {len(sizes)} files, {path.stat().st_size / 2**20:.1f} MiB, unpacked {unpacked:.1f} MiB")
    except ReleaseError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
