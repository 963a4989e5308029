"""The main loop of a worker process.

A worker has one thread, which takes messages from its channel one after the other. It ignores Ctrl-C: the parent
decides. It keeps functions by number, runs chunks, and leaves when its channel ends.
"""

from __future__ import annotations

import atexit
import faulthandler
import marshal
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from parmap._travel.code.by_value import go_home, initialize
from parmap._travel.failure import IN_INITIALIZER, encode, note, translate
from parmap._travel.pack import WHOLE, Pack
from parmap._travel.vocabulary import Learner
from parmap._work.outcome import Outcome, pack_results, tell_failures
from parmap._work.page import ALL, CUT_SIGNAL, DUMP_SIGNAL, SIZE, Page
from parmap._work.per_worker import Here, Worker
from parmap._work.run import Callee, Terms, run, run_task
from parmap.backends._processes.child.functions import Functions
from parmap.backends._processes.child.output import Output, TalkingChannel
from parmap.backends._processes.child.quick import QuickEnd
from parmap.backends._processes.child.world import World
from parmap.backends._processes.line.channel import ChannelClosedError, Message, not_received
from parmap.backends._processes.line.lifeline import LifelineEnd
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parmap._work.report.clock import Clock

_GIVEN_BACK_AT_ONCE = 64  # items that fail together because their function can't be loaded
_LONGEST = 6  # seconds, of its end: more than the template's `GRACE`


def serve(fds: Sequence[int], problem: str) -> NoReturn:
    """Be a worker until the channel ends. *problem*: why it can't be one; it is left to be told to the parent."""
    go_home()
    channel_fd, page_fd, quick_fd, life_fd = fds
    channel = TalkingChannel(socket.socket(fileno=channel_fd))
    worker = _Worker(channel, QuickEnd(quick_fd), Page(page_fd), LifelineEnd(life_fd), problem)
    code = 0
    _prepare(worker.page)
    try:
        worker.serve()
    except ChannelClosedError:
        pass
    except BaseException:  # noqa: BLE001 - no memory; or what the handler of a signal raises that a task has left behind
        import traceback

        os.write(page_fd, traceback.format_exc().encode(errors="replace"))
        code = 1
    worker.lifeline.loosen()
    leave(code)


