"""Digests of values and of code: the same in each run of a program."""

from __future__ import annotations

import hashlib
import pickle
from types import CodeType
from typing import Any

_DOCSTRING = 0x4000000  # flag of the code that has one, from Python 3.13 on


class _Hash:
    """Takes what a pickler writes."""

    def __init__(self) -> None:
        self.state = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> None:
        self.state.update(data)


class _Pickler(pickle.Pickler):
    """Pickles sets in an order of their own, which does not depend on the hashes of strings in this run."""

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) is set or type(obj) is frozenset:
            return type(obj).__name__, sorted(map(digest, obj))
        return None


def digest(value: Any) -> bytes:
    """The digest of a value; equal values that share parts in another way have the same.

    Raises:
        Exception: it can't be pickled.
    """
    found = _Hash()
    pickler = _Pickler(found, 5)
    pickler.fast = True  # without a memo: what is twice in it is written twice
    try:
        pickler.dump(value)
    except (ValueError, RecursionError):  # it holds itself
        found = _Hash()
        _Pickler(found, 5).dump(value)
    return found.state.digest()


def code_of(code: CodeType, docstring: str | None = None) -> tuple[Any, ...]:
    """What a code does, whatever its lines and comments."""
    constants = code.co_consts
    if constants and ((docstring is not None and constants[0] == docstring) or code.co_flags & _DOCSTRING):
        constants = constants[1:]
    inner = [code_of(each) if isinstance(each, CodeType) else each for each in constants]
    return code.co_code, code.co_names, code.co_flags & ~_DOCSTRING, getattr(code, "co_exceptiontable", b""), inner
