"""Plots as SVG that is part of a page: text stays text, and takes the page's colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..transforms import SUITE, NotMeasuredError

INK = "#010203"
"""Stands for the page's own colour of text."""
BLUE, ORANGE = "#2f7fd0", "#d97a1e"  # told apart on white and on black, and by most who see few colours
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Draw = Callable[[Any], None]


def require_matplotlib() -> None:
    """Raises NotMeasuredError."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise NotMeasuredError('Plots need matplotlib: pip install "mist-protect[evaluate]".') from error


def plots(pair: Mapping[str, Any], found: Mapping[str, Any], key: str) -> dict[str, str]:
    """SVG by title, of one pair and what one model makes of it. key: another one for each, for the ids inside."""
    drawn: dict[str, tuple[Draw, tuple[float, float]]] = {
        "What is left after each change": (lambda axes: _survival(axes, found["views"]), (6.4, 4.6)),
        "Where in the spectrum the change is": (lambda axes: _spectrum(axes, pair["spectrum"]), (6.4, 2.4)),
    }
    if found["denoising"]:
        drawn["Denoising loss, against the original's"] = lambda axes: _denoising(axes, found["denoising"]), (6.4, 2.6)
    if found["img2img"]:
        drawn["img2img with the same noise"] = lambda axes: _img2img(axes, found["img2img"]), (6.4, 2.6)
    return {title: _svg(draw, size, f"{key} {title}") for title, (draw, size) in drawn.items()}


def _survival(axes: Any, views: Mapping[str, Any]) -> None:
    names = [name for name in SUITE if all(_is_known(seen["survival"], name) for seen in views.values())]
    height = 0.8 / len(views)
    for i, (view, colour) in enumerate(zip(views, (BLUE, ORANGE), strict=False)):
        rows = [views[view]["survival"][name]["share_left"] for name in names]
        places = [place + (i - (len(views) - 1) / 2) * height for place in range(len(names))]
        values = [row["value"] for row in rows]
        ends = [
            [max(0.0, row["value"] - row["low"]) for row in rows],
            [max(0.0, row["high"] - row["value"]) for row in rows],
        ]
        axes.barh(places, values, height, xerr=ends, color=colour, ecolor=INK, label=view)
    axes.set_yticks(range(len(names)), [SUITE[name].words for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("share of the latents' shift that is left (0 nothing, 1 all of it)")
    axes.axvline(1, color=INK, linewidth=0.6)
    if len(views) > 1:
        axes.legend()


def _is_known(survival: Mapping[str, Any], name: str) -> bool:
    return bool(survival.get(name, {}).get("share_left"))


def _denoising(axes: Any, rows: list[Mapping[str, float]]) -> None:
    steps = [row["timestep"] for row in rows]
    axes.plot(steps, [row["gap"] for row in rows], "o-", color=BLUE, label="protected")
    axes.plot(steps, [row["gap_of_noise"] for row in rows], "s--", color=ORANGE, label="random noise")
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlabel("timestep")
    axes.set_ylabel("loss - original's")
    axes.legend()


def _img2img(axes: Any, rows: list[Mapping[str, float]]) -> None:
    strengths = [row["strength"] for row in rows]
    axes.plot(strengths, [row["rms_levels"] for row in rows], "o-", color=BLUE, label="protected")
    axes.plot(strengths, [row["rms_levels_of_noise"] for row in rows], "s--", color=ORANGE, label="random noise")
    axes.set_xlabel("strength")
    axes.set_ylabel("rms, levels")
    axes.set_ylim(bottom=0)
    axes.legend()


def _spectrum(axes: Any, spectrum: Mapping[str, list[float]]) -> None:
    ends = spectrum["cycles_per_pixel"]
    axes.bar(ends, spectrum["share_of_power"], width=-ends[0], align="edge", color=BLUE)
    axes.set_xlabel("cycles per pixel (left: coarse, survives a reduction; right: fine)")
    axes.set_ylabel("share of power")


def _svg(draw: Draw, size: tuple[float, float], key: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": key}):
        figure = Figure(size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return _for_a_page(buffer.getvalue())


def _for_a_page(svg: str) -> str:
    """Without a prolog, a size of its own and metadata; ink in the page's colour."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every plot, and nothing asks for them
    return svg.replace("<svg", '<svg aria-hidden="true"', 1).replace(INK, "currentColor")
