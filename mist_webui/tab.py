"""The tab "Mist": a picture or a folder in, the protected picture and what changed out."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from modules import call_queue, infotext_utils, shared
from modules.ui_components import InputAccordion
from PIL import Image, ImageChops, ImageOps

from mist_attack.budget import to_levels, to_unit
from mist_attack.errors import MistError, PictureError, Stop
from mist_attack.evaluation.results import as_json
from mist_attack.evaluation.words import numbers, sentences
from mist_attack.gallery.naming import Work
from mist_attack.pictures.masks import as_mask
from mist_attack.pictures.reading import to_u8
from mist_attack.sets.settings import SetSettings
from mist_attack.settings import Settings

from . import controls, evaluating, folder, gradio_versions, infotext, options, saving, sets
from .jobs import Outcome, checked_size, in_colour, protect_picture

PICTURE, EVALUATED = 0, 2
"""Of the sources, the first and the last; between them is a directory."""
OF_A_SET = (
    "For pictures of one style that are published together: against a LoRA that is fine-tuned on all of them. "
    "Name.prompt.txt beside a picture says what it shows. Interrupt keeps what is reached, and Protect goes on from it."
)
PAINTED, NOT_PAINTED = "Protect what is painted", "Protect what is not painted"


@dataclass(frozen=True)
class Last:
    """What was protected last, and how."""

    original: Image.Image
    image: Image.Image
    settings: Settings
    target: Image.Image | None


def on_ui_tabs() -> list[tuple[gr.Blocks, str, str]]:
    with gr.Blocks(analytics_enabled=False) as tab:
        # javascript/mist.js fills in the task's id and which of the sources is chosen.
        asked = [gr.Textbox(visible=False), gr.Number(value=PICTURE, visible=False, precision=0)]
        with gr.Row(equal_height=False):
            with gr.Column(variant="compact"):
                sources, as_set, judged = _sources()
                with gr.Column(elem_id="mist_settings"):
                    widgets = controls.create("tab")
                    common = _common_inputs()
            with gr.Column():
                buttons = _buttons()
                evaluate_last, *outputs = _results()
        last = gr.State(None)
        _connect(*buttons, [*asked, *sources, *common, *as_set, *widgets.values()], [last, *outputs])
        evaluate, *pair = judged
        _connect_evaluation(evaluate, [*asked, *pair, *widgets.values()], outputs)
        _connect_evaluation_of(evaluate_last, [*asked, last], [*pair, *outputs])
    return [(tab, "Mist", "mist_tab")]


def _sources() -> tuple[list[Any], list[Any], list[Any]]:
    """What is protected; how a set is; and the button that evaluates, with its two pictures."""
    with gr.Tabs(elem_id="mist_sources"):
        with gr.TabItem("Picture", elem_id="mist_source_picture"):
            options = {"label": "Picture", "show_label": False, "elem_id": "mist_picture", "height": 420}
            canvas = gradio_versions.canvas(**options)
            gr.HTML("Paint on the picture to protect a part of it; unpainted, all of it is protected.")
            with gr.Accordion("Mask", open=False, elem_id="mist_mask_accordion"):
                mode = gr.Radio([PAINTED, NOT_PAINTED], value=PAINTED, label="Painted mask", elem_id="mist_mask_mode")
                mask = gradio_versions.picture(label="Mask picture: white may change", elem_id="mist_mask", height=240)
        with gr.TabItem("Batch from directory", elem_id="mist_source_folder"):
            source = gr.Textbox(label="Input directory", elem_id="mist_folder_in", **shared.hide_dirs)
            destination = gr.Textbox(label="Output directory", elem_id="mist_folder_out", **shared.hide_dirs)
            deep = gr.Checkbox(value=False, label="Also the folders in it", elem_id="mist_folder_deep")
            count = gr.HTML(elem_id="mist_folder_count")
            gr.HTML("Left empty, the output directory is 'mist' inside the input directory. Originals are not touched.")
            with InputAccordion(False, label="As one set", elem_id="mist_folder_set") as together:
                gr.HTML(OF_A_SET)
                as_set = controls.create_set()
            together.do_not_save_to_config = True
        with gr.TabItem("Evaluate", elem_id="mist_source_evaluate"):
            before = gradio_versions.picture(label="Original", elem_id="mist_evaluate_before", height=240)
            after = gradio_versions.picture(
                label="Protected, of the same size", elem_id="mist_evaluate_after", height=240
            )
            gr.HTML("What the loaded model makes of both, and what is left after JPEG, reductions and filters.")
            evaluate = gr.Button("Evaluate", variant="primary", elem_id="mist_evaluate")
    named = [source, destination, deep]
    for event in (source.blur, source.submit, destination.blur, destination.submit, deep.change):
        event(fn=_counted, inputs=named, outputs=[count], show_progress=False)
    return [*canvas, mode, mask, *named, together], as_set, [evaluate, before, after]


def _common_inputs() -> list[Any]:
    with gr.Accordion("Target picture and output", open=False, elem_id="mist_output_accordion"):
        target = gradio_versions.picture(
            label="Target picture, in place of the pattern", elem_id="mist_target_picture", height=240
        )
        size = gr.Slider(
            0,
            4096,
            value=0,
            step=8,
            label="Output size: longer side; 0 keeps the picture's",
            elem_id="mist_output_size",
        )
        save = gr.Checkbox(value=True, label="Save the protected picture (PNG)", elem_id="mist_save")
    return [target, size, save]


def _buttons() -> tuple[Any, Any]:
    with gr.Row():
        protect = gr.Button("Protect", variant="primary", elem_id="mist_protect")
        interrupt = gr.Button("Interrupt", elem_id="mist_interrupt")
    return protect, interrupt


def _results() -> list[Any]:
    """The button that evaluates them; gallery, report and log."""
    with gr.Column(variant="panel", elem_id="mist_results_panel"):
        with gr.Group(elem_id="mist_gallery_container"):
            gallery = gradio_versions.gallery(
                label="Protected, and what changed",
                show_label=False,
                elem_id="mist_gallery",
                columns=2,
                height=380,
                object_fit="contain",
            )
        with gr.Row(elem_classes="image-buttons"):
            for name in ("img2img", "inpaint", "extras"):
                button = gr.Button(f"Send to {name}", elem_id=f"mist_send_to_{name}")
                # No text component: the web UI would paste a report into the prompt.
                binding = infotext_utils.ParamBinding(button, name, source_image_component=gallery)
                infotext_utils.register_paste_params_button(binding)
            evaluate = gr.Button("Evaluate this result", elem_id="mist_evaluate_last")
        report = gr.HTML(elem_id="mist_report")
        log = gr.HTML(elem_id="mist_log", elem_classes="html-log")
    return [evaluate, gallery, report, log]


def _connect(protect: Any, interrupt: Any, inputs: list[Any], outputs: list[Any]) -> None:
    queued = call_queue.wrap_gradio_gpu_call(_protect, extra_outputs=[None, None, ""])
    gradio_versions.on_click(protect, queued, js="mist_submit", inputs=inputs, outputs=outputs)
    interrupt.click(fn=lambda: shared.state.interrupt(), inputs=[], outputs=[], queue=False)


def _connect_evaluation(evaluate: Any, inputs: list[Any], outputs: list[Any]) -> None:
    queued = call_queue.wrap_gradio_gpu_call(_evaluate, extra_outputs=[None, ""])
    gradio_versions.on_click(evaluate, queued, js="mist_submit", inputs=inputs, outputs=outputs)


def _connect_evaluation_of(evaluate: Any, inputs: list[Any], outputs: list[Any]) -> None:
    queued = call_queue.wrap_gradio_gpu_call(_evaluate_last, extra_outputs=[None, None, None, ""])
    gradio_versions.on_click(evaluate, queued, js="mist_evaluate_last", inputs=inputs, outputs=outputs)


def _evaluate_last(task: str, chosen: int, last: Last | None) -> list[Any]:
    """The two pictures into their places; gallery, report and log. By the settings with which it was protected."""
    if last is None:
        words = "Protect a picture first: the last one that was protected is evaluated."
        return [gr.update(), gr.update(), None, "", f"<div class='error'>{words}</div>"]
    return [last.original, last.image, *_judged(last.original, last.image, last.settings, last.target)]


def _evaluate(task: str, chosen: int, before: Any, after: Any, *values: Any) -> list[Any]:
    """Gallery, report and log."""
    try:
        if before is None or after is None:
            raise PictureError("Choose two pictures first: the original, and the protected one of the same size.")
        settings = controls.settings_from(values)
    except MistError as error:
        return [None, "", f"<div class='error'>{html.escape(str(error))}</div>"]
    return _judged(before, after, settings)


def _judged(before: Any, after: Any, settings: Settings, target: Any = None) -> list[Any]:
    try:
        found, pair = evaluating.evaluate(before, after, settings, target)
    except (MistError, Stop) as error:
        return [None, "", f"<div class='error'>{html.escape(str(error))}</div>"]
    return [[Image.fromarray(to_u8(to_unit(pair.sheet())))], _evaluation_of(found, pair.sheet_words()), ""]


def _evaluation_of(found: dict[str, Any], sheet_words: str) -> str:
    words = "".join(f"<p>{html.escape(line)}</p>" for line in (*sentences(found), sheet_words))
    figures = html.escape("\n".join(numbers(found)))
    return (
        f"{words}<pre class='mist-report'>{figures}</pre>"
        f"<details><summary>JSON</summary><pre class='mist-report'>{html.escape(as_json(found))}</pre></details>"
    )


def _protect(
    task: str,
    chosen: int,
    canvas: Any,
    drawn: Any,
    mode: str,
    mask: Any,
    source: str,
    destination: str,
    deep: bool,
    together: bool,
    target: Any,
    size: float,
    save: bool,
    *values: Any,
) -> list[Any]:
    """What was protected last; gallery, report and log. values: of a set's controls, then of the others."""
    try:
        own, values = values[: len(controls.SET_NAMES)], values[len(controls.SET_NAMES) :]
        settings = controls.settings_from(values)
        output = {"target": target, "output_size": checked_size(size)}
        if chosen == EVALUATED:
            raise PictureError("Choose what to protect: a picture, or a directory. Evaluate has a button of its own.")
        if chosen == PICTURE:
            return _protect_picture(gradio_versions.painted(canvas, drawn), mode, mask, settings, save, output)
        works = _works_in(source, destination, deep)
        if together:
            _, out = folder.places(source, destination)
            return _protect_set(works, out, settings, controls.set_settings_from(own), output)
        return _protect_folder(works, settings, output)
    except (MistError, Stop) as error:
        return [None, None, "", f"<div class='error'>{html.escape(str(error))}</div>"]


