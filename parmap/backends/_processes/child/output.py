"""What tasks print, log and warn of, on its way to the parent: the worker's streams, handler and filters.

A line leaves as soon as it is whole, so that nothing is lost when the worker dies. `logging` is not imported for this:
it would double the time a worker takes to start. If a task does, its import is noticed.
"""

from __future__ import annotations

import _thread
import io
import os
import pickle
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from parmap._travel.failure import encode
from parmap._travel.stream import plain_dumps
from parmap._travel.text import shorten
from parmap._work.imports import when_imported
from parmap.backends._processes.line.channel import Channel, ChannelClosedError

if TYPE_CHECKING:
    import logging
    import socket
    from types import FrameType

_MOST = 200  # characters that stand for what a record holds and can't be sent
_ERRORS = "surrogateescape"
_OURS = sys.stdlib_module_names | {"cloudpickle", "parmap"}


class TalkingChannel(Channel):
    """A channel on which any thread of the worker may send."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._turn = _thread.RLock()
        self._late: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.has_talked = False  # something was sent since this was reset

    def send(self, *message: Any, **more: Any) -> None:
        """Send a message, and wait until it is gone."""
        self.has_talked = True
        # By a destructor or a signal handler, amid a message.
        if self._turn._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - Condition uses it too
            self._late.append((message, more))
            return
        with self._turn:
            super().send(*message, **more)
            while self._late:
                message, more = self._late.pop(0)
                super().send(*message, **more)

    def forget(self) -> None:
        """Be of no use any more, in a process that a task has forked: it would hide the end of the worker."""
        self._turn = _thread.RLock()
        self.sock.close()

    def post(self, *message: Any, **more: Any) -> bool:
        """As `send`: there is nobody who would `flush`."""
        self.send(*message, **more)
        return True


class _Lines(io.BufferedIOBase):
    """The bytes under `sys.stdout` or `sys.stderr`: sends whole lines."""

    def __init__(self, channel: Channel, name: str, original: Any) -> None:
        self._channel = channel
        self._stream = name
        self._original = original
        self.name = f"<{name}>"
        self.begin()

    def begin(self) -> None:
        """Hold nothing back."""
        self._held = bytearray()
        self._is_flushed = True
        self._turn = _thread.RLock()  # tasks may have threads

    def write(self, data: Any, /) -> int:
        with self._turn:
            lines, newline, rest = bytes(data).rpartition(b"\n")
            if newline:
                self._held += lines + newline
                self.push()
                self._is_flushed = False
            self._held += rest
        return len(data)

    def close(self) -> None:
        """Stay open: whoever puts a wrapper around `sys.stdout.buffer`, and another one later, would close it."""
        self.push()

    def flush(self) -> None:
        """Let it be seen, as the task wants: the program's stream may hold back whole lines."""
        if self._held:
            self.push()
        elif not self._is_flushed:
            self._is_flushed = True
            with suppress(ChannelClosedError):  # then they are flushed one by one
                self._channel.send("flush", self._stream, "")

    def push(self) -> None:
        """Send what is held; what is no whole line is flushed there."""
        if self._held:
            with self._turn:
                held, self._held = self._held, bytearray()
                self._send(held)

    def _send(self, lines: bytearray) -> None:
        text = lines.decode("utf-8", _ERRORS)
        try:
            self._channel.send("print", self._stream, text)
        except ChannelClosedError:  # an atexit callback prints; or a process that a task has forked
            if self._original is not None:
                self._original.write(text)
                self._original.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        try:
            return os.isatty(self.fileno())
        except OSError:
            return False

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2


def _outlet(lines: Any) -> io.TextIOWrapper:
    """Stands for `sys.stdout` or `sys.stderr`."""
    return io.TextIOWrapper(lines, "utf-8", _ERRORS, write_through=True)


