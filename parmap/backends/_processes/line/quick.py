"""The quick line: single small tasks to an idle worker, and their answers, without a detour over the engine's thread.

While a worker is *leased*, any thread may send it one task and read the answer. The socket keeps messages whole
(`SOCK_SEQPACKET`), and every step that counts is one operation of C, between whose parts no signal handler runs and no
exception is raised:

* a task is recorded in `flight` under a number of its own before it is sent; from then on the engine knows of it;
* an answer goes from the socket into `inbox`, is settled, and only then removed; settling twice does nothing.

So whoever is interrupted for good, or for a while by a signal handler that uses the same worker, loses nothing: the
engine looks at its leased lines some milliseconds after they were used. What it finds unsent it sends; the worker does
each number once. What it finds answered it settles.
"""

from __future__ import annotations

import errno
import marshal
import os
import pickle
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Hashable
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from parmap._results.futures import End, Future
from parmap._travel.failure import Failure, pass_on
from parmap._travel.flat import is_small
from parmap._travel.pack import Packed
from parmap._work.report.watch import Open, Singles
from parmap.backends._processes.line import sockets
from parmap.backends._processes.line.sockets import FAILURE, MOST, NOSIGNAL, PICKLE, VALUE
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._work.surroundings import Context
    from parmap.backends._processes.functions import FunctionCall

_GLANCE = 0.25  # seconds after which who waits looks whether the engine has settled the task


def socket_pair() -> tuple[sockets.Socket, sockets.Socket]:
    """Both ends of a line on which messages stay whole, if there are `HAS_QUICK_LINES`; else nobody writes to it."""
    pair = sockets.pair(socket.SOCK_SEQPACKET if HAS_QUICK_LINES else socket.SOCK_STREAM)
    for end in pair:
        end.setblocking(False)  # whatever `socket.setdefaulttimeout` says
    return pair


def _has_quick_lines() -> bool:
    try:
        for end in sockets.pair(socket.SOCK_SEQPACKET):
            end.close()
    except AttributeError:
        return False
    except OSError as error:  # macOS has a name for them, no more; what there are too many of now there won't be later
        return error.errno in {errno.EMFILE, errno.ENFILE}
    return True


HAS_QUICK_LINES = _has_quick_lines()


class Pickled:
    """The value of one task, still pickled: what a future decodes its value from."""

    __slots__ = ("_stream",)

    def __init__(self, stream: bytes) -> None:
        self._stream = stream

    def __getitem__(self, _: int) -> Any:
        return pickle.loads(self._stream)