def _protect_picture(
    canvas: tuple[Any, Any], mode: str, mask: Any, settings: Settings, save: bool, output: dict[str, Any]
) -> list[Any]:
    picture, drawn = canvas
    if picture is None:
        raise PictureError("Choose a picture first: drop it, paste it, or click the field.")
    picture = _without_opaque_alpha(picture)
    both = _combined(mask, drawn, mode, picture.size)
    shared.state.job_count = 1
    outcome = protect_picture(picture, settings, mask=both, **output)
    return [Last(outcome.original, outcome.image, settings, output["target"]), *_shown(outcome, picture, save)]


def _works_in(source: str | None, destination: str | None, deep: bool) -> list[Work]:
    if shared.cmd_opts.hide_ui_dir_config:
        raise MistError("Directories cannot be named here: the web UI runs with --hide-ui-dir-config.")
    return folder.works_in(source, destination, deep=bool(deep))


def _counted(source: str | None, destination: str | None, deep: bool) -> str:
    """How many pictures a directory has, before they are protected."""
    if not source or not source.strip():
        return ""
    try:
        works = _works_in(source, destination, deep)
    except MistError as error:
        return f"<div class='error'>{html.escape(str(error))}</div>"
    return f"{len(works)} pictures, into {html.escape(str(works[0].output.parent))}"


