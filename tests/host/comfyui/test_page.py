"""The page as a newcomer meets it, in headless Chromium: our templates, Run, the picture so far, the result."""

import json
import time

import pytest
from browser import page  # noqa: F401  # a fixture
from host_process import ROOT, keep

from .client import PACK_NAME
from .pictures import write_picture

TEMPLATES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
NODES = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
READY = "!!(window.app && app.graph && app.canvas && document.querySelector('canvas') && app.ui)"
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
LOAD = """(async () => {
    const answer = await fetch('/api/workflow_templates/%s/%s.json');
    await app.loadGraphData(await answer.json(), true, true);
})()"""
RUN = "document.querySelector('button[data-testid=queue-button], [data-testid=queue-button] button')"
TYPES = "app.graph._nodes.map(node => node.type)"
FRAMED = "app.graph._nodes.filter(node => node.has_errors).map(node => node.type)"
UNKNOWN = "app.graph._nodes.map(node => node.type).filter(type => !LiteGraph.registered_node_types[type])"
SHOWN = "(app.graph._nodes.find(node => node.type == '%s').imgs ?? []).length > 0"
OURS = ("/extensions/" + PACK_NAME, "Mist")


@pytest.fixture(scope="module")
def newcomer(comfy, base):
    """A host with the checkpoint and the small VAE that the templates name, and the picture that ComfyUI ships."""
    base.need("taesd_encoder", "taesd_decoder")
    checkpoints = base.path / "models" / "checkpoints"
    named = checkpoints / "v1-5-pruned-emaonly-fp16.safetensors"
    named.symlink_to((checkpoints / "sd1.safetensors").resolve())
    write_picture(base.path / "input" / "example.png", 96, 64)
    for name, value in SETTINGS.items():
        comfy.post(f"/settings/{name}", value)
    return comfy


@pytest.fixture
def canvas(page, newcomer):  # noqa: F811
    page.open(newcomer.url)
    page.wait_for(READY, 120)
    page.wait_for("!!LiteGraph.registered_node_types.MistProtect")
    return page


def load(canvas, template):
    canvas.evaluate(LOAD % (PACK_NAME, template))
    canvas.wait_for(f"{TYPES}.includes('MistProtect')")


def set_steps(canvas, steps):
    canvas.evaluate(
        "for (const node of app.graph._nodes) for (const widget of node.widgets ?? [])"
        f" if (widget.name == 'steps') widget.value = {steps}"
    )


def next_prompt(host, done, seconds=300):
    """Its id, as soon as it is done."""
    until = time.monotonic() + seconds
    while not (found := host.get("/history").keys() - done):
        assert time.monotonic() < until, host.tail()
        time.sleep(0.2)
    return found.pop()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_loads_runs_previews_and_shows_the_result(canvas, newcomer, template, tmp_path):
    assert template in newcomer.get("/workflow_templates")[PACK_NAME]
    load(canvas, template)
    assert canvas.evaluate(UNKNOWN) == canvas.evaluate(FRAMED) == []
    set_steps(canvas, 3 + TEMPLATES.index(template))  # a cached result would show no preview
    done = set(newcomer.get("/history"))
    canvas.evaluate(f"{RUN}.click()")
    canvas.wait_for(SHOWN % "MistProtect", 300)
    canvas.wait_for(SHOWN % "MistSaveImage", 300)
    assert newcomer.wait(next_prompt(newcomer, done)).ok
    keep(canvas.screenshot(tmp_path / f"comfyui_{template}.png"))
    assert canvas.evaluate(FRAMED) == []
    assert not [entry for entry in canvas.console if any(word in entry for word in OURS)]


@pytest.mark.parametrize("node", NODES)
def test_a_node_has_its_page_in_the_help_panel(canvas, node):
    text = canvas.evaluate(f"fetch('/extensions/{PACK_NAME}/docs/{node}.md').then(answer => answer.text())")
    assert text == (ROOT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_the_page_gets_our_words(newcomer, language):
    own = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    served = newcomer.get("/i18n")[language]["nodeDefs"]
    assert own and own.items() <= served.items()
