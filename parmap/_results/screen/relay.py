"""What tasks print and log, caught in the worker by `child.output`, written out here, above progress bars.

Whoever hears a worker hands its output over without waiting, since writing may block: on a terminal that is stopped, on
a pipe that nobody reads. A thread writes it, to the `sys.stdout` and `sys.stderr` of the moment, so that notebooks and
tests see it; and whoever is about to return a result writes first what came before that result. When too much waits,
workers that go on printing are not heard until there is room: they block in `print`, as before a full pipe.
"""

from __future__ import annotations

import _thread
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import ref

from parmap._results.watched import Watched
from parmap._travel.failure import Failure, pass_on
from parmap._travel.text import with_source, written
from parmap._work.surroundings import recorders
from parmap._work.threads import ShutdownError, start_thread

ROOM = 4 << 20
"""Characters that may wait to be written."""

_AT_ONCE = 1 << 16  # characters that are worth a call: more would only make Ctrl-C wait

_EACH = 100  # what a message takes besides its text


class Relay(Watched):
    """Output on its way out. What others wait for is room."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        # What came is counted by the threads of engines, under the lock; what went by whoever has the turn. So nobody
        # who may be interrupted by a signal handler that waits for an engine holds what the engine needs.
        self._came = 0
        self._went = 0
        self._count = threading.Lock()
        # Reentrant, because what is written to may be the user's, and call parmap again.
        self._turn = _thread.RLock()
        self._signal = threading.Event()
        self._thread: threading.Thread | None = None
        self._told = False  # that there is no thread to be had
        self._watchers = deque()

    def put(self, kind: str, fields: tuple[Any, ...]) -> None:
        """Take a message of a worker; never blocks."""
        with self._count:
            self._came += _EACH + len(fields[-1])
        self.waiting.append((kind, fields))
        if self._thread is None:
            try:
                self._thread = start_thread("parmap-output", self._live, deaf=True)
            except ShutdownError:  # what waits is written at its end
                return
            except RuntimeError as error:  # what tasks print comes out all the same, but holds up other work
                pass_on(error)
                if not self._told:
                    self._told = True
                    _write("stderr", f"{error}\n")
                self.drain()
                return
        if not self._signal.is_set():
            self._signal.set()

    @property
    def is_full(self) -> bool:
        """Whether workers that print should not be heard for now."""
        return self._came - self._went > ROOM

    @property
    def happened(self) -> bool:
        """Whether there is room."""
        return not self.is_full

    def when_room(self, callback: Callable[[], object]) -> None:
        """Call *callback* once there is room again, from any thread."""
        if not self.watch(callback):
            callback()

    def drain(self) -> None:
        """Write what waits now."""
        # What is written to may ask for a result of parmap's.
        if not self.waiting or self._turn._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - Condition uses it too
            return
        with self._turn:
            left = len(self.waiting)
            while left > 0:
                kind, fields, count = self._next(left)
                left -= count
                try:
                    write(kind, fields)
                finally:
                    # Only now: whoever finds nothing waiting relies on all being written.
                    for _ in range(count):
                        self.waiting.popleft()
                    self._went += _EACH * count + len(fields[-1])
                if self.happened:
                    self.fire()

    def _next(self, most: int) -> tuple[str, tuple[Any, ...], int]:
        """What waits first; lines with those that follow on the same stream, since bars are drawn anew each time."""
        kind, fields = self.waiting[0]
        if kind != "print":
            return kind, fields, 1
        name, text = fields
        texts, size = [text], len(text)
        while len(texts) < most and size < _AT_ONCE:
            other, further = self.waiting[len(texts)]
            if other != kind or further[0] != name or texts[-1][-1:] != "\n":
                break
            texts.append(further[1])
            size += len(texts[-1])
        return kind, (name, "".join(texts)), len(texts)

    def _live(self) -> None:
        while self._signal.wait():
            self._signal.clear()
            while self.waiting:
                self.drain()

    def forget(self) -> None:
        """Start anew, in a process forked from the one whose thread writes."""
        self.__init__()  # type: ignore[misc]  # the old locks may be held for ever


relay = Relay()


def write(kind: str, fields: tuple[Any, ...]) -> None:
    """Write a message now."""
    try:
        _WRITERS[kind](*fields)
    except Exception as error:  # noqa: BLE001 - the user's streams and handlers: results are not kept back
        pass_on(error)
        sys.excepthook(type(error), error, error.__traceback__)


def _write(name: str, text: str) -> None:
    stream = getattr(sys, name)
    if stream is None:
        return
    try:
        _write_to(stream, text)
    except (OSError, ValueError) as error:  # nobody reads it any more, or it is closed
        pass_on(error)


def _write_to(stream: Any, text: str) -> None:
    unfinished = text[-1:] != "\n"
    with _above_bars(stream):
        try:
            if text:
                stream.write(text)
        except UnicodeEncodeError:
            stream.write(written(text, stream))
        if text and unfinished and _bars() is not None and getattr(stream, "isatty", bool)():
            stream.write("\n")  # else a bar is drawn over it
    if unfinished:  # the task wants it to be seen
        stream.flush()


def _bars() -> Any:
    """The class of tqdm's bars, if some are shown."""
    tqdm: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return tqdm if getattr(tqdm, "_instances", None) else None