def _protect_folder(works: list[Work], settings: Settings, output: dict[str, Any]) -> list[Any]:
    rows, last = folder.protect_works(works, settings, **output)
    if last is None:
        return [None, None, folder.table(rows), ""]
    found = Last(last.outcome.original, last.outcome.image, settings, output["target"])
    return [found, [str(last.path)], folder.table(rows), ""]


def _protect_set(
    works: list[Work], out: Path, settings: Settings, chosen: SetSettings, output: dict[str, Any]
) -> list[Any]:
    done = sets.protect_folder(works, out, settings, chosen, **output)
    report, last = folder.table(done.rows, done.notes), done.last
    if last is None:
        return [None, None, report, ""]
    found = Last(last.original, last.image, replace(settings, prompt=last.prompt), output["target"])
    return [found, [str(last.path)], report, ""]


def _shown(outcome: Outcome, picture: Image.Image, save: bool) -> list[Any]:
    """Gallery, report and log. What an interrupt has left half done is shown, but not written as protected."""
    report, notices = outcome.report, list(outcome.report.notices)
    if report.stopped:
        steps = report.settings["steps"]
        notices.append(f"Interrupted after {report.steps_done} of {steps} steps: weaker than asked for, and not saved.")
    elif save:
        path = saving.new_path(options.output_folder())
        outcome.image.info["parameters"] = saving.save(path, outcome, saving.metadata_of(picture, notices))
        shown: Any = outcome.image
        shown.already_saved_as = str(path)  # the web UI shows that file
        notices.append(f"Saved as {path.name}, lossless.")
    else:
        keys = infotext.keys_of(report)
        outcome.image.info["parameters"] = infotext.appended(picture.info.get("parameters"), keys)
    return [[outcome.image, outcome.difference], _report_of(outcome, notices), ""]


def _report_of(outcome: Outcome, notices: list[str]) -> str:
    report = outcome.report
    words, *numbers = replace(report, notices=notices).as_text().splitlines()
    lines = [words, "Left the protected picture, right what changed, amplified.", *numbers]
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines) + (
        f"<details><summary>JSON</summary><pre class='mist-report'>{html.escape(report.as_json())}</pre></details>"
    )


def _combined(
    mask: Image.Image | None, drawn: Image.Image | None, mode: str, size: tuple[int, int]
) -> Image.Image | None:
    """Where both masks allow it; None where there is neither."""
    if drawn is not None:
        drawn = drawn.resize(size, Image.Resampling.NEAREST)
        drawn = ImageOps.invert(drawn) if mode == NOT_PAINTED else drawn
    if mask is None or drawn is None:
        return drawn if mask is None else mask
    width, height = size
    given = Image.fromarray(to_levels(as_mask(in_colour(mask), height, width))[0, 0].numpy())
    return ImageChops.multiply(given, drawn)


def _without_opaque_alpha(picture: Image.Image) -> Image.Image:
    """gradio adds one to every picture."""
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
        return picture.convert("RGB")
    return picture
