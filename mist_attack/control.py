"""What a control is: everything that a face, a file or a request needs to know of one, and what makes a value of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from .errors import SettingsError, quoted
from .needs import NEEDS, possible
from .needs import Objective as Objective

Face = Literal["comfyui", "webui", "command"]
Level = Literal["beginner", "advanced", "expert"]

MAX_TEXT = 5000
"""Characters of a prompt or a name."""
ALL = tuple(possible(denoiser=True))
SEMANTIC = tuple(name for name in ALL if NEEDS[name].denoiser)
TEXTURAL = tuple(name for name in ALL if NEEDS[name].target)
LOSS = tuple(name for name in ALL if NEEDS[name].loss)
"""The objectives that go through the denoiser, that have a target, and that have the denoising loss in them."""
TEXTURAL_ALONE = tuple(possible(denoiser=False))
KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Scale:
    """From people's unit to the engine's, and back."""

    unit: str
    to_engine: Callable[[Any], Any]
    to_people: Callable[[Any], Any]


def exponent_of(semantic_weight: float) -> float:
    """The fusion weight that people give, of the engine's; NaN for what has none."""
    return round(math.log10(semantic_weight) - 3, 9) if semantic_weight > 0 else math.nan


SAME = Scale("", lambda value: value, lambda value: value)
PIXELS = Scale("pixels", lambda value: value, lambda value: value)
LEVELS = Scale("levels", lambda levels: levels / 255, lambda epsilon: round(epsilon * 255, 6))
EXPONENT = Scale("", lambda weight: 10 ** (weight + 3), exponent_of)


@dataclass(frozen=True, kw_only=True)
class Control:
    """One setting, as people have it. Values are in people's units unless said otherwise."""

    name: str = ""
    """Of the flag, the line of YAML, the API's key and, where `widget` names no other, ComfyUI's widget."""
    setting: str = ""
    """The field of Settings."""
    default: Any
    label: str
    hint: str
    """English sentences, the same in every face."""
    level: Level = "advanced"
    """Who sees it first: beginners do; experts look for it."""
    limits: tuple[float, float] | None = None
    """Of a number; both ends are allowed."""
    step: float = 1
    """Of a slider, and between which numbers of a preset lie."""
    choices: tuple[str, ...] = ()
    uses: tuple[Objective, ...] = ALL
    """The objectives that use it."""
    scale: Scale = SAME
    widget: str | None = None
    """ComfyUI's name where it is another one; empty where it is a socket there."""
    faces: tuple[Face, ...] = get_args(Face)
    """Where people set it."""
    notes: dict[Face, str] = field(default_factory=dict)
    """What more is to be said in one face."""
    changes_picture: bool = True

    @property
    def kind(self) -> type:
        return type(self.default)

    @property
    def least(self) -> float:
        """Of a number; as in `limits`, in the control's own kind."""
        assert self.limits
        return self.kind(self.limits[0])

    @property
    def most(self) -> float:
        assert self.limits
        return self.kind(self.limits[1])

    @property
    def offered(self) -> list[str]:
        """Choices as a list shows them: the default first."""
        return sorted(self.choices, key=lambda choice: choice != self.default)

    @property
    def words(self) -> str:
        """What a message calls it."""
        name, label = self.name.replace("_", " "), self.label.lower()
        return label if name in label else f"{name} ({label})"

    @property
    def widget_name(self) -> str:
        """In ComfyUI; empty where it has none there."""
        if "comfyui" not in self.faces:
            return ""
        return self.name if self.widget is None else self.widget

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def shown(self, value: Any) -> str:
        """A value as pages and help have it."""
        return ("on" if value else "off") if self.kind is bool else f"{value:g}" if self.kind is float else str(value)

    def written(self, value: Any) -> str:
        """As infotext has it, in full."""
        return repr(value).removesuffix(".0") if self.kind is float else str(value)

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.scale.unit})" if self.scale.unit else self.label

    def explained(self, face: Face) -> str:
        return " ".join(filter(None, [self.hint, self.notes.get(face)]))

    def check(self, value: Any) -> None:
        """Of the control's own kind already. Raises SettingsError."""
        if self.limits:
            low, high = self.limits
            if not low <= value <= high:  # also refuses NaN
                raise SettingsError(f"Expected {self.words} between {low:g} and {high:g}; got {quoted(value)}.")
        elif self.choices:
            if value not in self.choices:
                allowed = ", ".join(self.choices)
                raise SettingsError(f"Expected {self.words} to be one of {allowed}; got {quoted(value)}.")
        elif self.kind is str:
            self._check_text(value)

    def _check_text(self, value: str) -> None:
        if len(value) > MAX_TEXT:
            raise SettingsError(f"Expected {self.words} of at most {MAX_TEXT} characters; got {len(value)}.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise SettingsError(f"Expected {self.words} of Unicode characters; got halves of some.") from error


def control(default: Any, **known: Any) -> Any:
    """A field of Settings that people set: see Control. Its default is in people's units."""
    described = Control(default=default, **known)
    return field(default=described.scale.to_engine(default), metadata={"control": described})


def controls_in(settings: type) -> tuple[Control, ...]:
    """Those that beginners see come first."""
    found = [_named(found) for found in fields(settings) if "control" in found.metadata]
    return tuple(sorted(found, key=lambda known: get_args(Level).index(known.level)))


def _named(found: Field[Any]) -> Control:
    described = found.metadata["control"]
    return replace(described, name=described.name or found.name, setting=found.name)
