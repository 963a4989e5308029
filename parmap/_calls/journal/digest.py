"""Digests of values and of code: the same in each run of a program."""

from __future__ import annotations

import hashlib
import pickle
from math import inf
from types import CodeType, FunctionType
from typing import Any

_DOCSTRING = 0x4000000  # flag of the code that has one, from Python 3.13 on
_MOST, _PIECE = 1 << 26, 1 << 16  # bytes of a value that is written out whole, and of one large part of it, at most


class _Pickler(pickle.Pickler):
    """Pickles sets in an order of their own, which does not depend on the hashes of strings in this run."""

    met: dict[int, Any] | None

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) is set or type(obj) is frozenset:
            return type(obj).__name__, sorted(digest(each, self.met) for each in obj)
        if self.met is not None and isinstance(obj, (FunctionType, type)):
            self.met[id(obj)] = obj
        return None


class _File:
    """What a pickle is written to."""

    def __init__(self, most: float) -> None:
        self.state = hashlib.blake2b(digest_size=16)
        self._left = most

    def write(self, data: Any) -> None:
        self._left -= min(memoryview(data).nbytes, _PIECE)
        if self._left < 0:
            raise ValueError("too long")
        self.state.update(data)


def digest(value: Any, met: dict[int, Any] | None = None) -> bytes:
    """The digest of a value; equal values that share parts in another way have the same, unless they are large.

    Args:
        value: what is digested.
        met: takes the functions and classes in it, by their `id`: the digest has only their names.

    Raises:
        Exception: it can't be pickled.
    """
    try:
        return _digest(value, met, fast=True)
    except (ValueError, RecursionError):  # it holds itself, or much again and again
        return _digest(value, met, fast=False)


def _digest(value: Any, met: dict[int, Any] | None, *, fast: bool) -> bytes:
    file = _File(_MOST if fast else inf)
    pickler = _Pickler(file, 5)
    pickler.fast = fast  # without a memo: what is twice in it is written twice
    pickler.met = met
    pickler.dump(value)
    return file.state.digest()


def code_of(code: CodeType, docstring: str | None = None) -> tuple[Any, ...]:
    """What a code does, whatever its lines and comments."""
    constants = code.co_consts
    if constants and ((docstring is not None and constants[0] == docstring) or code.co_flags & _DOCSTRING):
        constants = constants[1:]
    inner = [code_of(each) if isinstance(each, CodeType) else each for each in constants]
    return code.co_code, code.co_names, code.co_flags & ~_DOCSTRING, code.co_exceptiontable, inner