class QuickLine:
    """The program's end."""

    def __init__(self, sock: sockets.Socket, post: Callable[[Any], object], slot: Hashable) -> None:
        """*post*: leaves a note for the engine; *slot*: the worker's."""
        self.sock = sock
        self._slot = slot
        self.singles: Singles = Singles()
        self.flight: dict[int, Future[Any]] = {}
        self.is_open: bool = False  # written by the engine: whether callers may use it
        self.used: int = 0  # the number of the last task
        self.context: Context | None = None  # what the worker was told last; it changes only while this is not open
        self._inbox: deque[bytes] = deque()
        self._numbers = count(1)
        self._reader: Future[Any] | None = None
        self.has_ended: bool = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else -1
        self._post = post

    # by any thread

    def send(self, future: Future[Any], key: int) -> bool:
        """Send a task, if it is small enough and the line is free; false: the engine has to."""
        reports = Open.reports
        message = encode(number := next(self._numbers), key, future, timed=bool(reports))
        if message is None or self.flight or "_claimed" in future.__dict__:  # it was taken back from another line
            return False
        future.line = self
        if reports:
            future.measured = reports, time.monotonic_ns()
        self.flight[number] = future
        # The engine has just taken the line back, or had it for a while, or another thread was quicker: they see our
        # task, or we see that.
        is_ours = self.is_open and self.context is future.lane.context and [*self.flight][:1] == [number]
        if not (is_ours and number > self.used) and _claim(future, _CALLER):
            future.line = future.measured = None
            self.flight.pop(number, None)
            return False
        self.used = number
        future.settle_running()
        try:
            self.sock.send(message, NOSIGNAL)
        except OSError as error:  # the worker is dead, which the engine hears, or there's no room: it sends it again
            pass_on(error)
        return True

    def read_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for the answer to *future*; false if it is not there in time, or if somebody else reads."""
        reader = self._reader
        if reader is not None and not reader.happened:
            return False
        self._reader = future
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        try:
            poller.register(self.sock, select.POLLIN)
            poller.register(self._bell, select.POLLIN)
            while not future.happened:
                left = _GLANCE if deadline is None else min(deadline - time.monotonic(), _GLANCE)
                if not left > 0:  # nor if it is not a number
                    break
                poller.poll(left * 1000)
                self._hush()
                self.look()
                if self.has_ended:  # the engine hears how the worker died
                    break
        except (OSError, ValueError) as error:  # it was closed under us: the engine has settled the task, or will
            pass_on(error)
        finally:
            self._reader = None
        return future.happened

    def look(self) -> bool:
        """Settle what has been answered; false if that was nothing new."""
        try:
            self._inbox.extend(map(self.sock.recv, (MOST,)))
            is_new = True
        except OSError as error:  # there is nothing; or the worker is dead: what it said before is in the inbox
            pass_on(error)
            is_new = False
        self._settle_all()
        return is_new

    def _settle_all(self) -> None:
        inbox = self._inbox
        while inbox:
            try:
                answer = inbox[0]
            except IndexError as error:  # another thread was quicker
                pass_on(error)
                return
            if answer:
                self._settle(answer)
            else:
                self.has_ended = True
            try:
                inbox.remove(answer)
            except ValueError as error:
                pass_on(error)

    def _settle(self, answer: bytes) -> None:
        try:
            number, kind, content, *times = marshal.loads(answer)
        except (EOFError, ValueError, TypeError) as error:  # a task has written into its worker's line
            pass_on(error)
            return
        future = self.flight.get(number)
        if future is None:
            return
        if times:  # before anybody hears of its end
            self.singles.add(future, self._slot, times[0], times[1], failed=kind == FAILURE)
        if kind == VALUE:
            end = End((content,))
        elif kind == PICKLE:
            end = End(Pickled(content))
        else:
            end = End(failure=future.tied(Failure(encoded=content)))
        if future.publish(end):
            self._tell_by_engine(future)
        self.flight.pop(number, None)
        if not self.is_open:  # the engine waits for the line, and may come too late to see that there was an answer
            self._tell_by_engine(future)

    def _tell_by_engine(self, future: Future[Any]) -> None:
        try:
            self._post(future.tell)
        except PoolClosedError:  # its thread has ended
            future.tell()

    def _hush(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except (OSError, ValueError) as error:  # it did not ring, or is closed
            pass_on(error)

    # by the engine

    def drain(self) -> None:
        """Settle all that has been answered."""
        while self.look() and not self.has_ended:
            pass
        self.ring()  # the answer that somebody sleeps for may have been among them

    def finish(self, number: int, end: End) -> None:
        """A task has ended in another way than by an answer on this line."""
        future = self.flight.get(number)
        if future is not None:
            if future.publish(end):
                future.tell()
            self.flight.pop(number, None)
        self.ring()

    def withdraw(self) -> list[tuple[int, Future[Any]]]:
        """The worker is dead: take its tasks back, those that have no answer."""
        self.is_open = False
        self.drain()
        tasks = list(self.flight.items())
        self.flight.clear()
        return [(number, future) for number, future in tasks if not future.happened and _claim(future, _ENGINE)]

    def send_again(self, number: int) -> bool:
        """Send a task whose sender may have been interrupted; the worker does each number once. False: not now."""
        future = self.flight.get(number)
        if future is None:
            return True
        call = cast("FunctionCall", future.lane.call)
        message = encode(number, call.number, future, timed=future.measured is not None)
        if message is not None and not future.happened and _claim(future, _ENGINE):
            try:
                self.sock.send(message, NOSIGNAL)
            except OSError:
                return False
        return True

    def ring(self) -> None:
        """Wake whoever reads."""
        if self._reader is not None:
            try:
                os.eventfd_write(self._bell, 1)
            except (OSError, ValueError):  # closed
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self.has_ended = True
        self.ring()
        self.sock.close()
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)


_CALLER, _ENGINE = "caller", "engine"


def _claim(future: Future[Any], who: str) -> bool:
    """Decide, once, who sees to a task that was recorded: its caller, who withdraws it, or the engine."""
    first: str = future.__dict__.setdefault("_claimed", who)
    return first == who


def encode(number: int, key: int, future: Future[Any], *, timed: bool) -> bytes | None:
    """The message of a task: `None` if it is too long, or needs buffers."""
    args = future.args
    if type(args) is Packed:
        if args.buffers or args.vocabulary is not None:
            return None
        args = args.stream
    elif args is None or not all(map(is_small, args)):  # it has just ended; or before they are copied for it
        return None
    fields = (number, key, future.lane.mode, args, True) if timed else (number, key, future.lane.mode, args)
    message = marshal.dumps(fields, 2)
    return message if len(message) <= MOST else None
