"""For those who write a backend of their own: whether it keeps the contract."""

from __future__ import annotations

import tempfile
import time
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._calls.options import resolve
from parmap._engine import pools
from parmap._engine.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_backend"]


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
        try:
            check(engine, options)
        except AssertionError as error:
            raise AssertionError(f"not kept: {words}: {error}") from error
        finally:
            engine.close(wait=True, cancel=True)
        told.append(words)
    return told


def _inverse(x: int) -> float:
    return 1 / x


def _order(engine: Any, options: Any) -> None:
    found = pools.map(_double, (range(1000),), options, engine=engine)
    assert found == [2 * x for x in range(1000)], "map returned something else"  # noqa: S101 - that is what it is for


def _stream(engine: Any, options: Any) -> None:
    with pools.stream(_double, (count(),), options, engine=engine) as stream:
        assert [next(stream) for _ in range(50)] == [2 * x for x in range(50)], "imap yielded something else"  # noqa: S101


def _errors(engine: Any, options: Any) -> None:
    found = pools.map(_inverse, ([1, 0, 2, 0, 4],), options, return_exceptions=True, engine=engine)
    kinds = [type(each).__name__ for each in found]
    assert kinds == ["float", "ZeroDivisionError", "float", "ZeroDivisionError", "float"], str(kinds)  # noqa: S101


def _retries(engine: Any, options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}" for number in range(5)]
        found = pools.map(_fail_once, (paths,), options.replace(retries=1), engine=engine)
    assert found == paths, "an item that failed once has no result"  # noqa: S101


def _fail_once(path: str) -> str:
    try:
        with open(path, "x", encoding="utf-8"):
            pass
    except FileExistsError:
        return path
    raise OSError(path)


def _fail_fast(engine: Any, options: Any) -> None:
    try:
        pools.map(_inverse, ([1, 0, 2],), options, engine=engine)
    except ZeroDivisionError:
        return
    raise AssertionError("map returned, though an item failed")


def _submit(engine: Any, options: Any) -> None:
    futures = [pools.submit(_double, (number,), {}, options, engine=engine) for number in range(50)]
    found = [future.result(30) for future in futures]
    assert found == [2 * number for number in range(50)], "a future has another result"  # noqa: S101


def _double(x: int) -> int:
    return 2 * x


def _idle(engine: Any, options: Any) -> None:
    _order(engine, options)
    time.sleep(0.2)
    _order(engine, options)


def _end(engine: Any, options: Any) -> None:
    future = pools.submit(_double, (1,), {}, options, engine=engine)
    engine.close(wait=False)
    assert future.result(30) == 2, "what was submitted before the end has no result"  # noqa: S101, PLR2004
    engine.join(30)
    assert engine.closed, "the engine does not end"  # noqa: S101


_CHECKS: list[tuple[str, Callable[[Any, Any], None]]] = [
    ("results come in order", _order),
    ("a stream reads no further than it must", _stream),
    ("an error comes to its item, and to no other", _errors),
    ("retries run again what failed", _retries),
    ("the first error ends a call", _fail_fast),
    ("single tasks have futures", _submit),
    ("it can be used again after it was idle", _idle),
    ("nothing is left waiting at the end", _end),
]
