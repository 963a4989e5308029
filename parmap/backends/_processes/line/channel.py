"""One worker's private two-way line: messages over a socket, large payloads over segments.

A frame is a fixed header (64-bit length), a marshalled tuple, and a payload in line. Descriptors travel beside it. No
lock, semaphore or queue is shared between processes, so nobody can die holding one; a frame that breaks off half way
harms nobody but its own channel.
"""

from __future__ import annotations

import array
import errno
import marshal
import os
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from parmap._travel.pack import Pack
from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.copies import copies as private
from parmap.backends._processes.line.descriptors import recv_fds
from parmap.backends._processes.line.segments import Lender, Limits
from parmap.backends._processes.line.sockets import NOSIGNAL

if TYPE_CHECKING:
    import _socket
    import mmap
    from collections.abc import Callable

_HEADER = struct.Struct("<IIQ")  # length of the tuple, number of descriptors and signature, length of the payload
_SIGNATURE = 0x504D4150 << 8 & 0xFFFFFF00  # in the bits that the number of descriptors leaves free
_READ = 32 * 1024  # bytes: a larger buffer would be mapped and unmapped for each message
_READ_ON = 1 << 20  # bytes, in the middle of a large message
_PAUSE = 0.001  # seconds until it is tried again
_VECTOR = 256  # parts of a frame that one system call takes
_poll: Any = getattr(select, "poll", None)  # as it is now: a task may let a library take its place, or take it away
_MOST = 1 << 30  # bytes that it takes: macOS refuses more than twice as much
# What the system lacks for a moment: memory, or leave to have more descriptors on their way (`ulimit -n`); or room for
# them on the line, on macOS.
_SHORTAGES = frozenset({errno.ENOBUFS, errno.ENOMEM, getattr(errno, "ETOOMANYREFS", errno.ENOBUFS), errno.EMSGSIZE})

# Where the payload of a message is.
INLINE, LENT, GIVEN = 0, 1, 2


class Message(NamedTuple):
    """A message as it arrived; `segment` is the name of a segment to be given back, 0 if none.

    A payload that could not be received is `None`, as that of a message without one.
    """

    kind: str
    fields: tuple[Any, ...]
    pack: Pack | None
    segment: int
    fds: tuple[int, ...] = ()


class ChannelClosedError(Exception):
    """The other side is gone."""


def not_received(what: str) -> OSError:
    """Tell of a message that came without its `pack`."""
    return OSError(f"there was no memory, or no descriptor, left to receive {what}")


class _Frame:
    """A message on its way out."""

    def __init__(self, parts: list[memoryview], fds: list[int]) -> None:
        self.parts = parts
        self.fds = fds
        self.sent: list[int] = []  # bytes, which are not taken off the parts yet

    def close_fds(self) -> None:
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)


