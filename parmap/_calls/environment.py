"""The options that environment variables give: which variables, and how their text reads."""

from __future__ import annotations

import os
from typing import Any

from parmap._calls.checks import OPTIONS

PREFIX = "PARMAP_"
VARIABLES = {f"{PREFIX}{name.upper()}": option.read for name, option in OPTIONS.items() if option.read}
# os.environ encodes at each access, which would cost more than all the rest of a submit(): look into the dictionary
# under it, which has encoded keys.
RAW_PREFIX, *_raw = map(getattr(os.environ, "encodekey", str), (PREFIX, *VARIABLES))
RAW_NAMES: tuple[Any, ...] = tuple(_raw)


def snapshot() -> object:
    """Return what tells one state of the variables from another: None as long as none is set."""
    try:
        data: Any = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001 - see RAW_NAMES
    except AttributeError:  # somebody's own mapping in its place
        return tuple(map(os.environ.get, VARIABLES))
    return None if data.keys().isdisjoint(RAW_NAMES) else tuple(map(data.get, RAW_NAMES))


def read() -> dict[str, Any]:
    """Return the value of each option that is set.

    Raises:
        ValueError: one that is not allowed.
    """
    found: dict[str, Any] = {}
    raw = [*getattr(os.environ, "_data", ())]
    # Whatever the program put in its place is gone through itself.
    every = map(os.environ.decodekey, (name for name in raw if name.startswith(RAW_PREFIX))) if raw else [*os.environ]
    for variable in every:
        text = os.environ.get(variable, "")  # another thread may have removed it
        if not variable.startswith(PREFIX) or not text.strip():
            continue
        read_text = VARIABLES.get(variable)
        if read_text is None:
            _warn_if_misspelled(variable)
        else:
            name = variable.removeprefix(PREFIX).lower()
            value = None if text.strip().lower() == "none" else read_text(text.strip())
            try:
                found[name] = OPTIONS[name].check(variable, value)
            except TypeError as error:  # text has but one type: what is wrong is its value
                raise ValueError(*error.args) from None
    return found


def _warn_if_misspelled(variable: str) -> None:
    from difflib import get_close_matches

    close = get_close_matches(variable, VARIABLES, n=1, cutoff=0.85)
    if close:
        from warnings import warn

        warn(
            f"the environment variable {variable} means nothing to parmap; did you mean {close[0]}?", RuntimeWarning, 2
        )
