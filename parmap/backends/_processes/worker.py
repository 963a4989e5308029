"""One worker process, seen from the parent: its channel and page, what it knows, does and asks for, and how it died."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from parmap._results.futures import End, Future
from parmap._travel.failure import Failure
from parmap._travel.pack import Packed
from parmap._travel.stream import is_sent
from parmap._travel.text import with_source
from parmap._work.page import Page
from parmap._work.place import PACKAGE
from parmap._work.report.clock import Times
from parmap.backends._base import Died, Report, Story, failures_of
from parmap.backends._processes.functions import ClassPack, FunctionCall
from parmap.backends._processes.line.channel import Channel, Message, not_received
from parmap.backends._processes.line.descriptors import send_fds
from parmap.backends._processes.line.quick import QuickLine, socket_pair
from parmap.backends._processes.line.sockets import NOSIGNAL, Socket, pair
from parmap.backends._processes.spawning import environment
from parmap.errors import signal_name

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._work.surroundings import Context
    from parmap.backends._processes.launcher import Launcher

_OURS = '  File "' + PACKAGE + os.sep
_START = '  File "<string>", line 1 in <module>'  # how the interpreter of a worker, or of its template, was started


class Worker:
    """A worker process."""

    def __init__(self, name: int, options: Options, launcher: Launcher, post: Callable[[Any], object]) -> None:
        """*post*: leaves a note for the engine."""
        self.name = name
        self.since = time.monotonic_ns()
        # No ExitStack: in Python 3.15 it imports a module, whose lock a process that is forked now would keep for ever.
        made: list[Any] = []
        try:
            made += pair()
            made += socket_pair()
            made.append(Page.create())
            ours, theirs, near, far, self.page = made
            self.quick = QuickLine(near, post, name)
        except BaseException:
            for each in made:
                each.close()
            raise
        self.far_ends: tuple[Socket, ...] = theirs, far
        """The worker's ends of its lines, until it has them: what only a message holds is garbage to macOS."""
        self.channel = Channel(ours, copies=True)
        self.pid: int | None = None
        self.ready = False
        self.launcher: Launcher | None = launcher  # none: its template is gone
        self.silent = False  # its channel has ended
        self.index = -1  # its number among those that live
        self.known: set[int] = set()
        self.due = 0  # chunks that it has not reported
        self.unsent: dict[int, dict[int, BaseException]] = {}  # chunk -> errors of items that could not be pickled
        self._seen: set[int] = set()  # quick tasks that were in flight at the last look
        self._options = options
        self._environment = launcher.environment  # what it was started with

    def hand_over(self) -> None:
        """Close its ends of its lines: from now on their end is its own."""
        ends, self.far_ends = self.far_ends, ()
        for end in ends:
            end.close()

    # telling it things

    def adapt(self, context: Context) -> None:
        """Tell the worker what tasks see besides their arguments, if it does not know."""
        if self.quick.context is context:
            return
        changes = context.since(self.quick.context)
        self.quick.context = context
        if "environ" in changes:
            before, self._environment = self._environment, environment(context.told["environ"], self._options)
            changed = dict(self._environment.items() - before.items())
            changes["environ"] = changed | dict.fromkeys(before.keys() - self._environment.keys())
        self.channel.post("context", changes)

    def sync(self, call: FunctionCall, context: Context, needs: Iterable[ClassPack]) -> None:
        """Tell the worker the context, and what the function and what items need are, if it does not know."""
        self.adapt(context)
        for each in (call, *needs):
            if each.number not in self.known:
                each.tell(self.channel, self.known)

    def forget(self, gone: list[int]) -> bool:
        """Tell the worker what nobody needs any more; false if some of that stayed behind for `flush`."""
        known = self.known.intersection(gone)
        self.known -= known
        return not known or self.silent or self.channel.post("forget", list(known))

    def finish(self, message: Message) -> Report:
        """What to tell the engine of a chunk that has ended."""
        number, done, failures, seconds, *times = message.fields
        self.due -= 1
        found = failures_of(failures, self.unsent.pop(number, {}), done)
        if message.pack is None:
            found = {index: Failure(not_received("a large result")) for index in range(done)} | found
        return Report(number, done, message.pack, found, seconds, Times(*times) if times else None)

    # single tasks on the quick line

    def try_quickly(self, call: FunctionCall, future: Future[Any]) -> bool:
        """Send one task from the calling thread, if this worker is leased and knows the function."""
        quick = self.quick
        if not quick.is_open or quick.flight or self.silent or not self.channel.is_clear:
            return False
        args = future.args
        needs = args.needs if type(args) is Packed else ()
        if any(is_sent(need) or (type(need) is ClassPack and need.number not in self.known) for need in needs):
            return False
        # Only what `sync` would have nothing to do for.
        return call.number in self.known and quick.context is future.lane.context and quick.send(future, call.number)

    def finish_quick(self, message: Message) -> None:
        """The answer to a quick task came over the channel: it is large, or something was printed before it."""
        number, _, failures, seconds = message.fields
        task = self.quick.flight.get(-number)
        if task is None:
            return
        if task.measured:
            took = int(seconds * 1e9)
            self.quick.singles.add(task, self.name, time.monotonic_ns() - took, took, failed=bool(failures))
        end = End(message.pack)
        if failures or message.pack is None:
            failure = Failure(encoded=failures[0][1]) if failures else Failure(not_received("a large result"))
            end = End(failure=task.tied(failure))
        self.quick.finish(-number, end)

    def look_after_quick(self) -> bool:
        """Settle what was answered; send what was in flight at the last look, too, and may not have been sent.

        True if there is such a task, and it has been sent.
        """
        quick = self.quick
        quick.drain()
        now = self.page.position().number
        seen, self._seen = self._seen, set(quick.flight)  # in one step: callers come and go meanwhile
        waiting = sorted(seen & self._seen)
        return bool(waiting) and all(now == -number or quick.send_again(number) for number in waiting)

    # its end

    def died(self, exitcode: int | None, reason: str = "") -> Died:
        """What to tell the engine."""
        number, index, length, since = self.page.position()
        signum = -exitcode if exitcode is not None and exitcode < 0 else None
        stack = _of_the_task(self.page.log().partition("\nExtension modules:")[0].strip())
        facts = {"exitcode": exitcode if signum is None else None, "signal": signum, "pid": self.pid}
        story = Story(reason or _how(exitcode, signum, is_ready=self.ready), None, stack=with_source(stack), **facts)
        story.account = (time.monotonic_ns() - since) / 1e9, self.index
        begun = self.quick.flight.get(-number)
        tasks = tuple((future, future is begun) for _, future in self.quick.withdraw())
        if begun is not None and begun.measured:
            lost = "stopped" if begun.happened else "deaths"
            self.quick.singles.add(begun, self.name, since, 0, failed=not begun.happened, lost=lost)
        return Died(self.name, number, index, max(1, length), story.tell, tasks, not self.ready)

    def close(self) -> None:
        """Give back what the parent holds of it."""
        self.hand_over()
        self.channel.close()
        self.quick.close()
        self.page.close()