class Channel:
    """This side's end of the line."""

    def __init__(self, sock: _socket.socket, *, copies: bool = False) -> None:
        """Wrap *sock*. `copies`: payloads are copied out of the other side's segments on arrival."""
        sock.setblocking(False)  # not by a flag of each call: what is sent on macOS waits nevertheless
        self.sock = sock
        self.lender: Lender = Lender()
        self._copies = copies
        self._attached: dict[int, mmap.mmap] = {}
        self._inbox = bytearray()
        self._fds: deque[int] = deque()
        self._outbox: deque[_Frame] = deque()

    # sending

    def send(self, kind: str, *fields: Any, pack: Pack | None = None, fds: tuple[int, ...] = ()) -> None:
        """Send a message, with copies of the descriptors *fds*, and wait until it is gone."""
        self.put(kind, *fields, pack=pack, fds=fds)
        self._push(wait=True)

    def post(self, kind: str, *fields: Any, pack: Pack | None = None, fds: tuple[int, ...] = ()) -> bool:
        """Send a message, with copies of the descriptors *fds*; false if some of it stayed behind for `flush`.

        Nobody need be there to get it: the end of a line is told when it is read, after all that was said before.
        """
        self.put(kind, *fields, pack=pack, fds=fds)
        return self.flush()

    def put(self, kind: str, *fields: Any, pack: Pack | None = None, fds: tuple[int, ...] = ()) -> None:
        """Let a message, with copies of the descriptors *fds*, leave with the next one, or with `flush`."""
        frame = self._frame(kind, fields, pack, fds)
        if self._outbox and not (frame.fds or self._outbox[-1].fds):
            self._outbox[-1].parts += frame.parts
        else:
            self._outbox.append(frame)

    def flush(self) -> bool:
        """Send what stayed behind; true when nothing is left, or nobody is there to get it."""
        try:
            return self._push(wait=False)
        except ChannelClosedError:
            return True

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._outbox

    def _push(self, *, wait: bool) -> bool:
        while self._outbox:
            frame = self._outbox[0]
            try:
                if not frame.sent:
                    fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", frame.fds))] if frame.fds else []
                    # One operation of C: what is raised by the handler of a task's alarm, while it prints, comes
                    # before it or after it; or the next who sends would send the same once more.
                    frame.sent.extend(map(self.sock.sendmsg, (_first(frame.parts),), (fds,), (NOSIGNAL,)))
            except BlockingIOError:
                if not wait:
                    return False
                _await_room(self.sock)
                continue
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    self._drop_outbox()
                    self._hang_up(str(error), socket.SHUT_WR)  # what the other side has said is still read
                time.sleep(_PAUSE)
                if not wait:
                    return False
                continue
            if frame.fds:
                frame.close_fds()  # descriptors leave with the first byte
            frame.parts, frame.sent = _after(frame.parts, frame.sent[0]), []
            if not frame.parts:
                self._outbox.popleft()
        return True

    def _drop_outbox(self) -> None:
        """Nothing can be sent any more: descriptors that wait to leave are of no use."""
        while self._outbox:
            self._outbox.popleft().close_fds()

    def _frame(self, kind: str, fields: tuple[Any, ...], pack: Pack | None, passed: tuple[int, ...]) -> _Frame:
        fds = _copies_of(passed)
        description, place = None, (INLINE, 0, 0)
        parts: list[Any] = []
        if pack is not None:
            description, parts = pack.describe(), pack.parts()
            size = sum(map(len, parts))
            if size >= Limits.smallest and (segment := self._fill_segment(parts, size)):
                place, fds = segment
                parts = []
        meta = marshal.dumps((kind, fields, description, place), 2)
        head = _HEADER.pack(len(meta), _SIGNATURE | len(fds), sum(map(len, parts)))
        return _Frame([memoryview(part) for part in (head + meta, *parts)], fds)

    def _fill_segment(self, parts: list[Any], size: int) -> tuple[tuple[int, int, int], list[int]] | None:
        """Write a payload into a segment: its place, and the descriptor, if the other side has not got it yet."""
        handed_over = size > Limits.kept
        segment = _segments.create(0, size) if handed_over else self.lender.lend(size)
        if segment is None:
            return None
        try:
            _segments.write(segment, parts)
            if handed_over:
                return (GIVEN, 0, size), [segment.fd]
            return (LENT, segment.name, segment.size), segment.keep_mapped()
        except OSError:  # no memory for it, or no descriptor: the socket takes the payload in small steps
            segment.close_fd()
            self.lender.forget(segment.name)
            return None

    # receiving

    def poll(self) -> Message | None:
        """The next message, if it is there.

        Raises:
            ChannelClosedError: the other side has closed the line, and all it had sent was returned.
        """
        message = self.next_received()
        while message is None and self._read():
            message = self.next_received()
        return message

    def hear(self, take: Callable[[Message], object]) -> bool:
        """Give *take* what is there, until it says that this is enough; false if the line has ended."""
        try:
            while (message := self.poll()) is not None and not take(message):
                pass
        except ChannelClosedError:
            return False
        return True

    def _read(self) -> bool:
        """Read what is there; false: nothing is."""
        try:
            size = _READ if len(self._inbox) < _READ else _READ_ON
            data, fds = recv_fds(self.sock, size)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        self._fds.extend(fds)
        if not data:
            raise ChannelClosedError("closed")
        self._inbox += data
        return True

    def next_received(self) -> Message | None:
        """The next message, if all of it was read before."""
        inbox = self._inbox
        if len(inbox) < _HEADER.size:
            return None
        meta_size, signed, size = _HEADER.unpack_from(inbox)
        n_fds = signed ^ _SIGNATURE
        if n_fds >> 8:  # a task has written into its worker's line: nothing that follows can be trusted
            self._hang_up()
        end = _HEADER.size + meta_size + size
        if len(inbox) < end:
            return None
        start = _HEADER.size + meta_size
        try:
            kind, fields, description, place = marshal.loads(memoryview(inbox)[_HEADER.size : start])
        except (EOFError, TypeError, ValueError):  # memory that a task has spoilt
            self._hang_up()
        data: bytes | bytearray = b""
        if size:
            data = (bytearray if description[4] else bytes)(memoryview(inbox)[start:end])
        del inbox[:end]
        fds = [self._fds.popleft() for _ in range(min(n_fds, len(self._fds)))] if n_fds else []
        if description is None:
            return Message(kind, fields, None, 0, tuple(fds))
        pack, segment = self._restore(description, place, data, fds)
        return Message(kind, fields, pack, segment)

    def _hang_up(self, why: str = "noise on the line", how: int = socket.SHUT_RDWR) -> NoReturn:
        """End a line that carries noise, or not all that was said, so that whoever waits on it hears of the end."""
        try:
            self.sock.shutdown(how)
        except OSError:  # it has ended already
            pass
        raise ChannelClosedError(why)

    def _restore(
        self, description: tuple[Any, ...], place: tuple[int, int, int], data: bytes | bytearray, fds: list[int]
    ) -> tuple[Pack | None, int]:
        where, name, size = place
        if where == INLINE:
            if not description[4]:
                return Pack.restore(description, data, []), 0  # type: ignore[arg-type]
            return Pack.lying_in(memoryview(data), description), 0
        if where == LENT and not fds:
            memory = self._attached.get(name)
        else:
            memory = _segments.received(fds, size)
            if memory is not None and where == LENT:
                self._attached[name] = memory
        if memory is None:
            if where == LENT:  # the other side shall take another one next time
                self.post("keep", name)
            return None, 0
        if where != LENT or not self._copies:
            return Pack.lying_in(memoryview(memory), description), name if where == LENT else 0
        try:
            pack = Pack.lying_in(memoryview(memory), description, private.copy)
        except (MemoryError, OSError):  # then it stays where it is, and the other side takes other memory
            del self._attached[name]
            self.post("keep", name)
            return Pack.lying_in(memoryview(memory), description), 0
        self.post("free", name)
        return pack, 0

    def let_go(self, message: Message) -> bool:
        """Release the segment that *message* lies in; if something here still uses its memory, false: it is kept."""
        assert message.pack is not None  # noqa: S101 - it came in the segment
        message.pack.release()
        if _segments.is_unused(self._attached[message.segment]):
            return True
        del self._attached[message.segment]
        return False

    def settle(self, kind: str, name: int) -> None:
        """What the other side says of a segment: it is free again, it is kept there for good, or it is no more."""
        if kind == "free":
            for dropped in self.lender.take_back(name):
                self.post("drop", dropped)
        elif kind == "keep":
            self.lender.forget(name)
        else:
            self._attached.pop(name, None)

    def close(self) -> None:
        """Close the line and drop all segments."""
        self.sock.close()
        self.lender.clear()
        self._attached.clear()
        self._drop_outbox()
        while self._fds:
            os.close(self._fds.popleft())


def _copies_of(fds: tuple[int, ...]) -> list[int]:
    """Copies of descriptors: of all or, if there are too few left, of none."""
    copies: list[int] = []
    try:
        copies.extend(map(os.dup, fds))
    except OSError:
        for copy in copies:
            os.close(copy)
        raise
    return copies


def _first(parts: list[memoryview]) -> list[memoryview]:
    """As much of *parts* as one system call takes."""
    taken: list[memoryview] = []
    room = _MOST
    for part in parts[:_VECTOR]:
        taken.append(part[:room])
        room -= len(taken[-1])
        if not room:
            break
    return taken


def _await_room(sock: _socket.socket) -> None:
    """Wait until there is room to send, or nobody to get it; or for a moment, where nothing tells."""
    if _poll is None:
        time.sleep(_PAUSE)
        return
    poller = _poll()
    poller.register(sock, select.POLLOUT)
    poller.poll()


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of *parts* after *sent* bytes."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [part[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []
