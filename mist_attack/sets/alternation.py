"""A set in rounds: a LoRA learns from the pictures as they are, then each takes its steps through the model with it.

Anti-DreamBooth's alternation (ASPL, Van Le et al. 2023, arXiv 2303.15433), with a LoRA for the whole denoiser and no
pictures of a class beside. One picture at a time is in memory; what is reached lies in a `Keep`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attack import Attack, Protected
from ..errors import MistError, Stop
from ..pgd import Progress, Stops
from ..protection import Job, check
from ..randomness import seeded
from ..settings import Settings
from ..surrogate import Conditioning, Surrogate, out_of_memory, require_trainable
from ..views import View, plan
from .keeping import Keep, Memory
from .learning import State, learn, put, rate_for
from .settings import SetSettings, of_set, require_possible
from .taught import Taught

FAILURES = (MistError, RuntimeError, MemoryError, OSError, ValueError)
"""Of one picture: out of memory, a driver, a disk. The others go on."""
NOT_BEGUN = "cancelled before its first step"


@dataclass(frozen=True)
class Member:
    """A picture of a set. read: (1, 3, H, W) in [0, 1], and its mask, if any; asked for in every round."""

    name: str
    height: int
    width: int
    read: Callable[[], tuple[Tensor, Tensor | None]]
    prompt: str = ""


class SetProgress(NamedTuple):
    """One finished step, of the LoRA or of a picture."""

    round: int
    """From 1."""
    rounds: int
    picture: str | None
    """Which one is at work; None while the LoRA learns."""
    done: int
    """Steps of the whole set."""
    steps: int
    preview: Callable[[], Tensor] | None
    """The picture so far, (1, 3, H, W) in [0, 1], when asked for."""


OnSetStep = Callable[[SetProgress], None]


class SetProtection:
    """`run` it once. target: (1, 3, h, w), in place of the named pattern. on_step may raise Stop to be handed what is
    reached, and so may a host raise what is in `cancels`; any other exception passes through. Either way what `keep`
    holds by then is gone on from, to the bytes of a run that was not stopped.

    Raises SettingsError for what cannot be protected as a set, CheckpointError for a model without a denoiser."""

    def __init__(
        self,
        members: Sequence[Member],
        surrogate: Surrogate,
        settings: Settings,
        chosen: SetSettings,
        *,
        target: Tensor | None = None,
        keep: Keep | None = None,
        on_step: OnSetStep = lambda progress: None,
        on_failure: Callable[[Member, str], None] = lambda member, error: None,
        cancels: Stops = (),
    ) -> None:
        require_possible(settings, chosen, len(members))
        require_trainable(surrogate)
        self.members, self.surrogate, self.chosen = list(members), surrogate, chosen
        self.settings = of_set(settings, chosen)
        self.target, self.keep = target, keep or Memory()
        self.on_step, self.on_failure, self.stops = on_step, on_failure, (Stop, *cancels)
        self.count, self.steps = 0, chosen.rounds * chosen.lora_steps + len(members) * settings.steps
        self.conditionings: dict[str, Conditioning] = {}
        self.taken: dict[str, float] = {}
        self.begun: tuple[str, Tensor, int] | None = None
        """The picture that a stop left in the middle of a round, and its steps by then: not for `keep`."""
        self.stopped = False

    def run(self) -> Iterator[tuple[Member, Protected]]:
        """Each picture once it is finished; those that failed, or had no step before a stop, are left out, and told.
        Raises the last picture's error where all failed, and what stopped it where nothing was reached."""
        self._each(self._prepare)
        first = self.keep.latest()
        self.count = first * self.chosen.lora_steps + len(self.members) * self._share(first).start
        for number in range(first, self.chosen.rounds):
            try:
                self._round(number)
            except self.stops:
                self.stopped = True
                if not any(self._reached(member) for member in self.members):
                    raise
            if self.stopped:
                break
        for member in list(self.members):
            reached = self._reached(member)
            if reached is None:
                self.on_failure(member, NOT_BEGUN)
            elif (found := self._tried(member, partial(self._finish, *reached))) is not None:
                yield member, found

    def _round(self, number: int) -> None:
        states = self.keep.states(number)
        if states is not None:
            self.count += self.chosen.lora_steps
        else:
            states = self._learned(number)
        self._each(lambda member: self._attack(number, member, states))
        if not self.stopped:
            self.keep.forget(number - 1)

    def _each(self, work: Callable[[Member], object]) -> None:
        for member in list(self.members):
            if not self.stopped:
                self._tried(member, work)

    def _tried(self, member: Member, work: Callable[[Member], Any]) -> Any:
        """None where it failed, and the member is left out."""
        begun = time.perf_counter()
        try:
            return work(member)
        except FAILURES as error:
            self.members.remove(member)
            told = str(error) if isinstance(error, MistError) else f"{type(error).__name__}: {error}"
            self.keep.keep_failure(member.name, told)
            self.on_failure(member, told)
            if not self.members:
                raise
        finally:
            self.taken[member.name] = self.taken.get(member.name, 0.0) + time.perf_counter() - begun

    def _prepare(self, member: Member) -> None:
        if error := self.keep.failure(member.name):
            raise MistError(error)
        self.conditionings[member.prompt] = self.surrogate.conditioning(member.prompt)

    def _learned(self, number: int) -> list[State]:
        """The states of a LoRA that goes on from the round before, with a new optimiser. Kept, unless stopped."""
        lessons = self._lessons(number)
        views = [self._whole(member) for member in lessons]
        size = max(view.model_height for view in views), max(view.model_width for view in views)

        def job(ready: Surrogate) -> list[State]:
            return self._learn(ready, number, list(zip(lessons, views, strict=True)))

        try:
            states = self.surrogate.run(job, 1, *size, low_vram=self.settings.low_vram)
        except (RuntimeError, MemoryError) as error:
            if self.settings.low_vram or not out_of_memory(error):
                raise
            states = None
        states = states or self.surrogate.run(job, 1, *size, low_vram=True)
        self.keep.keep_states(number, states)
        return states

    def _lessons(self, number: int) -> list[Member]:
        """Which picture is learned from at each step: all in turns, in an order of chance."""
        generator = seeded(torch.device("cpu"), self._seed(number))
        order = torch.randperm(len(self.members), generator=generator, device="cpu").tolist()
        return [self.members[order[step % len(order)]] for step in range(self.chosen.lora_steps)]

    def _learn(self, ready: Surrogate, number: int, lessons: list[tuple[Member, View]]) -> list[State]:
        latents: dict[str, Tensor] = {}
        for member, view in lessons:
            if member.name in latents or member not in self.members:
                continue
            if (x := self._tried(member, lambda member: self._seen(number, member))) is not None:
                latents[member.name] = self._encoded(ready, x, view)
        with ready.lora(self.chosen.lora_rank, self.settings.seed) as weights:
            if before := self.keep.states(number - 1):
                put(before[-1], weights)
            return learn(
                ready,
                weights,
                [
                    (latents[member.name], self.conditionings[member.prompt])
                    for member, _ in lessons
                    if member.name in latents
                ],
                seeded(ready.device, self._seed(number)),
                rate=self.chosen.lora_rate or rate_for(weights, 1),
                states=self.chosen.lora_states,
                on_step=lambda: self._tell(number, None, None),
            )

    def _seen(self, number: int, member: Member) -> Tensor:
        """As it is when a round begins."""
        reached = self.keep.picture(number - 1, member.name)
        return self._read(member)[0] if reached is None else reached

    @torch.no_grad()
    def _encoded(self, ready: Surrogate, x: Tensor, view: View) -> Tensor:
        return ready.encode(view.look(view.region(x.to(ready.device, torch.float32))))

    def _whole(self, member: Member) -> View:
        """As imitators train: all of a picture, its aspect kept, of the working size's area."""
        multiple = self.surrogate.spatial_multiple(self.settings.objective)
        return plan(member.height, member.width, "whole", self.settings.working_size, multiple)[0]

    def _attack(self, number: int, member: Member, states: list[State]) -> None:
        """This round's share of the steps."""
        share = self._share(number)
        if self.keep.picture(number, member.name) is not None:  # before this run was started again
            self.count += len(share)
            return
        start = self.keep.picture(number - 1, member.name)
        taught: Any = Taught(self.surrogate, self.chosen.lora_rank, states)

        def work(attack: Attack, job: Job) -> tuple[Tensor, int]:
            del job
            if not attack.is_movable:
                return attack.budget.x0.cpu(), len(share)
            begin = None if start is None else start.to(attack.ready.device)
            x, done = attack.descend(begin, share, self._watch(number, member), self.stops)
            return x.cpu(), done

        x, done = self._job(member, taught, self._seed(number)).of(*self._read(member), work)
        if done == len(share):
            self.keep.keep_picture(number, member.name, x)
            return
        self.stopped = True
        if share.start + done:
            self.begun = member.name, x, share.start + done

    def _share(self, number: int) -> range:
        """Of a picture's steps."""
        begin, end = (self.settings.steps * part // self.chosen.rounds for part in (number, number + 1))
        return range(begin, end)

    def _watch(self, number: int, member: Member) -> Callable[[Progress], None]:
        def on_step(progress: Progress) -> None:
            self._tell(number, member.name, progress.preview)

        return on_step

    def _tell(self, number: int, picture: str | None, preview: Callable[[], Tensor] | None) -> None:
        self.count += 1
        try:
            self.on_step(SetProgress(number + 1, self.chosen.rounds, picture, self.count, self.steps, preview))
        except self.stops:  # at the last step of a share the loop is over anyway, and would not tell
            self.stopped = self.count < self.steps
            raise

    def _finish(self, x: Tensor, steps: int, member: Member) -> Protected:
        """Rounded and judged, through the model as it is."""
        image, mask = self._read(member)

        def work(attack: Attack, job: Job) -> Protected:
            levels = attack.budget.quantize(x.to(attack.ready.device))
            return attack.finished(levels, steps, notices=[*job.notices, self._told()])

        protected = self._job(member, self.surrogate, self.settings.seed).of(image, mask, work)
        seconds = round(self.taken.get(member.name, 0.0) + protected.reports[0].seconds, 3)
        return replace(protected, reports=[replace(protected.reports[0], seconds=seconds)])

    def _reached(self, member: Member) -> tuple[Tensor, int] | None:
        """As it is by now, and the steps that it has taken."""
        if self.begun and self.begun[0] == member.name:
            return self.begun[1:]
        for number in reversed(range(self.chosen.rounds)):
            if (x := self.keep.picture(number, member.name)) is not None:
                return x, self._share(number).stop
        return None

    def _told(self) -> str:
        chosen = self.chosen
        return (
            f"as one of a set of {len(self.members)}: {chosen.rounds} rounds, in each {chosen.lora_steps} steps of a "
            f"LoRA of rank {chosen.lora_rank}"
        )

    def _job(self, member: Member, surrogate: Any, seed: int) -> Job:
        settings = replace(self.settings, prompt=member.prompt, seed=seed)
        return Job(surrogate, settings, self.target, self.conditionings[member.prompt])

    def _read(self, member: Member) -> tuple[Tensor, Tensor]:
        image, mask = member.read()
        return image, check(image, mask, self.target)

    def _seed(self, number: int) -> int:
        """Of a round; the first has the set's."""
        return (self.settings.seed + 7919 * number) % 2**63
