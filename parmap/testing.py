"""For those who write a backend of their own: whether it keeps the contract."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from itertools import count
from threading import Thread
from typing import Any

from parmap._calls.options import resolve
from parmap._engine import pools
from parmap._engine.engine import Engine

__all__ = ["check_backend"]

PATIENCE = 60.0
"""Seconds after which what is waited for will never come."""


def check_backend(make: Callable[[Any], Any]) -> list[str]:
    """Run a backend through what all backends must do; each call takes a new one.

    Args:
        make: called with settled options, returns the backend. A class that derives from
            :class:`parmap.backends.Backend` is such a callable.

    Returns:
        What was checked, in words.

    Raises:
        AssertionError: a promise is not kept; the message says which.

    Example:
        >>> from parmap.backends import Threads
        >>> from parmap.testing import check_backend
        >>> for line in check_backend(Threads):
        ...     print(line)
        results come in order
        a stream reads no further than it must
        an error comes to its item, and to no other
        retries run again what failed
        the first error ends a call
        single tasks have futures
        it can be used again after it was idle
        nothing is left waiting at the end
    """
    told = []
    for words, check in _CHECKS:
        options = resolve({"workers": 2, "backend": "threads", "idle_timeout": 0.05})
        engine = Engine(make(options))
        future: Future[bool] = Future()
        Thread(target=_tell, args=(future, check, engine, options), daemon=True).start()
        has_ended = False
        try:
            has_ended = bool(wait([future], PATIENCE).done)
        finally:
            engine.close(wait=has_ended, cancel=True)
        if not has_ended:
            raise AssertionError(f"not kept, or waited for in vain: {words}")
        if not future.result():
            raise AssertionError(f"not kept: {words}")
        told.append(words)
    return told


def _tell(future: Future[bool], check: Callable[[Any, Any], bool], engine: Any, options: Any) -> None:
    try:
        future.set_result(check(engine, options))
    except BaseException as error:  # noqa: BLE001 - it is raised by who reads it
        future.set_exception(error)


def _double(x: int) -> int:
    return 2 * x


def _inverse(x: int) -> float:
    return 1 / x


def _fail_once(path: str) -> str:
    try:
        with open(path, "x", encoding="utf-8"):
            pass
    except FileExistsError:
        return path
    raise OSError(path)


def _order(engine: Any, options: Any) -> bool:
    return pools.map(_double, (range(1000),), options, engine=engine) == [2 * x for x in range(1000)]


def _stream(engine: Any, options: Any) -> bool:
    with pools.stream(_double, (count(),), options, engine=engine) as stream:
        return [next(stream) for _ in range(50)] == [2 * x for x in range(50)]


def _errors(engine: Any, options: Any) -> bool:
    found = pools.map(_inverse, ([1, 0, 2, 0, 4],), options, return_exceptions=True, engine=engine)
    return [type(each) for each in found] == [float, ZeroDivisionError, float, ZeroDivisionError, float]


def _retries(engine: Any, options: Any) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}" for number in range(5)]
        return pools.map(_fail_once, (paths,), options.replace(retries=1), engine=engine) == paths


def _fail_fast(engine: Any, options: Any) -> bool:
    try:
        pools.map(_inverse, ([1, 0, 2],), options, engine=engine)
    except ZeroDivisionError:
        return True
    return False


def _submit(engine: Any, options: Any) -> bool:
    futures = [pools.submit(_double, (number,), {}, options, engine=engine) for number in range(50)]
    return [future.result(30) for future in futures] == [2 * number for number in range(50)]


def _idle(engine: Any, options: Any) -> bool:
    before = _order(engine, options)
    time.sleep(0.2)
    return before and _order(engine, options)


def _end(engine: Any, options: Any) -> bool:
    future = pools.submit(_double, (1,), {}, options, engine=engine)
    engine.close(wait=False)
    is_right: bool = future.result(30) == _double(1)
    engine.join(30)
    return is_right and engine.closed


_CHECKS: list[tuple[str, Callable[[Any, Any], bool]]] = [
    ("results come in order", _order),
    ("a stream reads no further than it must", _stream),
    ("an error comes to its item, and to no other", _errors),
    ("retries run again what failed", _retries),
    ("the first error ends a call", _fail_fast),
    ("single tasks have futures", _submit),
    ("it can be used again after it was idle", _idle),
    ("nothing is left waiting at the end", _end),
]
