"""In a copy of the repository whose table has one control more, "fog": what each face makes of it."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pytest import MonkeyPatch

FOG = 5.1


def settings():
    from mist_attack.settings import LIMITS, Controls, controls_from, resolve

    asked = resolve("quick", {"fog": str(FOG)})
    assert asked.haze == FOG / 255 and controls_from(asked)["fog"] == FOG
    assert resolve().haze == 0 and Controls(fog=3).settings().haze == 3 / 255 and LIMITS["fog"] == (0, 51)


def command():
    from mist_attack.command import flags, native

    _, parser, *_ = flags.parser()
    assert "--fog LEVELS" in parser.format_help() and "How much fog there is." in parser.format_help()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    options = parser.parse_args(["a.png", "--out", "out", "--fog", str(FOG)])
    assert native.request_for(options).settings.haze == FOG / 255


def comfyui():
    from fakes import comfyui_pack

    with MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        comfyui_pack.install(patch, Path(folder))
        _, nodes = comfyui_pack.load(patch)
        widget = nodes["MistOptions"].GET_SCHEMA().inputs[-1]
        assert widget.id == "fog" and widget.tooltip == "How much fog there is."
        assert (widget.keywords["min"], widget.keywords["max"], widget.keywords["default"]) == (0, 51, 0)
        (options,) = nodes["MistOptions"].execute(fog=FOG).args
        assert _request(nodes).settings_of("default", {}, options).haze == FOG / 255


def _request(nodes):
    return sys.modules[nodes["MistOptions"].__module__.replace(".options", ".request")]


def remote():
    from mist_attack.runners.comfyui_remote.runner import graph_for
    from mist_attack.settings import resolve

    graph = graph_for(resolve("default", {"fog": FOG}), "model", {"image": "a.png"})
    assert graph["options"]["inputs"]["fog"] == FOG


def webui():
    from fakes import webui_face

    face = webui_face.face
    with MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        shared = webui_face.start(patch, Path(folder))
        added = {}
        shared.opts.add_option = added.__setitem__
        face.options.on_ui_settings()
        assert added["mist_fog"].label == "Fog" and added["mist_fog"].default == 0
        face.tab.on_ui_tabs()
        (slider,) = [found for found in webui_face.shown if found.options.get("elem_id") == "mist_tab_fog"]
        assert slider.options["maximum"] == 51 and slider.options["info"] == "How much fog there is."
        assert face.controls.NAMES[-1] == "fog"
        assert face.options.settings_from({"fog": FOG}).haze == FOG / 255  # as the API does
        assert face.api.info().defaults["fog"] == 0


def infotext():
    from fakes import webui_face

    with MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        webui_face.start(patch, Path(folder))
        asked = webui_face.face.options.settings_from({**webui_face.QUICK, "fog": FOG})
        outcome = webui_face.face.jobs.protect_picture(webui_face.painting(), asked)
        assert webui_face.face.infotext.keys_of(outcome.report)["Mist fog"] == str(FOG)


def texts():
    from texts import write

    found = {path.relative_to(write.ROOT).as_posix(): text for path, text in write.written()}
    assert found["locales/en/nodeDefs.json"].count('"fog (levels)"') == 1
    for name in ("locales/zh/nodeDefs.json", "localizations/ja_JP.json", "README.md", "web/docs/MistOptions.md"):
        assert "How much fog there is." in found[name], name
    assert "| Fog | `fog` | 0 to 51 levels |" in found["docs/webui.md"] and "`--fog`" in found["README.md"]


if __name__ == "__main__":
    for check in (settings, command, comfyui, remote, webui, infotext, texts):
        check()
        sys.stdout.write(f"{check.__name__}\n")
