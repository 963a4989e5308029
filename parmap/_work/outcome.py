"""What became of the items of a chunk, how their errors are told, and results are kept: the same in all workers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from parmap._travel.code.by_name import by_name
from parmap._travel.code.by_value import cloud_dumps, is_by_value
from parmap._travel.failure import encode, note, translate
from parmap._travel.payload import dump, pack
from parmap._travel.stream import plain_dumps
from parmap._travel.text import call_note, short_type

if TYPE_CHECKING:
    from parmap._travel.pack import Pack
    from parmap._work.run import Callee, Terms

_KEPT = 900_000_000  # bytes of a value in a journal: SQLite takes a thousand million at most


class Loading:
    """What it took, in all, to load what is loaded once: no item is to be blamed for it."""

    nanoseconds = 0


class Outcome:
    """What became of the first `done` items of a chunk: a result each, or an error."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.done: int = 0
        self.nanoseconds: int = 0
        self._loaded = Loading.nanoseconds

    def end(self, begin: int) -> None:
        """Nothing will be added; *begin*: nanoseconds of the monotonic clock at which it began."""
        self.done = len(self.results)
        self.nanoseconds = time.monotonic_ns() - begin - (Loading.nanoseconds - self._loaded)

    def end_fork(self) -> NoReturn:
        """End a process that a task has forked, and whose code came back to us: as a program ends."""
        error = self.errors.get(len(self.results) - 1)
        code = error.code if isinstance(error, SystemExit) else None if error is None else 1
        with suppress(BaseException):
            if error is not None and not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
            elif code is not None and not isinstance(code, int):
                sys.stderr.write(f"{code}\n")
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))

    def let_go(self) -> None:
        """Drop the errors, once they are told.

        Each has the frames of its task and, by these, of what called it: there is this outcome again. All that the task
        had would live until Python looks for cycles, which a few large arrays give it no reason to do.
        """
        self.errors.clear()

    @classmethod
    def failed(cls, error: BaseException, count: int) -> Outcome:
        """All of *count* items failed with *error*, before any was run."""
        outcome = cls()
        outcome.done = count
        outcome.results = [None] * count
        outcome.errors = dict.fromkeys(range(count), error)
        return outcome


def pack_results(results: list[Any], **how: Any) -> tuple[Pack, dict[int, BaseException]]:
    """Pickle the results of a chunk, as `pack` does; what would end this process is the error of its item, too."""
    try:
        return pack(results, **how)
    except BaseException:  # noqa: BLE001, S110 - of the user's `__reduce__`: `sys.exit` and its like
        pass
    errors: dict[int, BaseException] = {}
    for index, result in enumerate(results):
        try:
            dump(result)
        except Exception:  # noqa: BLE001, S112 - as below
            continue
        except BaseException as error:  # noqa: BLE001 - as above
            errors[index], results[index] = error, None
    packed, unsent = pack(results, **how)
    return packed, unsent | errors


def tell_failures(
    callee: Callee,
    terms: Terms,
    items: Any,
    errors: dict[int, BaseException],
    unsent: dict[int, BaseException],
    before: Callable[[int], object] = bool,
) -> list[tuple[int, Any, bool]]:
    """Encode the errors of a chunk, and those of results that can't be pickled: index, exception, whether to retry.

    *before*: called with the index of each, before the user's code runs.
    """
    told = []
    for index, error in {**unsent, **errors}.items():
        before(index)
        item = terms.start + index if terms.start >= 0 else None  # a single task has no number
        public = translate(error, item)
        if index not in errors:
            if isinstance(error, Exception):
                public.item = item  # type: ignore[attr-defined]  # a SerializationError
            note(public, _note_of_result(callee, terms.mode, items, index, item))
        retry = callee.retries(error, public)
        told.append((index, encode(public, with_locals=callee.rules.locals), retry))
    return told


def _note_of_result(callee: Callee, mode: str, items: Any, index: int, item: int | None) -> str:
    try:
        args = items[index]
    except Exception:  # noqa: BLE001 - it could be unpickled once: the user's code says no this time
        args, mode = None, ""
    return call_note(callee.function, mode, args, item) + ": its result can't be sent"


def dump_to_keep(value: Any, item: int) -> bytes:
    """Pickle the value of an item for another run of the program: its own classes by name, which only it has.

    Raises:
        SerializationError: it can't be pickled, or is of a class without a name.
    """
    try:
        try:
            stream = plain_dumps(value)
        except Exception:  # noqa: BLE001 - cloudpickle has the second try, and its error is the one that tells
            stream = cloud_dumps(value, _class_to_keep, fresh=False)
        if len(stream) > _KEPT:
            raise OverflowError(f"{len(stream)} bytes are too many")  # noqa: TRY301 - told like what else is wrong
    except Exception as error:
        from parmap.errors import SerializationError

        raise SerializationError(
            f"{short_type(value)} can't be kept in a journal: {type(error).__name__}: {error}", item=item
        ) from error
    return stream


def _class_to_keep(cls: type) -> tuple[Any, ...] | None:
    if not is_by_value(cls):
        return None
    if "<locals>" in cls.__qualname__:
        raise TypeError(f"the class {cls.__qualname__} is made in a function, where another run can't find it")
    return by_name, (cls.__module__, cls.__qualname__, 0, None)
