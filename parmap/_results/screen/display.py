"""What notebooks show of the public objects: a line, and a small table of what one would ask for next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def card(kind: str, subject: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return the HTML of an object: its *kind*, what it is about, and *facts* by name; all of it escaped."""
    from html import escape

    rows = "".join(
        f"<tr><th>{escape(name)}</th><td style='text-align: left'>{escape(str(value))}</td></tr>"
        for name, value in facts
    )
    about = f": <code>{escape(subject)}</code>" if subject else ""
    return f"<div><strong>{escape(kind)}</strong>{about}<table>{rows}</table></div>"


def head_of(function: Callable[..., Any], name: str) -> str:
    """Return the first line of a definition of *function*: its name and parameters."""
    from inspect import signature

    try:
        return f"{name}{signature(function)}"
    except Exception:  # noqa: BLE001 - some builtins don't tell; annotations may name what is not there
        return f"{name}(...)"