class _Loggers(dict[str, Any]):
    """The loggers by name. They have the levels that they have in the program, also those that are made later.

    None is made for its level: the library that makes it may want a class of its own for it.
    """

    def __init__(self, loggers: dict[str, Any]) -> None:
        super().__init__(loggers)
        self._levels: dict[str, int] = {}

    def set_levels(self, levels: dict[str, int]) -> None:
        before, self._levels = self._levels, levels
        for name, logger in list(self.items()):  # threads that tasks have left behind may make loggers meanwhile
            if hasattr(logger, "setLevel") and (self._level(name, before) or self._level(name, levels)):
                logger.setLevel(self._level(name, levels))

    def _level(self, name: str, levels: dict[str, int]) -> int:
        """That of a logger: its own, or the one it would have from above it if all loggers had been made here, too."""
        while name not in levels:
            name = name.rpartition(".")[0]
            if not name or hasattr(self.get(name), "level"):
                return 0
        return levels[name]

    def __setitem__(self, name: str, logger: Any) -> None:
        super().__setitem__(name, logger)
        if not hasattr(logger, "level"):  # it holds the place of one
            return
        if level := self._level(name, self._levels):
            logger.level = level
            for below, each in list(self.items()):  # has had its level in its place
                if below.startswith(f"{name}.") and below not in self._levels and getattr(each, "level", 0) == level:
                    each.setLevel(0)


