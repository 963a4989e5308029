"""One worker process, seen from the parent: its channel, its status page, what it knows and what it does."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from parmap._results.relay import relay
from parmap._travel.failure import Failure, describe
from parmap._travel.payload import Packed, is_small, pack
from parmap._work.page import Page
from parmap._work.surroundings import kept, marshallable, surroundings
from parmap.backends._processes.line.channel import Channel, ChannelClosedError
from parmap.backends._processes.line.shared import Shared
from parmap.backends.base import Call, Report
from parmap.errors import WorkerDiedError

if TYPE_CHECKING:
    from parmap._core.job import Chunk
    from parmap._results.futures import Future
    from parmap._work.run import Callee
    from parmap.backends._processes.launcher import Launcher
    from parmap.backends._processes.line.channel import Message
    from parmap.backends._processes.poller import Poller
    from parmap.backends.base import Died

_NEVER = float("inf")
ENDS = frozenset({"done", "report"})
"""The messages that tell of the end of a task or a chunk, whose number is the first field."""

_OURS = '  File "' + os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_START = '  File "<string>", line 1 in <module>'  # how the interpreter of a worker, or of its template, was started


class FunctionCall(Call):
    """A pickled function; workers keep it under its key."""

    def __init__(self, callee: Callee, key: int, packed: Packed, *, stable: bool) -> None:
        super().__init__(callee)
        self.key = key
        self.stable = stable
        self.share = Shared.of(pack([packed])[0])
        # Workers that start later get it as it is now, too.
        self._pack = None if self.share is not None else pack([packed.keep()])[0]

    def holds(self, buffers: list[memoryview]) -> bool:
        """Whether these are the buffers that it was pickled with, as they were then; there are as many, and as long."""
        if self._pack is None:
            return self.share is not None and self.share.holds(buffers)
        return all(bytes(kept) == bytes(buffer) for kept, buffer in zip(self._pack.buffers, buffers, strict=True))

    def tell(self, channel: Channel) -> None:
        """Send it to a worker."""
        channel.post("function", self.key, pack=self._pack, share=self.share)


class Host(Protocol):
    """What a worker needs of the pool it belongs to."""

    poller: Poller
    death: type[WorkerDiedError]

    def give_back(self, worker: Worker) -> None:
        """A caller that borrowed *worker* is done with it."""

    def take_message(self, worker: Worker, message: Message) -> None:
        """A caller has read a message that is not its own."""

    def flush_later(self, worker: Worker) -> None:
        """The channel of *worker* is full: send the rest when it can take more."""


class Worker:
    """A worker process."""

    def __init__(self, name: int, backend: Host, launcher: Launcher) -> None:
        ours, self.far_end = socket.socketpair()
        try:
            self.page = Page.create()
        except BaseException:
            ours.close()
            self.far_end.close()
            raise
        self.name = name
        self.channel = Channel(ours, copies=True)
        self.pid: int | None = None
        self.ready = False
        self.launcher: Launcher | None = launcher  # none: its template is gone
        self.pidfd = -1
        self.silent = False  # its channel has ended
        self.known: set[int] = set()
        self.due = 0  # chunks that it has not reported
        self.unsent: dict[int, dict[int, BaseException]] = {}  # chunk -> errors of items that could not be pickled
        self.direct: Future[Any] | None = None
        self.direct_number = 0
        # Held by whoever reads the channel: the engine's thread, or a caller that waits for the task it gave to it.
        self.read_lock = threading.Lock()
        self._backend = backend
        self._surroundings: tuple[Any, ...] = ()

    @property
    def is_orphan(self) -> bool:
        """Whether its template is gone."""
        return self.launcher is None

    # telling it things

    def sync(self, call: FunctionCall) -> None:
        """Tell the worker where it is and what the function is, if it does not know."""
        if not self._is_up_to_date():
            now = surroundings()
            self._surroundings = kept(now)
            self.channel.post("context", *marshallable(now))
        if call.key not in self.known:
            self.known.add(call.key)
            call.tell(self.channel)

    def knows(self, call: FunctionCall) -> bool:
        """Whether `sync` would have nothing to do."""
        return call.key in self.known and self._is_up_to_date()

    def _is_up_to_date(self) -> bool:
        """Whether it has what a task sees besides its arguments: working directory, module path, command line."""
        return self._surroundings == surroundings()

    def finish(self, message: Message) -> Report:
        """What to tell the engine of a chunk that has ended."""
        number, done, failures, seconds, news = message.fields
        self.due -= 1
        for kind, name in news:
            self.settle_segment(kind, name)
        found = {index: Failure(encoded=encoded, retry=retry) for index, encoded, retry in failures}
        for index, error in self.unsent.pop(number, {}).items():
            if index < done:
                found[index] = Failure(error)
        return Report(number, done, message.pack, found, seconds)

    # one task at a time, without the engine

    def run_directly(self, call: FunctionCall, future: Future[Any], mode: str) -> bool:
        """Start one task from the calling thread, which has borrowed this worker; false if that can't be."""
        args: Any = future.args
        payload = None
        if type(args) is Packed or not all(map(is_small, args)):
            payload, errors = pack([args])
            if errors:  # the engine tells it, as for any other task
                return False
        self.direct_number -= 1
        self.direct = future
        future.borrowed = self.name
        if self._backend.poller.shares:
            future.helper = self
        future.settle_running()
        number, post = self.direct_number, self.channel.post
        try:
            # With the lock, nobody can read the answer, and give the worker to others, before we are done sending.
            with self.read_lock:
                if payload is None:
                    is_sent = self.channel.tell("task", number, call.key, mode, args)
                else:
                    is_sent = post("run", number, call.key, mode, -1, None, True, True, pack=payload)
                if not is_sent:
                    self.channel.keep()
                    self._backend.flush_later(self)
        except ChannelClosedError:  # it died idle: that is not this task's fault
            self.direct = future.borrowed = future.helper = None
            return False
        return True

    def read_for(self, future: Future[Any], timeout: float | None) -> bool:
        """Read the channel in the thread that waits for *future*, which saves a thread switch; true when it is done.

        False also when somebody else reads: then wait as usual.
        """
        if self.direct is not future or not self.read_lock.acquire(blocking=False):
            return future.done()
        poller, sock = self._backend.poller, self.channel.sock
        finished = False
        try:
            # What has not been sent yet, the engine's thread sends: it must go on to hear of this channel.
            if self.direct is future and not self.silent and self.channel.is_clear:
                poller.disarm(sock.fileno())
                try:
                    finished = self._read_until_done(timeout)
                finally:
                    poller.arm(sock.fileno())
        except OSError:  # the channel was closed under us: the engine tells what happened
            pass
        finally:
            self.read_lock.release()
        if finished:
            self._backend.give_back(self)
        return future.done()

    def _read_until_done(self, timeout: float | None) -> bool:
        deadline = _NEVER if timeout is None else time.monotonic() + timeout
        try:
            while True:
                message = self.channel.receive() if timeout is None else self.channel.poll()
                if message is None:
                    left = deadline - time.monotonic()
                    if left <= 0 or not _readable(self.channel.sock, left):
                        return False
                elif message.kind in ENDS and message.fields[0] == self.direct_number:
                    self.finish_direct(message)
                    return True
                else:  # even a report: that of a chunk whose items were all taken back may come before ours
                    self._backend.take_message(self, message)
                    if relay.is_full:  # this thread may block, and it is the one that waits
                        relay.drain()
        except ChannelClosedError:  # the engine hears of it by other ways, and tells the story of the death
            return False

    def finish_direct(self, message: Message) -> None:
        """The task that was run directly has ended; whoever read that gives the worker back."""
        future, self.direct = self.direct, None
        if future is None:
            return
        future.borrowed = None
        if message.kind == "done":
            _, value, seconds = message.fields
            future.settle((value,), 0)
        else:
            _, _, failures, seconds, news = message.fields
            for kind, name in news:
                self.settle_segment(kind, name)
            if failures:
                _, encoded, _ = failures[0]
                future.settle_failure(Failure(encoded=encoded))
            else:
                future.settle(message.pack, 0)
        future.lane.call.pace.learn(1, seconds)

    def settle_segment(self, kind: str, name: int) -> None:
        """One of our segments came back, or a task keeps it; or one of the worker's is no more."""
        if kind == "free":
            for dropped in self.channel.lender.take_back(name):
                self.channel.answer("drop", dropped)
        elif kind == "keep":
            self.channel.lender.forget(name)
        else:
            self.channel.detach(name)

    # its end

    def died(self, exitcode: int | None, make: type[Died], reason: str = "") -> tuple[Died, Future[Any] | None]:
        """What to tell the engine, and a task that was sent but never begun."""
        number, index, length, _ = self.page.position()
        story = _Story(self._backend.death, self.pid, exitcode, self.page.log(), reason)
        stray = None
        direct, self.direct = self.direct, None
        if direct is not None:
            direct.borrowed = direct.helper = None
            if number != self.direct_number:
                direct, stray = None, direct
        return make(self.name, number, index, max(1, length), story.tell, direct, not self.ready), stray

    def close(self) -> None:
        """Give back what the parent holds of it."""
        self.channel.close()
        self.page.close()


