"""The results as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...evaluation.page.writing import HERE as EVALUATION_PAGE
from .tables import sections

HERE = Path(__file__).parent


def page(results: Mapping[str, Any]) -> str:
    """Without a network, a script or a picture; the evaluation page's style. Everything is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((EVALUATION_PAGE / "page.css").read_text("utf-8"))
    return environment.get_template("page.html").render(
        about=results["about"], sections=[section._asdict() for section in sections(results)], style=style
    )
