"""`mist protect-set`: its flags, and the run in this process."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from ..ending import told_to_end
from ..errors import SettingsError
from ..gallery import sets
from ..gallery.journal import Journal, Say
from ..gallery.manifest import PASSED_OVER
from ..gallery.request import Request
from ..runners import model
from ..runners.here import loader
from ..runners.model import ModelOptions
from ..sets.alternation import OnSetStep, SetProgress
from ..sets.settings import SET_CONTROLS, SetSettings, require_possible, set_settings
from . import mist_v2, native, places
from .computing import require_device


def run(options: argparse.Namespace, say: Say, complain: Say) -> list[str]:
    """The status of each picture, and of each file that was passed over. Raises as `sets.run` does."""
    if None not in (options.direction, options.set_direction):
        raise SettingsError("--direction and --set-direction say the same thing of a set. Use one of them.")
    mist_v2.translate(options, SetSettings().rounds)
    options.set_direction = options.set_direction or options.direction
    chosen = set_settings({known.name: getattr(options, known.name) for known in SET_CONTROLS})
    request = native.request_for(options)
    places.check(request, options)
    require_possible(request.settings, chosen, len(request.works))
    if options.device is not None:
        require_device(options.device)
    if request.lossy_quality is not None:
        complain(native.JPEG_WARNING)
    if options.dry_run:
        return _would(request, chosen, say)
    asked = ModelOptions(options.checkpoint, options.device, options.dtype, options.threads)
    load = loader(asked, request.target, say, complain)
    request = replace(request, model_key=model.key(asked))
    with tqdm(leave=False, disable=options.quiet or not sys.stderr.isatty()) as bar:
        return sets.run(
            request,
            chosen,
            load,
            Journal(options.report, len(request.works), say, complain),
            force=bool(options.force),
            on_step=_on_step(bar),
            say=say,
        )


def _would(request: Request, chosen: SetSettings, say: Say) -> list[str]:
    """Nothing is computed, or written."""
    works, steps = request.works, request.settings.steps
    for work in works:
        say(f"{work.source}: {work.refused or f'caption {work.prompt}' if work.prompt else 'no caption'}")
    trained = chosen.rounds * chosen.lora_steps
    say(f"{len(works)} pictures as one set: {chosen.rounds} rounds, {steps} steps each, {trained} steps of the LoRA.")
    return ["failed" if work.refused else "protected" for work in works] + [PASSED_OVER] * len(request.passed)


def _on_step(bar: Any) -> OnSetStep:
    def on_step(progress: SetProgress) -> None:
        if told_to_end():
            raise KeyboardInterrupt
        bar.total, bar.n = progress.steps, progress.done
        bar.set_description(f"round {progress.round} of {progress.rounds}", refresh=False)
        bar.set_postfix_str(progress.picture or "the LoRA learns")

    return on_step