def _readable(sock: socket.socket, timeout: float) -> bool:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


class _Story:
    """How a worker died."""

    def __init__(
        self, kind: type[WorkerDiedError], pid: int | None, exitcode: int | None, log: str, reason: str
    ) -> None:
        self._kind = kind
        self._pid = pid
        self._exitcode = exitcode
        self._stack = _of_the_task(log.partition("\nExtension modules:")[0].strip())
        self._reason = reason

    def tell(self, chunk: Chunk | None, offset: int) -> Failure:
        """The failure of the item at *offset* of *chunk*."""
        code = self._exitcode
        signum = -code if code is not None and code < 0 else None
        error = self._kind(
            self._message(code, signum),
            item=None if chunk is None else chunk.job.sink.index(chunk, offset),
            exitcode=code if signum is None else None,
            signal=signum,
            pid=self._pid,
            stack=self._stack,
        )
        retry_on: tuple[type[BaseException], ...] = ()
        if chunk is not None:
            callee = chunk.job.call.callee
            retry_on = callee.retry_on
            error.add_note(f"parmap: {_call_text(chunk, offset)}")
        return Failure(error, retry=isinstance(error, retry_on))

    def _message(self, code: int | None, signum: int | None) -> str:
        if self._reason:
            return self._reason
        if signum is not None:
            try:
                name = signal.Signals(signum).name
            except ValueError:
                name = f"signal {signum}"
            return f"the worker was killed by {name}"
        if code is None:
            return "the worker is gone"
        return f"the worker exited with code {code} in the middle of the task"


def _of_the_task(stack: str) -> str:
    """A stack without the frames below the task, which are ours and always the same."""
    paragraphs = stack.split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        frames = paragraph.removesuffix(_START).splitlines()
        while len(frames) > 2 and frames[-1].startswith(_OURS):  # noqa: PLR2004 - a heading, and where it was at all
            frames.pop()
        paragraphs[number] = "\n".join(frames)
    return "\n\n".join(paragraphs)


def _call_text(chunk: Chunk, offset: int) -> str:
    try:
        item = chunk.job.sink.load(chunk.items[offset : offset + 1])[0]
        function = chunk.job.call.callee.function
        if type(item) is Packed:  # not to be unpickled here: that may be what killed the worker
            text = f"{getattr(function, '__qualname__', type(function).__qualname__)}(…)"
        else:
            text = describe(function, chunk.job.sink.mode, item)
    except Exception:  # noqa: BLE001 - a note must not hide the error
        text = "a task"
    index = chunk.job.sink.index(chunk, offset)
    return text if index is None else f"item {index}: {text}"