def _how(code: int | None, signum: int | None, *, is_ready: bool) -> str:
    if signum is not None:
        return f"the worker was killed by {signal_name(signum)}"
    if code is None:
        return "the worker is gone"
    return f"the worker exited with code {code} {'in the middle of the task' if is_ready else 'before it had started'}"


def _of_the_task(stack: str) -> str:
    """A stack without the frames below the task, which are ours and always the same."""
    paragraphs = stack.split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        frames = paragraph.removesuffix(_START).splitlines()
        while len(frames) > 2 and frames[-1].startswith(_OURS):  # noqa: PLR2004 - a heading, and where it was at all
            frames.pop()
        paragraphs[number] = "\n".join(frames)
    return "\n\n".join(paragraphs)


def lend_tracker(fds: tuple[int, ...]) -> None:
    """Send the way to this program's tracker of resources over a line that a worker has sent; start it, if need be."""
    for fd in fds:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with socket.socket(fileno=fd) as line:
            try:
                from multiprocessing.resource_tracker import getfd

                tracker: Any = getfd()
                send_fds(line, b"\0", [tracker])
            except Exception:  # noqa: BLE001 - it can't be had: the worker must do without
                with suppress(OSError):
                    line.send(b"\0", NOSIGNAL)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # it leaves SIGINT and SIGTERM unblocked
