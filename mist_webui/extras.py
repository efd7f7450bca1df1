"""In Extras: protect a single picture, a batch or a directory, after whatever else is done there."""

from __future__ import annotations

from typing import Any

from modules import errors, scripts_postprocessing, shared
from modules.ui_components import InputAccordion

from mist_attack.errors import CheckpointError, MistError, SettingsError

from . import controls, infotext, options, progress
from .gradio_versions import warn
from .jobs import protect_picture


class MistPostprocessing(scripts_postprocessing.ScriptPostprocessing):
    name = "Mist"
    order = 30_000  # after everything that changes pixels

    def ui(self) -> dict[str, Any]:
        with InputAccordion(False, label="Mist", elem_id="mist_extras_enable") as enable:
            widgets = controls.create("extras")
        enable.do_not_save_to_config = True
        return {"enable": enable, **widgets}

    def process(self, pp: Any, enable: bool | None = None, **values: Any) -> None:
        """`enable` is None from the web UI's own API, which knows only its own scripts."""
        if not enable:
            return
        try:
            _protect(pp, values)
        except (CheckpointError, SettingsError):  # the next picture would fail alike
            raise
        except (MistError, RuntimeError, MemoryError) as error:
            if shared.state.job_count <= 1:
                raise
            errors.report(f"Mist: {shared.state.textinfo}: {error}", exc_info=not isinstance(error, MistError))
            _leave_out(str(error))


def _protect(pp: Any, values: dict[str, Any]) -> None:
    settings = options.settings_from(values)
    if progress.stopped():
        _leave_out("interrupted")
        return
    outcome = protect_picture(pp.image, settings)
    if outcome.report.stopped:
        _leave_out("interrupted")
        return
    pp.image = outcome.image
    pp.info.update(infotext.keys_of(outcome.report))
    pp.info["Mist report"] = outcome.report.words()  # all that the page shows of a picture
    notices = [*outcome.report.notices, *infotext.lossy_notices(*outcome.image.size)]
    if notices:
        pp.info["Mist note"] = "; ".join(notices)
        warn(f"Mist: {'; '.join(notices)}")


def _leave_out(reason: str) -> None:
    """Neither protected nor saved: in an output folder an unprotected copy would look like the others."""
    warn(f"Mist: {shared.state.textinfo or 'the picture'}: not protected and not saved: {reason}")
    shared.state.skipped = True
