"""The actors of a Ray cluster, or of this machine: one loaded model each, bytes in and bytes out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, MistError, SettingsError
from ..gallery.journal import Say
from ..gallery.task import Model, Outcome, Result, Task, attempt, told
from ..hosts.headless import checkpoints
from .model import DEMO_WARNING, ModelOptions, bounded, load, processors

ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", "RAY_USAGE_STATS_ENABLED": "0"}
T = TypeVar("T")
MAX_CRASHES = 3
"""Workers in a row that may die while they load the model."""
Answer = tuple["Result | None", "str | None", bool, bool]


@dataclass(frozen=True)
class RayOptions:
    """address: of a running cluster, or None for this machine alone. workers: models at once, or None for as many as
    fit. gpus_per_worker: or None for 1 where the cluster has some."""

    model: ModelOptions = field(default_factory=ModelOptions)
    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None


class Worker:
    """An actor, on whichever machine."""

    def __init__(self, options: ModelOptions, target: Tensor | None) -> None:
        self.options, self.target = options, target
        self.model: Model | None = None
        torch.set_num_threads(min(options.threads or 1, processors()))

    def ready(self) -> tuple[str, bool]:
        """Load the model: its name, and whether it is a demo. Raises CheckpointError and SettingsError."""
        surrogate = load(self.options)
        self.model = Model(surrogate, self.target)
        return f"{surrogate.name} on {surrogate.device}", surrogate.is_demo

    def protect(self, task: Task) -> Answer:
        assert self.model is not None
        outcome = attempt(task, self.model)
        return outcome.result, outcome.error, outcome.again, outcome.fatal


class RayRunner:
    """`mist_attack.runners.protocol.Runner`: an actor has one picture at a time, and is replaced when it dies.

    Starts, or joins, the cluster when the first picture comes. Raises SettingsError without Ray, and CheckpointError
    where this machine does not see the model either.
    """

    dies_with_its_worker = False

    def __init__(self, options: RayOptions, target: Tensor | None, say: Say, complain: Say) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise SettingsError(f'--engine ray needs Ray ({error}): pip install "mist-protect[cluster]"') from error
        self.ray, self.target, self.say, self.complain = ray, target, say, complain
        self.model = _everywhere(options, complain)
        self.threads = self.model.threads or 1
        self.address, self.workers, self.gpus = options.address, options.workers, options.gpus_per_worker
        self.actor_class: Any = None
        self.starting: dict[Any, Any] = {}
        self.idle: list[Any] = []
        self.flying: dict[Any, tuple[Any, Task]] = {}
        self.told = False
        self.crashes = 0

    @property
    def has_room(self) -> bool:
        return bool(self.idle) or self.actor_class is None

    def submit(self, task: Task) -> None:
        if self.actor_class is None:
            self._start()
        while not self.idle:
            self._wait_for_any()
        actor = self.idle.pop()
        self.flying[actor.protect.remote(task)] = actor, task

    def wait(self) -> Outcome | None:
        done = self._wait_for_any()
        if done is None:
            return None
        actor, task = self.flying.pop(done)
        errors = self.ray.exceptions
        try:
            result, error, again, fatal = self.ray.get(done)
        except errors.RayTaskError as failure:  # not one of ours
            self.idle.append(actor)
            return Outcome(task, error=told(failure.cause or failure), again=True)
        except errors.RayError as failure:
            self._hire()
            return Outcome(task, error=_reason(failure), died=True)
        self.idle.append(actor)
        return Outcome(task, result, error, again, fatal=fatal)

    def withdraw(self) -> list[Task]:
        return []

    def alongside(self, work: Callable[[], T]) -> T:
        return work()

    def close(self) -> None:
        if self.actor_class is not None:
            for actor in (*self.idle, *self.starting.values(), *(actor for actor, _ in self.flying.values())):
                self.ray.kill(actor)
            self.ray.shutdown()

    def _wait_for_any(self) -> Any | None:
        """A finished picture's reference; None where it was an actor that became ready."""
        (done, *_), _ = self.ray.wait([*self.flying, *self.starting], num_returns=1)
        if done in self.flying:
            return done
        self._welcome(self.starting.pop(done), done)
        return None

    def _start(self) -> None:
        self._connect()
        total, threads = self.ray.cluster_resources(), self.threads
        gpus = self.gpus if self.gpus is not None else min(1.0, total.get("GPU", 0.0))
        fits = int(total.get("GPU", 0) / gpus if gpus else total.get("CPU", 0) / threads)
        workers = self.workers or fits
        if workers < 1 or (fits < 1 and self.address is None):
            found = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
            raise SettingsError(f"No worker of {threads} CPUs and {gpus:g} GPUs fits: the cluster has {found}.")
        options = {"num_cpus": threads, "num_gpus": gpus, "max_restarts": 0, "runtime_env": {"env_vars": ENVIRONMENT}}
        self.actor_class = self.ray.remote(Worker).options(**options)
        self.target_reference = self.ray.put(self.target)
        for _ in range(workers):
            self._hire()
        self.say(f"Ray: {workers} worker(s) of {threads} CPU thread(s) and {gpus:g} GPU(s)")

    def _connect(self) -> None:
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        wanted = (self.workers or 1) * self.threads
        here = {"num_cpus": max(wanted, os.cpu_count() or 1), "include_dashboard": False}
        try:
            self.ray.init(self.address, logging_level="warning", log_to_driver=False, **({} if self.address else here))
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise SettingsError(f"--address {self.address}: Ray cannot be reached or started ({error}).") from error
        for number, handler in ours.items():  # Ray puts its own in their place
            signal.signal(number, handler)

    def _hire(self) -> None:
        actor = self.actor_class.remote(self.model, self.target_reference)
        self.starting[actor.ready.remote()] = actor

    def _welcome(self, actor: Any, ready: Any) -> None:
        errors = self.ray.exceptions
        try:
            name, is_demo = self.ray.get(ready)
        except errors.RayTaskError as failure:
            cause = failure.cause or failure
            ours = isinstance(cause, MistError)
            return self._go_without(
                cause if ours else CheckpointError(f"A worker cannot load the model: {told(cause)}")
            )
        except errors.RayError as failure:
            self.crashes += 1
            if self.crashes < MAX_CRASHES:
                return self._hire()
            return self._go_without(CheckpointError(f"Workers die while they load the model: {_reason(failure)}"))
        self.crashes = 0
        self.idle.append(actor)
        if not self.told:
            self.told = True
            self.say(name)
            if is_demo:
                self.complain(DEMO_WARNING)

    def _go_without(self, error: MistError) -> None:
        """A worker less; raises where it was the last."""
        if not (self.idle or self.flying or self.starting):
            raise error
        self.complain(f"{error} The other workers continue.")


def _reason(failure: BaseException) -> str:
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0][:200] if lines else 'no details'}"


def _everywhere(options: RayOptions, complain: Say) -> ModelOptions:
    """The model as every machine finds it, with one thread unless told otherwise."""
    checkpoint, threads = checkpoints.find_checkpoint(options.model.checkpoint).absolute(), options.model.threads or 1
    if options.address is None:
        threads = bounded(threads, complain)
    return replace(options.model, checkpoint=str(checkpoint), threads=threads)
