"""One worker's private two-way line: messages over a socket, large payloads over segments.

A frame is a fixed header (64-bit length), a marshalled tuple, and a payload in line. Descriptors travel beside it. No
lock, semaphore or queue is shared between processes, so nobody can die holding one; a frame that breaks off half way
harms nobody but its own channel.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from parmap._travel.pack import Pack
from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.copies import copies as private
from parmap.backends._processes.line.segments import Lender, Limits

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

_HEADER = struct.Struct("<IIQ")  # length of the tuple, number of descriptors and signature, length of the payload
_SIGNATURE = 0x504D4150 << 8 & 0xFFFFFF00  # in the bits that the number of descriptors leaves free
_READ = 32 * 1024  # bytes: a larger buffer would be mapped and unmapped for each message
_READ_ON = 1 << 20  # bytes, in the middle of a large message
_ROOM = socket.CMSG_SPACE(8 * array.array("i").itemsize) if hasattr(socket, "CMSG_SPACE") else 0
_VECTOR = 256  # parts of a frame that one system call takes
_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))  # the processes that a task starts shall not get what we receive

# Where the payload of a message is.
INLINE, LENT, GIVEN = 0, 1, 2
_NO_PAYLOAD = (None, (INLINE, 0, 0))


class Message(NamedTuple):
    """A message as it arrived; `segment` is the name of a segment to be given back, 0 if none."""

    kind: str
    fields: tuple[Any, ...]
    pack: Pack | None
    segment: int
    fds: tuple[int, ...] = ()


class ChannelClosedError(Exception):
    """The other side is gone."""


class _Frame:
    """A message on its way out."""

    __slots__ = ("fds", "parts")

    def __init__(self, parts: list[memoryview], fds: list[int]) -> None:
        self.parts = parts
        self.fds = fds

    def close_fds(self) -> None:
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)


class Channel:
    """This side's end of the line."""

    def __init__(self, sock: socket.socket, *, copies: bool = False) -> None:
        """Wrap *sock*. `copies`: payloads are copied out of the other side's segments on arrival."""
        sock.settimeout(None)  # as `socket.setdefaulttimeout` had it, for either end, it would not block
        self.sock = sock
        self.lender = Lender()
        self._copies = copies
        self._attached: dict[int, mmap.mmap] = {}
        self._inbox = bytearray()
        self._buffer = bytearray(_READ)
        self._fds: deque[int] = deque()
        self._outbox: deque[_Frame] = deque()
        self.on_partial: Callable[[], None] | None = None  # called when a message has begun to arrive

    # sending

    def send(self, kind: str, *fields: Any, pack: Pack | None = None, fds: tuple[int, ...] = ()) -> None:
        """Send a message, with copies of the descriptors *fds*, and wait until it is gone."""
        self._outbox.append(self._frame(kind, fields, pack, fds))
        self._push(0)

    def post(self, kind: str, *fields: Any, pack: Pack | None = None, fds: tuple[int, ...] = ()) -> bool:
        """Send a message, with copies of the descriptors *fds*; false if some of it stayed behind for `flush`."""
        self._outbox.append(self._frame(kind, fields, pack, fds))
        return self._push(_DONTWAIT)

    def tell(self, kind: str, *fields: Any, wait: bool = False) -> bool:
        """`post`, or `send`, a message that has no payload, in less time."""
        meta = marshal.dumps((kind, fields, *_NO_PAYLOAD), 2)
        data = memoryview(_HEADER.pack(len(meta), _SIGNATURE, 0) + meta)
        flags = 0 if wait else _DONTWAIT
        if not self._outbox:
            try:
                data = data[self.sock.send(data, flags) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not data:
                return True
        self._outbox.append(_Frame([data], []))
        return self._push(flags)

    def flush(self) -> bool:
        """Send what stayed behind; true when nothing is left."""
        return self._push(_DONTWAIT)

    def keep(self) -> None:
        """Copy what stayed behind: it lies in memory of the caller's, who may change it."""
        for frame in self._outbox:
            frame.parts = [memoryview(b"".join(frame.parts))]

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._outbox

    def _push(self, flags: int) -> bool:
        while self._outbox:
            frame = self._outbox[0]
            try:
                if len(frame.parts) == 1 and not frame.fds:
                    sent = self.sock.send(frame.parts[0], flags)
                else:
                    fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", frame.fds))] if frame.fds else []
                    sent = self.sock.sendmsg(frame.parts[:_VECTOR], fds, flags)
            except BlockingIOError:
                return False
            except OSError as error:
                self._close_fds()
                raise ChannelClosedError(str(error)) from error
            if frame.fds:
                frame.close_fds()  # descriptors leave with the first byte
            if len(frame.parts) == 1 and sent == len(frame.parts[0]):
                self._outbox.popleft()
                continue
            frame.parts = _after(frame.parts, sent)
            if not frame.parts:
                self._outbox.popleft()
        return True

    def _close_fds(self) -> None:
        """Nothing can be sent any more: descriptors that wait to leave are of no use."""
        for frame in list(self._outbox):
            frame.close_fds()

    def _frame(
        self,
        kind: str,
        fields: tuple[Any, ...],
        pack: Pack | None,
        passed: tuple[int, ...] = (),
    ) -> _Frame:
        if pack is None and not passed:
            meta = marshal.dumps((kind, fields, *_NO_PAYLOAD), 2)
            return _Frame([memoryview(_HEADER.pack(len(meta), _SIGNATURE, 0) + meta)], [])
        fds = [os.dup(fd) for fd in passed]
        parts: list[Any] = []
        description = None
        place: tuple[int, int, int] = (INLINE, 0, 0)
        size = 0
        if pack is not None:
            description = pack.describe()
            if not pack.buffers and len(pack.stream) < Limits.smallest:  # most messages
                size = len(pack.stream)
                meta = marshal.dumps((kind, fields, description, place), 2)
                head = _HEADER.pack(len(meta), _SIGNATURE | len(fds), size)
                return _Frame([memoryview(b"".join((head, meta, pack.stream)))], fds)
            parts = [pack.stream, *pack.buffers]
            offsets, size = _segments.layout(pack.stream, pack.buffers)
            if size >= Limits.smallest:
                through = self._through_segment(parts, offsets, size)
                if through is not None:
                    place, fds = through
                    parts = []
                    size = 0
            if parts:
                parts = _padded(parts, offsets)
        meta = marshal.dumps((kind, fields, description, place), 2)
        head = _HEADER.pack(len(meta), _SIGNATURE | len(fds), size)
        return _Frame([memoryview(part) for part in (head + meta, *parts)], fds)

    def _through_segment(
        self, parts: list[Any], offsets: list[int], size: int
    ) -> tuple[tuple[int, int, int], list[int]] | None:
        handed_over = size > Limits.kept
        segment = _segments.create(0, size) if handed_over else self.lender.lend(size)
        if segment is None:
            return None
        try:
            _segments.write(segment, parts, offsets)
        except OSError:  # no memory for it: the socket takes the payload in small steps
            segment.close_fd()
            self.lender.forget(segment.name)
            return None
        if handed_over:
            return (GIVEN, 0, size), [segment.fd]
        fds = []
        if segment.fd >= 0:
            fds = [os.dup(segment.fd)]
            self.lender.sent(segment)
        return (LENT, segment.name, segment.size), fds

    # receiving

    def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            ChannelClosedError: the other side has closed the line.
        """
        while True:
            message = self._parse() if self._inbox else None
            if message is not None:
                return message
            self._read(0)

    def next_received(self) -> Message | None:
        """The next message, if all of it was read before."""
        return self._parse() if self._inbox else None

    def poll(self) -> Message | None:
        """The next message, if it is there.

        Raises:
            ChannelClosedError: the other side has closed the line, and all it had sent was returned.
        """
        message = self._parse()
        while message is None and self._read(_DONTWAIT):
            message = self._parse()
        return message

    def _read(self, flags: int) -> bool:
        try:
            data: bytes | memoryview
            if len(self._inbox) < _READ:
                size, ancillary, _, _ = self.sock.recvmsg_into([self._buffer], _ROOM, flags | _CLOEXEC)
                data = memoryview(self._buffer)[:size]
            else:
                data, ancillary, _, _ = self.sock.recvmsg(_READ_ON, _ROOM, flags | _CLOEXEC)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._fds.extend(received)
        if not data:
            reason = "closed"
            raise ChannelClosedError(reason)
        self._inbox += data
        return True

    def _parse(self) -> Message | None:
        inbox = self._inbox
        if len(inbox) < _HEADER.size:
            return None
        meta_size, signed, size = _HEADER.unpack_from(inbox)
        n_fds = signed ^ _SIGNATURE
        if n_fds >> 8:  # a task has written into its worker's line: nothing that follows can be trusted
            self._hang_up()
        end = _HEADER.size + meta_size + size
        if len(inbox) < end:
            if self.on_partial is not None:
                self.on_partial()
            return None
        start = _HEADER.size + meta_size
        kind, fields, description, place = marshal.loads(memoryview(inbox)[_HEADER.size : start])
        data: bytes | bytearray = b""
        if size:
            data = (bytearray if description[4] else bytes)(memoryview(inbox)[start:end])
        del inbox[:end]
        fds = [self._fds.popleft() for _ in range(min(n_fds, len(self._fds)))] if n_fds else []
        if description is None:
            return Message(kind, fields, None, 0, tuple(fds))
        pack, segment = self._restore(description, place, data, fds)
        return Message(kind, fields, pack, segment)

    def _hang_up(self) -> NoReturn:
        """End a line that carries noise, so that whoever waits on it hears of the end."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended already
            pass
        message = "noise on the line"
        raise ChannelClosedError(message)

    def _restore(
        self, description: tuple[Any, ...], place: tuple[int, int, int], data: bytes | bytearray, fds: list[int]
    ) -> tuple[Pack | None, int]:
        where, name, size = place
        if where == INLINE:
            if not description[4]:
                return Pack.restore(description, data, []), 0  # type: ignore[arg-type]
            return self._build(description, memoryview(data)), 0
        if where == LENT and not fds:
            memory = self._attached.get(name)
        elif not fds:  # the kernel drops descriptors that don't fit under the limit of this process
            memory = None
        else:
            memory = _segments.attach(fds[0], size)
            if where == LENT:
                self._attached[name] = memory
        if memory is None:
            return None, name
        if where != LENT or not self._copies:
            return self._build(description, memoryview(memory)), name if where == LENT else 0
        try:
            pack = self._build(description, memoryview(memory), copy=True)
        except (MemoryError, OSError):  # then it stays where it is, and the other side takes other memory
            self.detach(name)
            self.answer("keep", name)
            return self._build(description, memoryview(memory)), 0
        self.answer("free", name)
        return pack, 0

    @staticmethod
    def _build(description: tuple[Any, ...], memory: memoryview, *, copy: bool = False) -> Pack:
        _, _, position, _, kinds, *_ = description
        stream: bytes | memoryview = memory[:position]
        buffers = []
        for nbytes, readonly in kinds:
            position += -position % _segments.ALIGNMENT
            buffer = memory[position : position + nbytes]
            buffers.append(private.copy(buffer, readonly=readonly) if copy else buffer)
            position += nbytes
        if copy:
            stream = bytes(stream)
        return Pack.restore(description, stream, buffers)

    def answer(self, kind: str, name: int) -> None:
        """Say what becomes of a segment; nobody need be there to hear it."""
        try:
            self.post(kind, name)
        except ChannelClosedError:  # the end is told when it is read: what was sent before it counts all the same
            pass

    def let_go(self, message: Message) -> bool:
        """Release the segment that *message* lies in; if something here still uses its memory, false: it is kept."""
        assert message.pack is not None  # noqa: S101 - it came in the segment
        message.pack.release()
        if _segments.is_unused(self._attached[message.segment]):
            return True
        self.detach(message.segment)
        return False

    def detach(self, name: int) -> None:
        """Forget a segment of the other side: it was dropped there, or something here still uses its memory."""
        self._attached.pop(name, None)

    def close(self) -> None:
        """Close the line and drop all segments."""
        self.sock.close()
        self.lender.clear()
        self._attached.clear()
        self._close_fds()
        while self._fds:
            os.close(self._fds.popleft())


def _padded(parts: list[Any], offsets: list[int]) -> list[Any]:
    """The parts in a row, with the gaps that alignment left between them filled."""
    row: list[Any] = []
    position = 0
    for part, offset in zip(parts, offsets, strict=True):
        if offset > position:
            row.append(bytes(offset - position))
        row.append(part)
        position = offset + len(part)
    return row


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of *parts* after *sent* bytes."""
    for index, part in enumerate(parts):
        if sent < len(part):
            return [part[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []
