"""What there is one of, wherever it comes, and pickle knows nothing of but a name that workers lack: sentinels."""

from __future__ import annotations

import os
from typing import Any

_singles: dict[str, Any] = {}  # not weakly: a `sentinel` can't be referred to so
_tokens: dict[int, str] = {}  # under what each is in there, by its identity


def token_of(thing: Any) -> str:
    """The name under which it is known from now on, here and wherever it is sent."""
    token = _tokens.setdefault(id(thing), f"{os.getpid()} {os.urandom(16).hex()}")
    keep(token, thing)
    return token


def known(token: str) -> Any:
    """What is known here under a name, or None."""
    return _singles.get(token)


def keep(token: str, thing: Any) -> Any:
    """Let it be known under a name, unless something is; returns what is."""
    kept = _singles.setdefault(token, thing)
    _tokens[id(kept)] = token
    return kept


def single_reduced(thing: Any, make: Any, args: tuple[Any, ...], parts: dict[str, Any]) -> tuple[Any, ...]:
    """As a reducer: what makes it, and its attributes."""
    return _find_or_make, (token_of(thing), make, args, parts)


def parts_of(thing: Any) -> dict[str, Any]:
    """The attributes of an object."""
    state: Any = object.__getstate__(thing)
    return {**(state[0] or {}), **state[1]} if type(state) is tuple else state or {}  # with `__slots__`, or without


def _find_or_make(token: str, make: Any, args: tuple[Any, ...], parts: dict[str, Any]) -> Any:
    found = known(token)
    if found is None:
        found = keep(token, make(*args))
    if token.partition(" ")[0] != str(os.getpid()):  # where it was made, it is as it is
        for name, value in parts.items():
            object.__setattr__(found, name, value)
    return found
