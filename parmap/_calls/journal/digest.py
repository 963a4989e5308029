"""Digests of values and of code: the same in each run of a program."""

from __future__ import annotations

import hashlib
import pickle
from math import inf
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from parmap._travel.broadcast import Broadcast
from parmap._work.per_worker import PerWorker

_DOCSTRING = 0x4000000  # flag of the code that has one, from Python 3.13 on
_MOST, _PIECE = 1 << 26, 1 << 16  # bytes of a value that is written out whole, and of one large part of it, at most


class _Pickler(pickle.Pickler):
    """Pickles what is another thing in each run by what it is: sets, by no hashes of strings; what has a token."""

    met: dict[int, Any] | None

    def persistent_id(self, obj: Any) -> Any:
        if type(obj) is set or type(obj) is frozenset:
            return type(obj).__name__, sorted(digest(each, self.met) for each in obj)
        if type(obj) is Broadcast:
            return "Broadcast", _of_broadcast(obj, self.met)
        if type(obj) is PerWorker:
            factory = obj.__wrapped__
            self.persistent_id(factory)  # for whoever wants to know whom it met
            is_named = isinstance(factory, (FunctionType, type))
            return "PerWorker", name_of(factory) if is_named else digest(factory, self.met)
        if self.met is not None and isinstance(obj, (FunctionType, type)):
            self.met[id(obj)] = obj
        return None


_broadcast: WeakKeyDictionary[Broadcast[Any], bytes] = WeakKeyDictionary()  # what does not change, by promise


def _of_broadcast(shared: Broadcast[Any], met: dict[int, Any] | None) -> bytes:
    if met is not None or shared not in _broadcast:
        _broadcast[shared] = digest(shared.value, met)
    return _broadcast[shared]


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


def name_of(thing: Any) -> str:
    """What a function or a class is called, or the class of another thing, with its module."""
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", type(thing).__qualname__))
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{name}"