def _prepare(page: Page) -> None:
    """Reset what a fork must not share, and arrange for deaths to tell their story."""
    # Whoever asks the terminal for something, as `ssh` for a password, would stop its worker with it: it gets an error.
    for ignored in (signal.SIGINT, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(CUT_SIGNAL, page.cut)
    signal.siginterrupt(CUT_SIGNAL, False)  # a task in C that waits for a file or a socket need not notice
    os.lseek(page.fd, SIZE, os.SEEK_SET)
    faulthandler.enable(file=page.fd)
    faulthandler.register(DUMP_SIGNAL, file=page.fd, all_threads=False)
    for name in ("random", "numpy.random", "torch.random"):
        if name in sys.modules:
            sys.modules[name].seed()


def leave(code: int) -> NoReturn:
    """End this process without waiting for threads that tasks have left behind."""
    # For whatever runs now there is a limit, though there may be no template any more to keep it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.alarm(_LONGEST)
    try:
        atexit._run_exitfuncs()  # noqa: SLF001 - what the interpreter does at its end
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:  # noqa: BLE001, S110 - callbacks and streams are the user's; the process must end
        pass
    os._exit(code)


class _Worker:
    def __init__(
        self, channel: TalkingChannel, quick: QuickEnd, page: Page, lifeline: LifelineEnd, problem: str
    ) -> None:
        self._channel = channel
        self._quick = quick
        self._poller = select.poll()
        # Looked at in this order: what a task needs was sent over the channel before it, and is seen then.
        self._poller.register(quick.sock, select.POLLIN)
        self._poller.register(channel.sock, select.POLLIN)
        self.lifeline = lifeline
        self._quick_fd = quick.sock.fileno()
        self._output = Output(channel)
        self._world = World(self._output, channel)
        self._problem = problem
        self.page = page
        self._pid = os.getpid()
        self._functions = Functions()
        self._loading = self._sending = 0  # nanoseconds: of functions since the last chunk, and of its results

    def serve(self) -> None:
        has_run = False  # a chunk: then the next may be there already
        while True:
            self.page.rest()
            self._functions.collect()
            message = self._channel.poll() if has_run else self._channel.next_received()
            if message is None:
                message = self._next_message()
            has_run = message is not None and message.kind == "run"
            if message is None:
                self._run_quick_task()
            elif has_run:
                self._run(message)
            elif message.kind == "stop":
                return
            else:
                getattr(self, "_on_" + message.kind)(message)

    def _next_message(self) -> Message | None:
        """Wait for the next message of the channel; `None`: there is none, but a task on the quick line."""
        message: Message | None = None
        while message is None:
            self.lifeline.loosen()
            events = self._poller.poll()
            ready = [fd for fd, event in events if not event & select.POLLHUP]
            if len(ready) < len(events):  # the program is gone: from here a worker still leaves in good order
                raise ChannelClosedError
            self.lifeline.tighten()
            if ready != [self._quick_fd]:
                message = self._channel.poll()
            if message is None and self._quick_fd in ready:
                return None
        return message

    # messages

    def _on_setup(self, message: Message) -> None:
        Limits.enabled, Limits.smallest, Limits.kept, *number = message.fields
        Here.worker = Worker(*number)
        try:
            if self._problem:
                raise ImportError(self._problem)  # noqa: TRY301 - told like any error of the user's code
            if self._functions.initializer is not None:
                find, args, initargs = self._functions.initializer()
                self._functions.initializer = None
                self._world.initialize(lambda: initialize(find(*args), initargs))
        except BaseException as error:  # noqa: BLE001 - the user's code; its error fails the call
            problem = translate(error)
            if not self._problem:
                note(problem, IN_INITIALIZER)
            self._output.flush()
            self._channel.send("broken", marshal.dumps(encode(problem)))
            return
        self._channel.send("ready", self._pid)

    def _on_context(self, message: Message) -> None:
        self._world.change(*message.fields)

    def _on_file(self, message: Message) -> None:
        self._functions.take_file(message)

    def _on_part(self, message: Message) -> None:
        self._functions.take_part(message, self._content(message))

    def _on_function(self, message: Message) -> None:
        begin = time.monotonic_ns()
        self._functions.take(message, self._content(message))
        self._loading += time.monotonic_ns() - begin

    _on_class = _on_factory = _on_initializer = _on_function

    def _content(self, message: Message) -> bytes | None:
        """The bytes that came with a message; its segment is given back."""
        if message.pack is None:
            return None
        content = bytes(message.pack.stream)
        self._release(message)
        return content

    def _on_forget(self, message: Message) -> None:
        self._functions.forget(message.fields[0])
        self._output.flush()  # what belonged to a worker may print when it is closed

    def _on_free(self, message: Message) -> None:
        self._channel.settle(message.kind, message.fields[0])

    _on_keep = _on_drop = _on_free

    # chunks

    def _run(self, message: Message) -> None:
        number, key, timed, *how = message.fields
        terms = Terms(*how)
        self.page.enter(number, 0, 1, time.monotonic_ns())
        clock = self._clock() if timed else None
        self._world.enter()
        callee = self._functions.get(key)
        outcome = self._outcome(number, message.pack, callee, terms, clock)
        self._output.flush()
        self._report(number, outcome, callee, terms, message.pack, clock)
        outcome.let_go()
        del outcome  # a result may lie in the memory of its argument
        self._release(message)

    def _run_quick_task(self) -> None:
        try:
            task = self._quick.receive()
        except EOFError:
            self._poller.unregister(self._quick_fd)
            return
        if task is None:
            return
        self.page.enter(-task.number, 0, 1, time.monotonic_ns())
        self._world.enter()
        self._channel.has_talked = False
        callee = self._functions.get(task.key)
        items: list[Any] = []
        if callee.problem is None:
            outcome = run_task(callee, task.mode, task.load, items)
        else:
            outcome = Outcome.failed(callee.problem, 1)
        if os.getpid() != self._pid:  # the task forked, and its child came back through here
            outcome.end_fork()
        self._output.flush()
        # What was printed goes over the channel: behind it the answer is sure to come later.
        if self._channel.has_talked or not self._quick.answer(task, outcome, callee, items):
            self._report(-task.number, outcome, callee, Terms(task.mode, careful=True), items)
        outcome.let_go()

    def _clock(self) -> Clock:
        from parmap._work.report.clock import Clock

        clock = Clock(self._loading, self._sending)
        self._loading = self._sending = 0
        return clock

    def _outcome(self, number: int, items: Pack | None, callee: Callee, terms: Terms, clock: Clock | None) -> Outcome:
        if items is None:
            return Outcome.failed(not_received("a large argument"), 1)
        if callee.problem is not None:
            return Outcome.failed(callee.problem, min(items.count, _GIVEN_BACK_AT_ONCE))
        if items.words or items.kind == WHOLE:
            # If this ends the worker, any item may be to blame: all are run again, carefully, to find out.
            self.page.enter(number, 0, items.count, time.monotonic_ns())
            items.begin(careful=terms.careful or items.count == 1)
        page, timed = (clock.page(self.page), clock.items(items)) if clock else (self.page, items)
        return run(callee, terms, timed, items.count, number=number, page=page)

    def _report(
        self, number: int, outcome: Outcome, callee: Callee, terms: Terms, items: Any, clock: Clock | None = None
    ) -> None:
        """Tell what became of a chunk."""

        def enter(index: int) -> None:
            self.page.enter(number, index, 0, time.monotonic_ns())

        begin = time.monotonic_ns()
        if terms.careful and outcome.done > 1:  # a death that nobody in particular was to blame for
            results, unsent = pack_results(outcome.results, before=enter)
        else:
            if outcome.done:
                self.page.enter(number, 0, outcome.done, begin)
            learner = Learner(apart=callee.apart)
            single = terms.start < 0  # then each has a future of its own, which shall keep no other's
            results, unsent = pack_results(outcome.results, learner=learner, single=single)
            callee.apart = learner.apart
        told = tell_failures(callee, terms, items, outcome.errors, unsent, enter if terms.careful else bool)
        self.page.enter(number, ALL, 0, time.monotonic_ns())
        if os.getpid() != self._pid:  # a result forked when it was pickled
            outcome.end_fork()
        seconds = (outcome.nanoseconds + time.monotonic_ns() - begin) / 1e9
        times = () if clock is None else clock.times(outcome)
        self._channel.send("report", number, outcome.done, told, seconds, *times, pack=results)
        unsent.clear()  # as `Outcome.let_go`
        if clock is not None:
            self._sending = time.monotonic_ns() - clock.told

    def _release(self, message: Message) -> None:
        """Give the segment that a message lies in back, unless the task kept a reference into it."""
        if message.segment and message.pack is not None:
            is_free = self._channel.let_go(message)
            self._channel.send("free" if is_free else "keep", message.segment)
