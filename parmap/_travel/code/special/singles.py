"""What there is one of, wherever it comes, though pickle knows but its name: sentinels, type variables, aliases."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from weakref import ref

_singles: dict[str, Callable[[], Any]] = {}  # what gives it, weakly if that is possible: a `sentinel` stays for good
_tokens: dict[int, str] = {}  # under what each is in there, by its identity, as long as it lives


def token_of(thing: Any) -> str:
    """The name under which it is known from now on, here and wherever it is sent."""
    token = _tokens.setdefault(id(thing), f"{os.getpid()} {os.urandom(16).hex()}")
    keep(token, thing)
    return token


def known(token: str) -> Any:
    """What is known here under a name, or None."""
    return _singles.get(token, lambda: None)()


def keep(token: str, thing: Any) -> Any:
    """Let it be known under a name, unless something is; returns what is."""
    place = id(thing)

    def forget(gone: ref[Any]) -> None:
        _tokens.pop(place, None)
        if _singles.get(token) is gone:
            del _singles[token]

    try:
        held: Callable[[], Any] = ref(thing, forget)
    except TypeError:
        held = lambda: thing  # noqa: E731 - the other kind of what gives it
    kept = _singles.setdefault(token, held)()
    if kept is None:  # that is just going
        _singles[token], kept = held, thing
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
    before = known(token)
    found = keep(token, make(*args)) if before is None else before
    if before is None or token.partition(" ")[0] != str(os.getpid()):  # where it was made, it is as it is
        for name, value in parts.items():
            object.__setattr__(found, name, value)
    return found
