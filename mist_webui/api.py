"""`POST /mist/v1/protect`, `/mist/v1/protect-set` and `/mist/v1/evaluate`, `GET /mist/v1/info`, in the web UI's own API
style, queue and authentication."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import call_queue, progress, shared
from pydantic import BaseModel, Field

from mist_attack import __version__
from mist_attack.errors import BudgetError, CheckpointError, GradientError, MistError, SettingsError, Stop, quoted
from mist_attack.evaluation.page.writing import page
from mist_attack.evaluation.words import as_text
from mist_attack.hosts.detect import loaded_model
from mist_attack.needs import possible
from mist_attack.sets.settings import SetSettings
from mist_attack.settings import preset_descriptions
from mist_attack.surrogate import out_of_memory
from mist_attack.targets import target_names

from . import evaluating, options, pictures, set_requests, sets
from .jobs import checked_size, protect_picture
from .set_requests import ProtectSetRequest, ProtectSetResponse

BAD_REQUEST, CONFLICT, TOO_LARGE, NOT_A_REQUEST, OUR_FAULT = 400, 409, 413, 422, 500
TASK_LENGTH = 200


class ProtectRequest(BaseModel, extra="allow"):  # what is unknown is refused in our own words
    image: str = Field(title="Image", description="A picture as base64 or as a data: URI; never a URL.")
    mask: str = Field(default="", title="Mask", description="As `image`; white may change. Empty: everywhere.")
    target: str = Field(default="", title="Target picture", description="As `image`; in place of a named pattern.")
    preset: str = Field(default="default", title="Preset", description="See GET /mist/v1/info.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        title="Settings",
        description="Controls over the preset: strength, steps, objective, ...; see GET /mist/v1/info.",
    )
    output_size: int = Field(default=0, title="Output size", description="Pixels of the longer side; 0 keeps it.")
    include_difference: bool = Field(default=False, title="Include the amplified difference")
    force_task_id: str = Field(default="", title="Task id", description="To be asked for at /internal/progress.")


class EvaluateRequest(BaseModel, extra="allow"):
    original: str = Field(title="Original", description="A picture as base64 or as a data: URI; never a URL.")
    protected: str = Field(title="Protected", description="As `original`, of the same size.")
    target: str = Field(default="", title="Target picture", description="As `original`; in place of a named pattern.")
    settings: dict[str, Any] = Field(
        default_factory=dict, title="Settings", description="Of the controls: prompt, target, working_size, seed."
    )
    include_page: bool = Field(default=False, title="Include the page", description="With the pictures in it.")
    force_task_id: str = Field(default="", title="Task id", description="To be asked for at /internal/progress.")


class EvaluateResponse(BaseModel):
    words: str = Field(title="Words", description="What the protection is worth, then the figures, as text.")
    results: dict[str, Any] = Field(title="Results", description="All figures with their intervals.")
    page: str = Field(default="", title="Page", description="HTML in one file, where asked for.")


class ProtectResponse(BaseModel):
    image: str = Field(title="Image", description="The protected picture: PNG in base64, always lossless.")
    difference: str = Field(default="", title="Amplified difference", description="PNG in base64, where asked for.")
    words: str = Field(title="Words", description="What was done, in a few sentences.")
    report: dict[str, Any] = Field(title="Report", description="What was done, in numbers; `stopped` if interrupted.")
    infotext: str = Field(title="Infotext", description="As it is written into the PNG's `parameters`.")


class InfoResponse(BaseModel):
    version: str
    model: str = Field(description="What the loaded model is; empty where none is loaded.")
    objectives: list[str] = Field(description="What the loaded model can be used for.")
    presets: dict[str, str]
    targets: list[str]
    defaults: dict[str, Any] = Field(description="Controls, and their values on the settings page.")
    set_defaults: dict[str, Any] = Field(description="Controls of a set, and their values.")


def on_app_started(_: Any, app: FastAPI) -> None:
    """The web UI's API is off without --api; then so is ours."""
    if not (shared.cmd_opts.api or shared.cmd_opts.nowebui):
        return
    _add_route(app, "/mist/v1/protect", protect, "POST", ProtectResponse)
    _add_route(app, "/mist/v1/protect-set", protect_set, "POST", ProtectSetResponse)
    _add_route(app, "/mist/v1/evaluate", evaluate, "POST", EvaluateResponse)
    _add_route(app, "/mist/v1/info", info, "GET", InfoResponse)


