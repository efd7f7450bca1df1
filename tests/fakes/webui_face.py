"""What the web UI's face imports besides the adapter's `modules`: gradio and more of the host.

Just enough for `mist_webui` to be imported and called; what it shows and says is kept in `shown` and `said`.
"""

from __future__ import annotations

import importlib
import json
import re
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
from fastapi import HTTPException  # noqa: F401  # what the API's answers are raised as
from PIL import Image

from . import webui
from .toy import ToySurrogate

shown: list[Component] = []
"""Every component in the order in which it was made."""
said: list[str] = []
"""What was told to the page."""


class Component:
    """Any component of gradio, also as a context."""

    def __init__(self, *arguments, **options):
        self.arguments, self.options, self.value = arguments, options, options.get("value")
        shown.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def _event(self, **_):
        return None

    click = change = blur = submit = _event

    def texts(self):
        """Words for a reader's eyes, but not the names that are settings."""
        first = self.arguments[0] if self.arguments else None
        found = [first if isinstance(first, str) else None, self.options.get("label"), self.options.get("info")]
        if isinstance(first, list) and self.options.get("elem_id") == "mist_mask_mode":
            found += first
        return [text for text in found if text]


class Gradio(ModuleType):
    __version__ = "3.41.2"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Component

    @staticmethod
    def Warning(message):  # noqa: N802
        said.append(message)


class OptionInfo:
    def __init__(self, default, label, *_, section, component_args=None):
        self.default, self.label, self.section, self.component_args = default, label, section, component_args

    def info(self, _):
        return self

    needs_reload_ui = lambda self: self  # noqa: E731


class OptionHTML(OptionInfo):
    def __init__(self, text):
        super().__init__(text, "", section=None)


class State(SimpleNamespace):
    """`shared.state` before a job."""

    def __init__(self):
        super().__init__(interrupted=False, skipped=False, stopping_generation=False, job="", job_count=1, job_no=0)
        self.sampling_step, self.sampling_steps, self.textinfo, self.current_latent = 0, 0, None, "a stale latent"
        self.previews = 0

    def begin(self, job):
        self.job = job

    def end(self):
        self.job = ""

    def assign_current_image(self, image):
        assert isinstance(image, Image.Image)
        self.previews += 1


def _options():
    return SimpleNamespace(
        samples_format="png",
        webp_lossless=False,
        export_for_4chan=False,
        target_side_length=4000,
        img_downscale_threshold=4.0,
        live_previews_enable=True,
        enable_pnginfo=True,
        add_option=lambda name, info: None,
        data={},
    )


def reset():
    """The host as it starts."""
    shown.clear()
    said.clear()
    shared = webui.modules["shared"]
    shared.opts, shared.state = _options(), State()
    shared.cmd_opts = SimpleNamespace(api=True, nowebui=False, api_auth=None, hide_ui_dir_config=False)
    shared.hide_dirs, shared.restricted_opts = {"visible": True}, set()
    shared.OptionInfo, shared.OptionHTML = OptionInfo, OptionHTML
    return shared


def _quoted(value):
    return json.dumps(str(value), ensure_ascii=False) if re.search(r"[,:\n]", str(value)) else str(value)


def _modules():
    nothing = lambda *_, **__: None  # noqa: E731
    return {
        "call_queue": {"queue_lock": nullcontext(), "wrap_gradio_gpu_call": lambda f, **_: f},
        "errors": {"report": lambda message, **_: said.append(message)},
        "images": {
            "read_info_from_image": lambda image: (image.info.get("parameters"), {}),
            "image_grid": lambda pictures, batch_size: Image.fromarray(np.hstack([np.asarray(x) for x in pictures])),
            "get_next_sequence_number": lambda folder, basename: 7,
        },
        "infotext_utils": {
            "quote": _quoted,
            "ParamBinding": nothing,
            "register_paste_params_button": nothing,
        },
        "paths_internal": {"default_output_dir": "outputs"},
        "progress": dict.fromkeys(("create_task_id", "add_task_to_queue", "start_task", "finish_task"), nothing),
        "script_callbacks": {},
        "scripts": {"Script": object, "AlwaysVisible": object()},
        "scripts_postprocessing": {"ScriptPostprocessing": object},
        "ui_components": {"InputAccordion": Component, "FormRow": Component},
    }


def _face(*names):
    """Modules of `mist_webui`, bound to these fakes."""
    reset()
    inside = {name: webui.new_module(f"modules.{name}", values) for name, values in _modules().items()}
    with webui.installed(**inside), webui.in_sys_modules({"gradio": Gradio("gradio")}):
        return SimpleNamespace(**{name: importlib.import_module(f"mist_webui.{name}") for name in names})


face = _face(
    *[
        "always_on",
        "api",
        "controls",
        "evaluating",
        "extras",
        "folder",
        "gradio3_canvas",
        "gradio_versions",
        "infotext",
        "jobs",
        "made",
        "options",
        "pictures",
        "progress",
        "saving",
        "set_requests",
        "sets",
        "tab",
    ]
)
QUICK = {"steps": 2, "strength": 8}


def protect_in_tab(
    canvas=None,
    drawn=None,
    *values,
    chosen=0,
    mode=None,
    mask=None,
    source="",
    destination="",
    deep=False,
    together=False,
    target=None,
    size=0,
    save=False,
    of_set=(),
):
    """What "Protect" does with what is on the page; `values` are of the controls, `of_set` of a set's, in their order.
    What was protected last, the gallery, the report, the log."""
    named = (mode or face.tab.PAINTED, mask, source, destination, deep, together, target, size, save)
    own = [*of_set, *[None] * len(face.controls.SET_NAMES)][: len(face.controls.SET_NAMES)]
    return face.tab._protect("task", chosen, canvas, drawn, *named, *own, *values)


def start(monkeypatch, tmp_path):
    """The host as it starts, with a small model loaded; its `shared`."""
    monkeypatch.setattr(face.jobs, "loaded_model", lambda **options: ToySurrogate())
    face.made._digests.clear()
    monkeypatch.setattr(face.options, "OUTPUT_FOLDER", str(tmp_path / "saved"))
    return reset()


def interrupt_at(step):
    """The user interrupts when so many steps are done."""

    class Interrupted(State):
        hit = False

        @property
        def interrupted(self):
            self.hit = self.hit or self.sampling_step >= step
            return self.hit

        @interrupted.setter
        def interrupted(self, _):
            pass

    webui.modules["shared"].state = Interrupted()


def painting(mode="RGB", size=(64, 64), seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(30, 220, (*size[::-1], len(mode)), dtype=np.uint8))


def shift(image, expected):
    """Levels by which each value moved."""
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected))


def parsed(infotext):
    """As the web UI reads it: infotext_utils.parse_generation_parameters."""
    last = infotext.strip().split("\n")[-1]
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    return {key: json.loads(text) if text[:1] == text[-1:] == '"' != text else text for key, text in found}
