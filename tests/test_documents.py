"""What the documents name is there: paths, modules, targets of make; and CI runs what `make check` runs."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
OF_THE_HOUSE = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
FOLDERS = ("*.md", ".github/*.md", "docs/*.md", "deploy/*.md", "mist_attack/demo/*.md", "web/docs/*.md")
DOCUMENTS = sorted(path for pattern in FOLDERS for path in ROOT.glob(pattern))
SOURCES = sorted(
    path
    for folder in ("mist_attack", "mist_webui", "nodes", "scripts", "training", "bench", "tests", "deploy", ".ci")
    for pattern in ("*.py", "*.sh", "*.yaml")
    for path in (ROOT / folder).rglob(pattern)
)
FILE = r"[\w./-]*\w\.(?:py|md|yaml|yml|toml|sh|cpp)"
ELSEWHERE = {
    "mist_v3.py": "Mist's own",
    "setup.py": "of packages",
}
MADE_UP = re.compile(r"<|\.\.\.|other|queue")


def named(path):
    return str(path.relative_to(ROOT))


def in_code(text):
    """Code spans of a document outside of its listings."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def is_there(name, *folders):
    return any((folder / name).exists() for folder in folders)


@pytest.mark.parametrize("document", OF_THE_HOUSE, ids=named)
def test_every_path_of_the_house_is_there(document):
    found = [s for s in in_code(document.read_text("utf-8")) if re.fullmatch(rf"{FILE}|[\w./-]+/", s)]
    assert len(found) > 3
    missing = [name for name in found if not is_there(name, ROOT / "mist_attack", ROOT) and not MADE_UP.search(name)]
    assert not missing


def test_every_room_and_every_file_of_the_engine_is_in_the_table():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    package = ROOT / "mist_attack"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    files = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert rooms | files <= set(in_code(text))


def test_every_room_says_what_it_is():
    rooms = list((ROOT / "mist_attack").rglob("__init__.py"))
    assert not [named(path) for path in rooms if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]


def test_the_worked_examples_change_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    changed = re.findall(r"^--- (\S+)$", text, flags=re.M)
    assert len(changed) > 8 and [name for name in changed if not (ROOT / name).is_file()] == []
    assert not [name for name in re.findall(r"^\+\+\+ (\S+)$", text, flags=re.M) if (ROOT / name).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8"))
    assert not [link for link in links if ":" not in link and not (document.parent / link).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_modules_and_targets_of_make_exist(document):
    text = document.read_text("utf-8")
    for module in re.findall(r"python3? -m ((?:mist_attack|training)[\w.]*)", text):
        place = ROOT / module.rstrip(".").replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
    commands = [*in_code(text), *re.findall(r"^    (.*)", text, flags=re.M)]
    asked = [found.group(1) for found in (re.match(r"make ([a-z-]+)", command) for command in commands) if found]
    assert set(asked) <= set(targets)


def comments(path):
    """Comments and docstrings."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return re.findall(r"^\s*#.*", text, flags=re.M)
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    words = [node.value.value for node in nodes if isinstance(node.value, ast.Constant)]
    return [*map(str, words), *re.findall(r"#.*", text)]


@pytest.mark.parametrize("folder", sorted({path.relative_to(ROOT).parts[0] for path in SOURCES}))
def test_comments_name_files_that_are_there(folder):
    """By the name alone, or with folders; of a host's files more is said than a name."""
    ours = [path for path in SOURCES if path.relative_to(ROOT).parts[0] == folder]
    known = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.*") if ".venv" not in path.parts}
    missing = []
    for path in ours:
        for name in re.findall(rf"(?<![\w./*{{'\"-]){FILE}", "\n".join(comments(path))):
            there = any(whole == name or whole.endswith(f"/{name}") for whole in known)
            if not there and name not in ELSEWHERE and not (path.parent / name).exists():
                missing.append(f"{named(path)}: {name}")
    assert not missing


def test_programs_within_tests_import_modules_that_are_there():
    """Those that run in processes of their own, as text: no linter reads them."""
    missing = []
    for path in (ROOT / "tests").rglob("*.py"):
        for module in re.findall(r"^ *(?:from|import) ((?:mist_attack|training)[\w.]*)", path.read_text("utf-8"), re.M):
            place = ROOT / module.replace(".", "/")
            if not (place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()):
                missing.append(f"{named(path)}: {module}")
    assert not missing


def test_ci_runs_what_make_check_runs():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]["check"]
    ran = [step["run"] for step in steps["steps"] if "run" in step]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (checked,) = re.findall(r"^check: ([a-z ]+)", makefile, flags=re.M)
    assert ran == [f"make {target}" for target in checked.split()]
    assert "make check" in (ROOT / ".ci" / "run").read_text("utf-8")
    offered = re.search(r"Python (3\.\d+) to (3\.\d+)", (ROOT / "README.md").read_text("utf-8")).groups()
    python = steps["strategy"]["matrix"]["python"]
    assert (python[0], python[-1]) == offered and len(python) == len(set(python))
    assert f'requires-python = ">={python[0]}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_commits_are_checked_by_the_linters_of_make_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]  # nothing is fetched
    used = {" ".join(hook["entry"].split()[:2]).removeprefix(".venv/bin/") for hook in hooks[0]["hooks"]}
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
    assert used == {
        re.sub(r" (\.|--check).*", "", line.strip()).removeprefix("$(BIN)/") for line in recipe.splitlines()
    }


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_alone_lists_every_target_with_a_line():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert ".DEFAULT_GOAL := help\n" in makefile  # and so `make` alone is `make help`, which cannot build anything here
    command = ["make", "-C", str(ROOT), "--no-print-directory", "help"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    listed = {line.split(maxsplit=1)[0] for line in lines if len(line.split(maxsplit=1)) == 2}
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile, flags=re.M)
    assert listed == set(phony.split()) and len(lines) == len(listed)