class _Route(APIRoute):
    """What is not the shape of a request is not repeated in the answer: no JSON may hold it (NaN, half characters)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                told = [{name: found[name] for name in ("loc", "msg", "type")} for found in error.errors()]
                raise HTTPException(status_code=NOT_A_REQUEST, detail=told) from error

        return answer


def _add_route(app: FastAPI, path: str, endpoint: Callable[..., Any], method: str, model: Any) -> None:
    guards = [Depends(_guard(_users()))] if shared.cmd_opts.api_auth else []
    options = {"methods": [method], "response_model": model, "dependencies": guards, "tags": ["Mist"]}
    app.router.add_api_route(path, endpoint, route_class_override=_Route, **options)


def _users() -> dict[str, str]:
    given = shared.cmd_opts.api_auth or ""
    pairs = (pair.partition(":") for pair in given.split(",") if ":" in pair)
    return {name: password for name, _, password in pairs}


def _guard(users: dict[str, str]) -> Callable[..., bool]:
    """--api-auth counts for our routes too."""

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> bool:  # noqa: B008
        expected = users.get(credentials.username, secrets.token_hex())
        if not secrets.compare_digest(credentials.password.encode(), expected.encode()):
            headers = {"WWW-Authenticate": "Basic"}
            raise HTTPException(status_code=401, detail="Incorrect username or password", headers=headers)
        return True

    return check


def protect(request: ProtectRequest) -> ProtectResponse:
    """Protect a picture on the model now loaded. Progress: GET /sdapi/v1/progress; stop: POST /sdapi/v1/interrupt."""
    with _http_errors():
        _refuse_unknown(request)
        size, settings = checked_size(request.output_size), options.settings_from(request.settings, request.preset)
        picture = pictures.decoded("image", request.image)
        sent = {name: getattr(request, name) for name in ("mask", "target")}
        others: dict[str, Any] = {
            name: pictures.as_pil(pictures.decoded(name, text)) for name, text in sent.items() if text
        }
        with _queued(_task(request.force_task_id)):
            outcome = protect_picture(pictures.as_pil(picture), settings, output_size=size, **others)
        told = pictures.parameters_of(picture), picture.notices
        return ProtectResponse(**pictures.answer(outcome, *told, with_difference=request.include_difference))


def protect_set(request: ProtectSetRequest) -> ProtectSetResponse:
    """Protect pictures of one style as one set on the model now loaded. Progress and stop as for /mist/v1/protect."""
    with _http_errors():
        _refuse_unknown(request)
        asked = set_requests.asked(request)
        with _queued(_task(request.force_task_id)):
            outcomes = sets.protect_pictures(asked.sent, asked.settings, asked.chosen, target=asked.target)
        return set_requests.answer(asked, outcomes, with_difference=request.include_difference)


def evaluate(request: EvaluateRequest) -> EvaluateResponse:
    """Judge a protection by the model now loaded. Progress and stop as for /mist/v1/protect."""
    with _http_errors():
        _refuse_unknown(request)
        settings = options.settings_from(request.settings, "default")
        before, after = (
            pictures.as_pil(pictures.decoded(name, getattr(request, name))) for name in ("original", "protected")
        )
        target = pictures.as_pil(pictures.decoded("target", request.target)) if request.target else None
        with _queued(_task(request.force_task_id)):
            found, pair = evaluating.evaluate(before, after, settings, target)
        made = page(found, [pair]) if request.include_page else ""
        return EvaluateResponse(words=as_text(found), results=found, page=made)


def _refuse_unknown(request: ProtectRequest | ProtectSetRequest | EvaluateRequest) -> None:
    """A setting beside `settings` would go unheard."""
    given = getattr(request, "model_extra", None) or vars(request)  # pydantic 2, or 1
    fields = type(request).__annotations__
    unknown = [quoted(name) for name in given if name not in fields]
    if unknown:
        known = ", ".join(fields)
        raise SettingsError(f"Unknown field {unknown[0]}. Known: {known}; controls go into settings.")


def _task(wanted: str) -> str:
    """The web UI shows it to whoever asks for progress. Raises SettingsError."""
    if len(wanted) > TASK_LENGTH or not wanted.isprintable():
        raise SettingsError(f"Expected force_task_id of at most {TASK_LENGTH} characters; got {quoted(wanted)}.")
    return wanted or progress.create_task_id("mist")


def info() -> InfoResponse:
    """What can be asked of /mist/v1/protect, and which model would be used."""
    model, objectives = "", list[str]()
    with call_queue.queue_lock:
        try:
            surrogate = loaded_model()  # Forge loads the chosen checkpoint now, where it has not yet
        except CheckpointError:
            pass
        else:
            model = surrogate.name
            objectives += possible(denoiser=len(surrogate.sigmas) > 0)
    return InfoResponse(
        version=__version__,
        model=model,
        objectives=objectives,
        presets=preset_descriptions(),
        targets=target_names(),
        defaults={name: options.default(name) for name in options.WIDGETS},
        set_defaults=SetSettings().as_dict(),
    )


@contextmanager
def _queued(task: str) -> Iterator[None]:
    """After whatever the web UI is doing, as a job of its own."""
    progress.add_task_to_queue(task)
    with call_queue.queue_lock:
        progress.start_task(task)
        shared.state.begin(job="mist")
        shared.state.job_count = 1
        try:
            yield
        finally:
            shared.state.end()
            progress.finish_task(task)


@contextmanager
def _http_errors() -> Iterator[None]:
    """Our own messages as HTTP 4xx: 400 for what was sent, 409 for the model that is loaded, 413 for memory. And 500
    for a result that is not within its budget."""
    try:
        yield
    except (CheckpointError, GradientError, Stop) as error:
        raise HTTPException(status_code=CONFLICT, detail=str(error)) from error
    except BudgetError as error:
        raise HTTPException(status_code=OUR_FAULT, detail=str(error)) from error
    except MistError as error:
        raise HTTPException(status_code=BAD_REQUEST, detail=str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        advice = "Memory ran out, also in tiles: choose a smaller working_size, or a smaller picture."
        raise HTTPException(status_code=TOO_LARGE, detail=advice) from error
