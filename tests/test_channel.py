"""A worker's line: any message, of any size, in any number of pieces, through segments and without them."""

from __future__ import annotations

import errno
import os
import pickle
import select
import signal
import socket
import threading
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inspection import names_like, owns
from test_payload import Buffered

from conftest import wait_until
from parmap._travel.pack import ALIGNMENT, EACH, Pack
from parmap._travel.payload import pack
from parmap.backends._processes.line import channel, sockets
from parmap.backends._processes.line.channel import Channel, ChannelClosedError
from parmap.backends._processes.line.parts import Numbers, Part, parts_of, shared
from parmap.backends._processes.line.segments import Lender, Limits, attach, create, write

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = {
    "as it is": {},
    "tiny limits": {"smallest": 1, "kept": 4096},
    "no memfd": {"enabled": False},
    "everything handed over": {"smallest": 1, "kept": 0},
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way that a large payload can take."""
    if request.param.get("smallest") and not Limits.enabled:
        pytest.skip("there is no memfd here")
    for name, value in request.param.items():
        monkeypatch.setattr(Limits, name, value)


@pytest.fixture
def line() -> Iterator[tuple[Channel, Channel]]:
    """Both ends: the parent's, which copies results out, and the worker's, which reads in place."""
    ours, theirs = socket.socketpair()
    parent, worker = Channel(ours, copies=True), Channel(theirs)
    yield parent, worker
    parent.close()
    worker.close()


def pour(sender: Channel, receiver: Channel, kind: str, *fields: Any, **payload: Any) -> Any:
    """Send a message without blocking, while the other side reads."""
    clear = sender.post(kind, *fields, **payload)
    while (message := receiver.poll()) is None:
        assert not clear
        clear = sender.flush()
    return message


SIZES = (0, 1, 1000, 70_000, 1_000_000)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", SIZES)
def test_payload_to_the_worker(line: tuple[Channel, Channel], size: int) -> None:
    """What the parent sends arrives in the worker."""
    parent, worker = line
    items = [bytes([size % 251]) * size, Buffered(bytearray(os.urandom(size))), [size]]

    message = pour(parent, worker, "run", 1, "two", pack=pack(items)[0])

    assert (message.kind, message.fields) == ("run", (1, "two"))
    assert list(message.pack) == items


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", SIZES)
def test_payload_to_the_parent(line: tuple[Channel, Channel], size: int) -> None:
    """What a worker sends arrives in the parent, in memory of its own."""
    parent, worker = line
    items = [Buffered(bytearray(os.urandom(size))), Buffered(bytes(size))]

    first = pour(worker, parent, "report", pack=pack(items)[0])
    pour(worker, parent, "report", pack=pack([Buffered(bytes(b"x" * size)) for _ in range(2)])[0])

    assert list(first.pack) == items


@pytest.mark.usefixtures("way")
def test_many_messages_keep_their_order(line: tuple[Channel, Channel]) -> None:
    """Messages arrive in the order in which they were sent, whatever way each took."""
    parent, worker = line
    for number in range(50):
        parent.post("run", number, pack=pack([bytes(number * 2000)])[0])
    received = []
    while len(received) < 50:
        parent.flush()
        message = worker.poll()
        if message is not None:
            received.append((message.fields[0], len(message.pack[0])))

    assert received == [(number, number * 2000) for number in range(50)]


@settings(suppress_health_check=list(HealthCheck), max_examples=40)
@given(st.lists(st.binary(max_size=300) | st.lists(st.integers()), min_size=1), st.integers(1, 50))
def test_message_in_pieces(monkeypatch: pytest.MonkeyPatch, items: list[Any], step: int) -> None:
    """A message that comes a few bytes at a time is a message when its last byte is there, and not before."""
    monkeypatch.setattr(Limits, "enabled", False)
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs)
    recorder, tape = socket.socketpair()
    try:
        Channel(recorder).send("run", 7, pack=pack(items)[0])
        stream = tape.recv(1 << 20)
        for start in range(0, len(stream), step):
            assert receiver.poll() is None
            sender.sock.sendall(stream[start : start + step])
        message = receiver.poll()
        assert message is not None
        assert (message.kind, message.fields, list(message.pack or [])) == ("run", (7,), items)
    finally:
        sender.close()
        receiver.close()
        recorder.close()
        tape.close()


def test_segment_is_used_again(line: tuple[Channel, Channel]) -> None:
    """A segment that comes back carries the next payload: no new memory, no new descriptor."""
    parent, worker = line
    names = set()
    for _ in range(5):
        message = pour(parent, worker, "run", pack=pack([Buffered(bytes(200_000))])[0])
        names.add(message.segment)
        message.pack.release()
        worker.post("free", message.segment)
        freed = parent.poll()
        assert freed is not None
        parent.settle(freed.kind, freed.fields[0])

    assert len(names) == 1


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_results_give_their_segment_back_by_themselves(line: tuple[Channel, Channel]) -> None:
    """The parent copies a result out and frees the worker's segment at once."""
    parent, worker = line

    pour(worker, parent, "report", pack=pack([Buffered(bytes(200_000))])[0])
    freed = worker.poll()

    assert freed is not None
    assert freed.kind == "free"
    assert owns(worker.lender, freed.fields[0])


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_segment_that_a_task_keeps_stays_its_own(line: tuple[Channel, Channel]) -> None:
    """Memory that a task still refers to is not written again."""
    parent, worker = line
    message = pour(parent, worker, "run", pack=pack([Buffered(b"a" * 200_000)])[0])
    (item,) = message.pack
    kept = pickle.PickleBuffer(item.data)
    del item
    assert not worker.let_go(message)
    parent.lender.forget(message.segment)

    pour(parent, worker, "run", pack=pack([Buffered(b"b" * 200_000)])[0])

    assert bytes(kept.raw()) == b"a" * 200_000


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
@pytest.mark.parametrize("by_copy", [True, False], ids=["results", "arguments"])
def test_a_dropped_segment_is_dropped_on_both_sides(
    line: tuple[Channel, Channel], by_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that the lender gives up is not held by the reader: both map no more than the limit allows."""
    monkeypatch.setattr(Limits, "kept", 300_000)
    lender, reader = reversed(line) if by_copy else line
    for _ in range(5):
        lender.post("message", pack=pack([Buffered(bytes(200_000))])[0])
        lender.post("message", pack=pack([Buffered(bytes(200_000))])[0])
        names = []
        for _ in range(2):
            message = reader.poll()
            assert message is not None
            if not by_copy:
                message.pack.release()
                reader.post("free", message.segment)
        for _ in range(2):
            freed = lender.poll()
            assert freed is not None
            lender.settle(freed.kind, freed.fields[0])
        while (dropped := reader.poll()) is not None:
            names.append(dropped.fields[0])
            reader.settle(dropped.kind, dropped.fields[0])
        assert len(names) == 1

    assert len(reader._attached) == 1


def test_result_of_a_worker_that_is_gone(line: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that was sent arrives, though nobody is left to get its segment back; then the end is told."""
    monkeypatch.setattr(Limits, "smallest", 0)
    parent, worker = line
    worker.send("report", pack=pack([Buffered(b"x" * 1000)])[0])
    worker.sock.close()

    message = parent.poll()

    assert message is not None
    assert list(message.pack or []) == [Buffered(b"x" * 1000)]
    with pytest.raises(ChannelClosedError):
        parent.poll()


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_shared_bytes_reach_every_worker_as_a_copy_of_its_own() -> None:
    """Bytes written once are mapped by any number of workers, and what one writes no other sees."""
    share = parts_of(Numbers(), [("buffer", memoryview(bytes(200_000)))])[0]
    copies = []
    for _ in range(3):
        ours, theirs = socket.socketpair()
        parent, worker = Channel(ours), Channel(theirs)
        share.tell(parent, set())
        message = worker.poll()
        assert message is not None
        copy = attach(message.fds[0], message.fields[1], private=True)
        assert copy[:] == bytes(200_000)
        copy[0] = 1
        copies.append(copy)
        parent.close()
        worker.close()

    assert share.holds(memoryview(bytes(200_000)))
    assert [copy[0] for copy in copies] == [1, 1, 1]


@pytest.mark.parametrize("nbytes", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_003])
def test_bytes_that_differ_anywhere_are_not_the_same(nbytes: int, way: None) -> None:
    """What was sent of a large array is known again, unless one byte is another, wherever it is, or one is missing."""
    content = bytearray(os.urandom(nbytes))
    part = parts_of(Numbers(), [("buffer", memoryview(content))])[0]

    assert part.holds(memoryview(content))
    for place in {0, nbytes // 2, 65_535, 65_536, 131_071, nbytes - 1} & {*range(nbytes)}:
        content[place] ^= 1
        assert not part.holds(memoryview(content))
        content[place] ^= 1
    assert not part.holds(memoryview(content + b"x"))
    if nbytes:
        assert not part.holds(memoryview(content)[:-1])
    assert part.holds(memoryview(content))


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_processes_that_need_the_same_bytes_at_the_same_time_share_them() -> None:
    """Who asks while another fetches gets the segment of that one; who asks later fetches, and so does a failed one."""
    content, fetched, found = memoryview(b"x" * 200_000), [], []
    name = f"parmap-{os.urandom(16).hex()}"

    def ask() -> None:
        found.append(shared(name, Numbers(), "buffer", lambda: fetched.append(2) or content))

    def fetch() -> memoryview:
        fetched.append(1)
        other.start()
        wait_until(lambda: names_like(name) > 1)
        return content

    def fail() -> memoryview:
        raise LookupError(name)

    other = threading.Thread(target=ask)
    with pytest.raises(LookupError):
        shared(name, Numbers(), "buffer", fail)
    first = shared(name, Numbers(), "buffer", fetch)
    other.join(30)
    assert fetched == [1]
    assert first.holds(content)
    assert found[0].holds(content)
    ask()
    assert fetched == [1, 2]
    assert found[1].holds(content)


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_bytes_that_a_process_that_is_stuck_was_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for a process that is to share what it fetches: after a while each fetches for itself."""
    monkeypatch.setattr("parmap.backends._processes.line.parts.PATIENCE", 0.05)
    name = f"parmap-{os.urandom(16).hex()}"
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(f"\0{name}")
        stuck.listen()
        found = shared(name, Numbers(), "buffer", lambda: memoryview(b"x" * 200_000))

    assert found.holds(memoryview(b"x" * 200_000))


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
@pytest.mark.parametrize("users", [(1, 2), (2, 1)], ids=["asks", "answers"])
def test_another_user_s_process_neither_gets_nor_gives_such_bytes(
    users: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may connect to the name, or have it: then both fetch."""
    fetched: list[str] = []
    name, me = f"parmap-{os.urandom(16).hex()}", os.geteuid()
    found: list[Part] = []
    whose = iter(users)  # whom each side takes itself for, when it looks who the other is
    monkeypatch.setattr(os, "geteuid", lambda: me if next(whose) == 1 else me + 1)

    def ask() -> None:
        found.append(shared(name, Numbers(), "buffer", lambda: fetched.append("asks") or memoryview(b"y" * 200_000)))

    def fetch() -> memoryview:
        fetched.append("answers")
        other.start()
        wait_until(lambda: names_like(name) > 1)
        return memoryview(b"x" * 200_000)

    other = threading.Thread(target=ask)
    shared(name, Numbers(), "buffer", fetch)
    other.join(30)

    assert fetched == ["answers", "asks"]
    assert found[0].holds(memoryview(b"y" * 200_000))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_descriptors_travel(line: tuple[Channel, Channel], count: int) -> None:
    """Descriptors arrive with their own message, closed on exec, and the sender keeps its own."""
    parent, worker = line
    pipes = [os.pipe() for _ in range(count)]

    parent.send("start", fds=tuple(read for read, _ in pipes))
    parent.send("start", 2)
    message, second = worker.poll(), worker.poll()

    assert message is not None
    assert second is not None
    assert second.fds == ()
    assert len(message.fds) == count
    for fd, (read, written) in zip(message.fds, pipes, strict=True):
        os.write(written, b"!")
        assert os.read(fd, 1) == b"!"
        assert not os.get_inheritable(fd)
        for each in (fd, read, written):
            os.close(each)


def test_many_messages_with_descriptors(line: tuple[Channel, Channel]) -> None:
    """Each of many messages sent before the other side reads gets its own descriptors."""
    parent, worker = line
    pipes = [os.pipe() for _ in range(30)]
    for number, (read, _) in enumerate(pipes):
        parent.send("start", number, fds=(read,))

    for number, (read, written) in enumerate(pipes):
        message = worker.poll()
        assert message is not None
        assert message.fields == (number,)
        os.write(written, bytes([number]))
        assert os.read(message.fds[0], 1) == bytes([number])
        for fd in (*message.fds, read, written):
            os.close(fd)


def test_end_of_the_line(line: tuple[Channel, Channel]) -> None:
    """What was sent before the end is received, then the end is told, again and again."""
    parent, worker = line
    worker.send("ready")
    worker.sock.close()

    assert parent.poll() is not None
    for _ in range(2):
        with pytest.raises(ChannelClosedError):
            parent.poll()
    with pytest.raises(ChannelClosedError):
        parent.send("stop")


def test_half_a_message_then_the_end(line: tuple[Channel, Channel]) -> None:
    """A message that breaks off is no message: the end is told."""
    parent, worker = line
    worker.sock.sendall(b"\x10\0\0\0\0\0\0\0\xff")
    worker.sock.close()

    with pytest.raises(ChannelClosedError):
        parent.poll()


def test_post_never_blocks(line: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that nobody reads does not hold the sender; the rest stays behind and goes later."""
    monkeypatch.setattr(Limits, "enabled", False)
    parent, worker = line

    clear = parent.post("run", pack=pack([bytes(10_000_000)])[0])
    assert not clear
    assert not parent.is_clear
    while (message := worker.poll()) is None:
        parent.flush()

    assert len((message.pack or [])[0]) == 10_000_000


def test_message_to_nobody_leaves_no_descriptor(line: tuple[Channel, Channel]) -> None:
    """What can't be sent any more, because the line was closed meanwhile, takes its descriptors along."""
    parent, worker = line
    parent.close()
    worker.close()
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(ChannelClosedError):
        parent.send("run", pack=pack([Buffered(bytes(200_000))])[0])
    assert parent.post("run", pack=pack([Buffered(bytes(200_000))])[0])
    assert parent.is_clear
    parent.lender.clear()

    assert len(os.listdir("/proc/self/fd")) == before


# --- segments ---------------------------------------------------------------------------------------


@given(st.binary(max_size=50), st.lists(st.binary(max_size=300)))
def test_layout_overlaps_nothing(stream: bytes, data: list[bytes]) -> None:
    """Parts of a payload lie apart, in order, buffers aligned."""
    buffers = [memoryview(part) for part in data]
    payload = Pack(EACH, 1, stream, [len(stream)], buffers, [len(buffers)])
    memory = memoryview(b"".join(payload.parts()))
    found = Pack.lying_in(memory, payload.describe())

    assert (bytes(found.stream), [*map(bytes, found.buffers)]) == (stream, data)
    ends = [*accumulate(map(len, payload.parts()))]
    assert all(ends[place] % ALIGNMENT == 0 for place in range(1, len(ends), 2))


def test_an_alarm_amid_messages() -> None:
    """Whatever the handler of a signal raises while messages are sent, none arrives twice, or in pieces."""

    class AlarmError(Exception):
        pass

    def ring(*_: Any) -> None:
        raise AlarmError

    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs)
    numbers: list[int] = []

    def read() -> None:
        while receiver.hear(lambda message: numbers.append(message.fields[0])):
            select.select([theirs], [], [])

    reader = threading.Thread(target=read)
    reader.start()
    before = signal.signal(signal.SIGALRM, ring)
    alarms = 0
    try:
        for number in range(2_000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                try:
                    sender.send("print", number, "x" * (300_000 if number % 2 else 3))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except AlarmError:
                alarms += 1
    finally:
        signal.signal(signal.SIGALRM, before)
        sender.flush()
        sender.close()
        reader.join()
        receiver.close()

    assert numbers == sorted({*numbers})
    assert len(numbers) >= 2_000 - alarms


class Particular(socket.socket):
    """A socket that takes no more than 1 kB at once, as macOS 2 GB, and descriptors at its second call."""

    refuses = True

    def sendmsg(self, buffers: Any, ancdata: Any = (), *how: Any) -> int:
        if sum(map(len, buffers)) > 1000:
            raise OSError(errno.EINVAL, "Invalid argument")
        if ancdata and self.refuses:  # there is no room for them while others wait to be read
            self.refuses = False
            raise OSError(errno.EMSGSIZE, "Message too long")
        return super().sendmsg(buffers, ancdata, *how)


def test_what_the_system_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message may be larger than one system call sends, and descriptors may have to wait for room."""
    monkeypatch.setattr(channel, "_MOST", 1000)
    monkeypatch.setattr(Limits, "enabled", False)
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(Particular(fileno=ours.detach())), Channel(theirs)

    message = pour(sender, receiver, "run", pack=pack([bytes(2500), Buffered(bytes(70_000)), 3])[0])
    handed = pour(sender, receiver, "start", fds=(theirs.fileno(),))

    assert [*message.pack] == [bytes(2500), Buffered(bytes(70_000)), 3]
    assert os.path.sameopenfile(handed.fds[0], theirs.fileno())
    os.close(handed.fds[0])
    sender.close()
    receiver.close()


def test_room_on_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large messages take few steps also where the system has little room for what is on its way, as macOS."""
    made = socket.socketpair()
    for end in made:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    monkeypatch.setattr("_socket.socketpair", lambda *_: made)

    for end in sockets.pair():
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 100_000
        end.close()


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_as_many_are_kept_as_were_lent_at_once():
    """Payloads that grow leave no row of segments behind that became too small."""
    lender = Lender()
    kept: set[int] = set()
    for power in range(12, 24):
        lent = [lender.lend(1 << power) for _ in range(2)]
        for segment in lent:
            assert segment is not None
            if segment.name not in kept:
                for fd in segment.keep_mapped():
                    os.close(fd)
            kept = (kept | {segment.name}) - {*lender.take_back(segment.name)}
        assert len(kept) == 2
    lender.clear()


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_lender_keeps_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments beyond the limit are dropped when they come back."""
    monkeypatch.setattr(Limits, "kept", 10_000)
    lender = Lender()
    segments = [lender.lend(4096) for _ in range(5)]
    for segment in segments:
        assert segment is not None
        for fd in segment.keep_mapped():
            os.close(fd)
    for segment in segments:
        assert segment is not None
        lender.take_back(segment.name)

    assert sum(owns(lender, segment.name) for segment in segments if segment is not None) == 2
    lender.take_back(12345)  # a name that was never lent is nobody's
    lender.clear()


@pytest.mark.skipif(not Limits.enabled, reason="there is no memfd here")
def test_write_and_attach() -> None:
    """What is written into a fresh segment is there where it is mapped; a private map writes into a copy."""
    segment = create(1, 8192)
    assert segment is not None
    write(segment, [b"one", bytes(61), b"two"])
    shared, own = attach(os.dup(segment.fd), 8192), attach(os.dup(segment.fd), 8192, private=True)
    own[0:3] = b"ONE"

    assert (shared[0:3], shared[64:67], own[0:3]) == (b"one", b"two", b"ONE")
    segment.close_fd()


def test_no_descriptor_left_to_receive(line: tuple[Channel, Channel]) -> None:
    """A message whose segment could not be received says so by an empty payload, instead of failing the line."""
    if not Limits.enabled:
        pytest.skip("there is no memfd here")
    parent, worker = line
    parent.post("run", 1, pack=pack([Buffered(bytes(200_000))])[0])
    data = worker.sock.recv(1 << 16)  # a plain read drops the descriptor, as the kernel does at the limit
    other, tape = socket.socketpair()
    receiver = Channel(other)
    tape.sendall(data)
    message = receiver.poll()

    assert message is not None
    assert message.pack is None
    assert pickle.loads(pickle.dumps(message.fields)) == (1,)
    receiver.close()
    tape.close()