class Output:
    """All that a worker says besides its results."""

    def __init__(self, channel: TalkingChannel) -> None:
        self._channel = channel
        self._originals = sys.stdout, sys.stderr
        self._lines = _Lines(channel, "stdout", sys.stdout), _Lines(channel, "stderr", sys.stderr)
        self._out, self._err = map(_outlet, self._lines)
        self._levels: tuple[Any, ...] = ()
        self._handler: logging.Handler | None = None
        self._last_resort: logging.Handler | None = None
        self._handled = True  # whether the parent's root logger has handlers
        self.recorder = 0
        """Who records warnings in the program."""
        self._filters: list[bytes] | None = None
        self._awaited: set[str] = set()  # modules with categories of filters
        sys.stdout, sys.stderr = self._out, self._err
        os.register_at_fork(after_in_child=self._restore)
        when_imported("logging", self._listen)
        when_imported("warnings", self._listen_to_warnings)

    def flush(self) -> None:
        """Send lines that have not ended."""
        if sys.stdout is not self._out or sys.stderr is not self._err:  # what a task has put there may hold some back
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # it may be anything, and closed
                    stream.flush()
        self._lines[0].push()  # not by the streams that stand on them, which a task may have closed or detached
        self._lines[1].push()

    def _restore(self) -> None:
        """In a process that a task forked: the channel, and what was printed before, are not its own."""
        self._channel.forget()
        for lines in self._lines:
            lines.begin()
        if sys.stdout is self._out:
            sys.stdout = self._originals[0]
        if sys.stderr is self._err:
            sys.stderr = self._originals[1]
        if self._handler is not None:
            import logging

            logging.root.removeHandler(self._handler)
            logging.lastResort = self._last_resort

    # logging

    def _listen(self) -> None:
        import logging

        handler = self._handler = _handler(self._channel)
        logging.root.addHandler(handler)
        logging.root.manager.loggerDict = _Loggers(logging.root.manager.loggerDict)
        # A logger that does not propagate may have its handlers in the parent alone.
        self._last_resort, logging.lastResort = logging.lastResort, handler
        configure = logging.basicConfig

        def basic_config(**options: Any) -> None:
            """Do what it would do in the program: nothing, where that has handlers; else these take all records."""
            if not self._handled:
                logging.root.removeHandler(handler)
            configure(**options)

        logging.basicConfig = basic_config
        self.set_levels(self._levels)

    def set_levels(self, levels: tuple[Any, ...]) -> None:
        """Set the loggers to the levels that they have in the parent."""
        before, self._levels = self._levels, levels
        if self._handler is None or not (before or levels):
            return
        logging = sys.modules["logging"]
        self._handled, off, named = levels or (True, 0, (("", logging.WARNING),))
        logging.disable(off)
        logging.root.setLevel(dict(named)[""])
        logging.root.manager.loggerDict.set_levels(dict(named))

    # warnings

    def _listen_to_warnings(self) -> None:
        import warnings

        shown = warnings.showwarning

        def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
            """Show a warning where the program shows its own, or records them."""
            if file is None and sys.stderr is self._err:
                once = _is_noted(message, category, lineno)
                try:
                    told = encode(message), filename, lineno, line, self.recorder, once
                    self._channel.send("warn", pickle.dumps(told))
                except ChannelClosedError:  # the worker is being stopped
                    pass
                else:
                    return
            shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show

    def set_filters(self, pickled: list[bytes]) -> None:
        """Warn of what the parent would warn of."""
        if pickled != self._filters:
            self._filters = pickled
            self._filter()

    def _filter(self) -> None:
        """A category whose module nobody has imported is in nothing that is warned of: its filter can wait."""
        import warnings

        awaited: set[str] = set()

        class Filter(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if module not in sys.modules and module.partition(".")[0] not in _OURS:
                    awaited.add(module)
                    raise ImportError(name=module)
                return super().find_class(module, name)

        warnings.resetwarnings()  # with it goes what was warned of before
        for each in self._filters or ():
            try:
                warnings.filters.append(Filter(io.BytesIO(each)).load())  # type: ignore[attr-defined]  # it is a list, in fact
            except Exception:  # noqa: BLE001, S112 - the user's class
                continue
        for module in awaited - self._awaited:
            self._awaited.add(module)
            when_imported(module, self._filter)


def _handler(channel: Channel) -> logging.Handler:
    import logging

    formatter = logging.Formatter()

    class Sender(logging.Handler):
        """Sends records to the loggers of the same names in the parent."""

        def emit(self, record: logging.LogRecord) -> None:
            try:
                channel.send(
                    "log", record.name, record.levelno, self._is_told(record.name), _pickled(record, formatter)
                )
            except ChannelClosedError:  # the worker is being stopped
                pass
            except Exception:  # noqa: BLE001 - as every handler does
                self.handleError(record)

        def _is_told(self, name: str) -> bool:
            """Whether another handler, which a task or an initializer has made, has the record as well."""
            logger: logging.Logger | None = logging.getLogger(name)
            while logger is not None:
                if {*logger.handlers} - {self}:
                    return True
                logger = logger.parent if logger.propagate else None
            return False

    return Sender()


def _pickled(record: logging.LogRecord, formatter: logging.Formatter) -> bytes:
    """A record whose message is made, its traceback as text, its exception encoded; what can't travel, shortened."""
    content = dict(record.__dict__)
    content["msg"], content["args"] = record.getMessage(), None
    if record.exc_info:
        content["exc_text"] = record.exc_text or formatter.formatException(record.exc_info)
        error = record.exc_info[1]
        content["exc_info"] = None if error is None else encode(error)
    with suppress(Exception):  # the user's objects
        return plain_dumps(content)
    for name, value in content.items():
        try:
            plain_dumps(value)
        except Exception:  # noqa: BLE001 - the user's objects
            content[name] = _text(value)
    return plain_dumps(content)


def _text(value: Any) -> str:
    """As the task would have it in its log."""
    try:
        return repr(value)[:_MOST]
    except Exception:  # noqa: BLE001 - the user's code
        return shorten(value)


def _is_noted(message: Any, category: Any, lineno: int) -> bool:
    """Whether Python has noted that it warns of this, so as not to do it again: not if a filter says "always"."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as `warnings` itself does
    what = str(message), category, lineno
    while frame is not None and what not in frame.f_globals.get("__warningregistry__", ()):
        frame = frame.f_back
    return frame is not None
