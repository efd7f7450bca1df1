"""What ComfyUI's page reads beside the code (templates, translations, help pages), against the nodes' schemas."""

import json
import re
from pathlib import Path

import pytest
from fakes import comfyui_pack
from PIL import Image

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
HELP = ROOT / "web" / "docs"
SOCKETS = ("IMAGE", "MASK", "VAE", "MODEL", "CLIP", "CONDITIONING", "MIST_OPTIONS")


@pytest.fixture(params=["old", "new"])
def schemas(request, monkeypatch, tmp_path):
    """By node id."""
    comfyui_pack.install(monkeypatch, tmp_path, request.param)
    _, nodes = comfyui_pack.load(monkeypatch)
    return {name: node.GET_SCHEMA() for name, node in nodes.items()}


def widgets(schema):
    """Names in the order in which a workflow lists their values; the control that a page gives a seed counts as one."""
    found = []
    for entry in schema.inputs:
        if entry.io_type not in SOCKETS:
            found += [entry.id, *(["control"] if entry.id == "seed" else [])]
    return found


def ours(template, schemas):
    nodes = json.loads(template.read_text(encoding="utf-8"))["nodes"]
    return [node for node in nodes if node["type"] in schemas]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_fits_the_nodes(template, schemas):
    nodes = ours(template, schemas)
    assert "MistProtect" in {node["type"] for node in nodes}
    for node in nodes:
        schema = schemas[node["type"]]
        assert len(node["widgets_values"]) == len(widgets(schema))
        inputs = {entry.id: entry.io_type for entry in schema.inputs}
        linked = {slot["name"]: slot["type"] for slot in node["inputs"] if "widget" not in slot}
        assert linked.items() <= inputs.items()
        assert [slot["name"] for slot in node["outputs"]] == [entry.id for entry in schema.outputs or ()]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_the_links_of_a_template_join_slots_of_one_type(template):
    workflow = json.loads(template.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["links"]
    for number, source, output, sink, entry, kind in workflow["links"]:
        given, taken = nodes[source]["outputs"][output], nodes[sink]["inputs"][entry]
        assert number in given["links"] and taken["link"] == number
        assert "*" in (given["type"], taken["type"]) or given["type"] == taken["type"] == kind


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_a_square_picture_for_its_card(template):
    with Image.open(template.with_suffix(".jpg")) as card:
        assert card.width == card.height >= 256
    assert template.with_suffix(".jpg").stat().st_size < 64_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_on_the_nodes_is_translated(language, schemas):
    words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert words.keys() == schemas.keys()
    for name, schema in schemas.items():
        node = words[name]
        assert node["display_name"] and node["description"]
        assert node.get("inputs", {}).keys() == {entry.id for entry in schema.inputs}
        assert all(entry["name"] and entry["tooltip"] for entry in node.get("inputs", {}).values())
        assert len(node["outputs"]) == len(schema.outputs) if schema.outputs else not node.get("outputs")


def test_every_node_has_a_help_page_with_pictures_that_names_all_its_inputs(schemas):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in HELP.glob("*.md")}
    assert pages.keys() == schemas.keys()
    for name, page in pages.items():
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
        assert pictures
        for picture in pictures:
            with Image.open(HELP / picture) as image:
                image.verify()
        assert not [entry.id for entry in schemas[name].inputs if f"`{entry.id}`" not in page]
