"""The options that environment variables give: which variables, and how their text reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def _flag(text: str) -> bool | str:
    return {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }.get(text.lower(), text)


def _number(text: str) -> float | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.lower() == "none" else text


def _modules(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


# Those that make sense as text.
FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "workers": _number,
    "backend": str,
    "timeout": _number,
    "deadline": _number,
    "retries": _number,
    "retry_delay": _number,
    "chunksize": _number,
    "start_method": str,
    "max_tasks_per_child": _number,
    "max_memory_per_child": _number,
    "preload": _modules,
    "idle_timeout": _number,
    "progress": _flag,
    "traceback_locals": _flag,
    "seed": _number,
}
VARIABLES = {f"PARMAP_{name.upper()}": name for name in FROM_TEXT}
# os.environ encodes at each access, which would cost more than all the rest of a submit(): look into the dictionary
# under it, which has encoded keys.
RAW_NAMES: tuple[Any, ...] = tuple(map(getattr(os.environ, "encodekey", str), VARIABLES))


def snapshot() -> object:
    """Return what tells one state of the variables from another: None as long as none is set."""
    try:
        data: Any = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001 - see RAW_NAMES
    except AttributeError:  # somebody's own mapping in its place
        return tuple(map(os.environ.get, VARIABLES))
    return None if data.keys().isdisjoint(RAW_NAMES) else tuple(map(data.get, RAW_NAMES))


def read() -> dict[str, tuple[str, Any]]:
    """Return for each option that is set its variable and its value, which is still to be checked."""
    found: dict[str, tuple[str, Any]] = {}
    for variable, text in os.environ.items():
        if not variable.startswith("PARMAP_") or not text.strip():
            continue
        name = VARIABLES.get(variable)
        if name is None:
            _warn_if_misspelled(variable)
        else:
            found[name] = variable, FROM_TEXT[name](text.strip())
    return found


def _warn_if_misspelled(variable: str) -> None:
    from difflib import get_close_matches

    close = get_close_matches(variable, VARIABLES, n=1, cutoff=0.85)
    if close:
        from warnings import warn

        warn(
            f"the environment variable {variable} means nothing to parmap; did you mean {close[0]}?", RuntimeWarning, 2
        )
