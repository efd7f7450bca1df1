"""The page with a graph as people draw it for Flux and for Qwen-Image: a model, a VAE and a conditioning of their own
loaders. Before 0.33 the host has no small VAE for Qwen-Image's latents."""

import json
from pathlib import Path

import pytest
from browser import page  # noqa: F401  # a fixture
from host_process import cached_folder, keep

from .client import HERE, Graph
from .pictures import write_picture
from .prompts import Drawing
from .test_page import FRAMED, READY, RUN, SETTINGS, SHOWN, UNKNOWN, next_prompt

FAMILIES = {"flux": ("vae16", 64, 32), "qwen-image": ("taew21", 3584, 0)}
"""model -> its VAE, the width of its text encoder's output, and that of the pooled one."""


def need(base, name, place):
    """A file made once, where the host looks for it."""
    if name == "vae16":
        return base.need(name)
    folder = cached_folder(HERE / "make_families.py", HERE / "inside" / "families.py")
    if not (folder / f"{name}.safetensors").is_file():
        pytest_folder = Path(pytest.__file__).parents[1]
        base.host.script(HERE / "make_families.py", base.host.folder, pytest_folder, folder, name)
    target = base.path / "models" / place / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        target.symlink_to(folder / target.name)


def drawn(name, picture):
    """As in the hosts' own templates, the text encoder apart: it would take gigabytes."""
    vae, width, pooled = FAMILIES[name]
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")
    conditioning = graph.add("TestRandomConditioning", width=width, pooled=pooled, seed=1)
    if name == "flux":
        conditioning = graph.add("FluxGuidance", conditioning=conditioning[0], guidance=3.5)
    widgets = {"preset": "default", "mode": "fused", "strength": 8.0, "steps": 3, "fusion_weight": 1.0, "seed": 23}
    ends = {"model": model[0], "conditioning": conditioning[0], "vae": None, "image": None}
    ends["vae"] = graph.add("VAELoader", vae_name=f"{vae}.safetensors")[0]
    ends["image"] = graph.add("LoadImage", image=picture)[0]
    protected = graph.add("MistProtect", **ends, **widgets)
    graph.add("MistSaveImage", image=protected[0], **Drawing.saving(None, "families"))
    graph.add("PreviewAny", source=protected[2])
    return graph


@pytest.mark.parametrize("name", FAMILIES)
def test_a_graph_of_the_family_runs_on_the_page_and_shows_the_result(page, comfy, base, name, tmp_path):  # noqa: F811
    if name == "qwen-image" and not (base.host.folder / "comfy" / "taesd" / "taehv.py").is_file():
        pytest.skip("this ComfyUI has no small VAE for these latents")
    for file, place in ((name, "diffusion_models"), (FAMILIES[name][0], "vae")):
        need(base, file, place)
    for setting, value in SETTINGS.items():
        comfy.post(f"/settings/{setting}", value)
    graph = drawn(name, write_picture(base.path / "input" / "family.png", 96, 64))
    page.open(comfy.url)
    page.wait_for(READY, 120)
    page.wait_for("!!LiteGraph.registered_node_types.MistProtect")
    page.evaluate(f"app.loadApiJson({json.dumps(graph)}, '{name}')")
    page.wait_for("app.graph._nodes.some(node => node.type == 'MistProtect')")
    assert page.evaluate(UNKNOWN) == page.evaluate(FRAMED) == []
    done = set(comfy.get("/history"))
    page.evaluate(f"{RUN}.click()")
    page.wait_for(SHOWN % "MistSaveImage", 600)
    assert comfy.wait(next_prompt(comfy, done)).ok
    keep(page.screenshot(tmp_path / f"comfyui_{name}.png"))
    assert page.evaluate(FRAMED) == []
