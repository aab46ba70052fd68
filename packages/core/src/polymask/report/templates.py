"""Templates to pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MARK = '<meta name="generator" content="polymask">'
"""What a page of ours is known by."""


def render(template: str, **context: Any) -> str:
    """A page as HTML that loads nothing; everything in it is escaped but our own drawings."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("polymask.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup
    environment.globals["mark"] = Markup(MARK)
    return environment.get_template(template).render(context)


def named(part: Any) -> str:
    """A part of a configuration as it is written on the command line: ``NAME``, or ``NAME:SOURCE``."""
    if not isinstance(part, Mapping):
        return str(part)
    return ":".join(str(part[key]) for key in ("name", "source") if part.get(key) is not None)


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested mappings as dotted names and text."""
    found: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{above}{key}.")
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
            found[f"{above}{key}"] = text
    return found


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers behind the first column to the right.

    Args:
        rows: cells as text, first those of the heading.
    """
    heading, *others = rows
    lines = [heading, ["---", *("---:" for _ in heading[1:])], *others]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