def _above_bars(stream: Any) -> AbstractContextManager[Any]:
    """What is written to *stream* meanwhile goes above the bars, if some are shown."""
    bars = _bars()
    return nullcontext() if bars is None else bars.external_write_mode(file=stream)


def _call(function: Callable[..., object], args: tuple[Any, ...], _: bytes) -> None:
    function(*args)


def _log(name: str, level: int, is_told: bool, pickled: bytes) -> None:
    import logging

    logger = logging.getLogger(name)
    if not logger.isEnabledFor(level) or (is_told and not logger.hasHandlers()):
        return
    content = pickle.loads(pickled)
    if (title := logging.getLevelName(level)) != f"Level {level}":  # the program has names of its own for them
        content["levelname"] = title
    if content["exc_info"] is not None:
        error = Failure(encoded=content["exc_info"]).exception()
        content["exc_info"] = type(error), error, None
        content["exc_text"] = with_source(content["exc_text"])
    with _above_bars(sys.stderr):
        logger.handle(logging.makeLogRecord(content))


def _warn(pickled: bytes) -> None:
    import warnings

    encoded, filename, number, line, recorder, once = pickle.loads(pickled)
    warning = Failure(encoded=encoded).exception()
    warning.__cause__ = None  # its text from the worker: it says the same
    if not isinstance(warning, Warning):  # it can't travel: an error tells what it says
        warning = UserWarning(str(warning))
    here = recorders.get(recorder)
    if once and not _is_news((type(warning), str(warning), filename, number), here):
        return
    if here is not None:
        here.log.append(warnings.WarningMessage(warning, type(warning), filename, number, None, line))
        return
    with _above_bars(sys.stderr):
        warnings.showwarning(warning, type(warning), filename, number, None, line)


_heard: tuple[Any, Any, Any, set[Any]] = None, None, None, set()  # for whom, under which filters, and of what since


def _is_news(what: tuple[Any, ...], here: Any) -> bool:
    """Whether no other worker has warned of it. Other filters, as in `catch_warnings`, begin anew, as in Python."""
    global _heard  # noqa: PLW0603 - one at a time
    import warnings

    whom, filters = here and ref(here), warnings.filters
    if whom != _heard[0] or filters is not _heard[1] or filters != _heard[2]:
        _heard = whom, filters, [*filters], set()
    heard = _heard[3]
    news = what not in heard
    heard.add(what)
    return news


_WRITERS: dict[str, Callable[..., None]] = {
    "print": _write,
    "flush": _write,  # of no text
    "log": _log,
    "warn": _warn,
    "call": _call,
}
