"""All workers of a pool: started, heard, stopped, buried; what happens when they, or the template, can't start."""

from __future__ import annotations

import signal
import time
from collections.abc import Hashable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from parmap._results.screen.relay import relay
from parmap._travel.failure import Failure
from parmap._work.surroundings import current
from parmap.backends._base import AUTO, Broken, Capacity, Event, Ready
from parmap.backends._processes.functions import Functions, InitializerPack
from parmap.backends._processes.guess import Guess
from parmap.backends._processes.launcher import GRACE, Launcher, kill_group
from parmap.backends._processes.leases import Leases
from parmap.backends._processes.line.channel import ChannelClosedError, Message
from parmap.backends._processes.line.copies import copies
from parmap.backends._processes.line.lifeline import Lifeline
from parmap.backends._processes.line.quick import QuickLine
from parmap.backends._processes.line.segments import Limits
from parmap.backends._processes.poller import WRITE
from parmap.backends._processes.spawning import environment, newborn, take_early
from parmap.backends._processes.stopping import MUTE_PAUSE, Signals
from parmap.backends._processes.worker import Worker, lend_tracker
from parmap.errors import PoolClosedError, WorkerDiedError

if TYPE_CHECKING:
    from parmap._calls.options import Options

OUTPUT = frozenset({"print", "flush", "log", "warn"})
_OF_SEGMENTS = frozenset({"free", "drop", "keep"})

_STARTS = 3  # workers, or templates, in a row that may die at start


class Staff(Leases):
    """All that `Processes` does except running chunks."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.functions = Functions(has_files=self.has_files)
        self.context = current()  # that of the latest call
        try:
            self._lifeline = Lifeline()
        except OSError:
            self.poller.close()
            raise
        self._early = take_early()  # only now: it is dropped by others if there is no room for this
        self._launcher: Launcher | None = None
        self._names = count(1)
        self._events: list[Event] = []
        self._signals = Signals(self._workers)
        self._guess = Guess(options)
        self._failed_starts = 0
        self._is_crowded = False  # it can't have all its workers
        self._unheard: dict[Worker, None] = {}  # they print more than can be written
        self._asked = False  # whether the relay is to tell when there is room
        self.unflushed: dict[Worker, None] = {}  # those with messages that leave before the engine sleeps

    # workers

    def grow(self, count: int) -> list[Hashable]:
        """Start workers; the messages they will find are sent at once."""
        started: list[Hashable] = []
        try:
            initializer = self._initializer()
        except Exception as error:  # noqa: BLE001 - pickling runs the user's code; its error fails the call
            self._break(error)
            return started
        while len(started) < count:
            try:
                started.append(self._start_worker(self._launcher or self._launch(), initializer))
            except ChannelClosedError:  # the template has just died: hear its last words, then go on with another
                self._hear_launcher()
                if self._events and isinstance(self._events[-1], Broken):
                    return []
            except OSError as error:
                if self._workers:
                    break
                told = WorkerDiedError(f"worker processes can't be started: {error}")
                told.__cause__ = error
                self._events.append(Broken(told))
                return []
        return started

    def _start_worker(self, launcher: Launcher, initializer: InitializerPack | None) -> int:
        worker = Worker(next(self._names), self.options, launcher, self.post)
        channel, quick = worker.far_ends
        worker.index = min({*range(len(self._workers) + 1)} - {each.index for each in self._workers.values()})
        try:
            launcher.start(worker.name, channel.fileno(), worker.page.fd, quick.fileno(), self._lifeline.fd)
            self.poller.add(worker.channel.sock.fileno(), worker)
            worker.adapt(self.context)  # before the initializer, which runs in it as tasks do
            if initializer is not None:
                initializer.tell(worker.channel, worker.known)
            place = worker.index, self.options.workers
            worker.channel.post("setup", Limits.enabled, Limits.smallest, Limits.kept, *place)
        except BaseException:  # one that has begun leaves when its line ends
            self._forget(worker)
            worker.close()
            raise
        self._workers[worker.name] = worker
        return worker.name

    def expect(self, function: Any, count: int) -> None:  # noqa: ARG002 - the contract
        """Have the template import what *function* needs, if there is none yet. By any thread."""
        if self._launcher is None:
            self._guess.add(function)

    def _launch(self) -> Launcher:
        options = self.options
        variables = environment(self.context.told["environ"], options)
        early, self._early = self._early, None
        launcher = Launcher(
            newborn(variables, early),
            fork=options.start_method == "forkserver",
            preload=() if options.preload == AUTO else options.preload,
            guessed=self._guess.modules(variables),
            argv=self.context.told["argv"],
        )
        self.poller.add(launcher.control.sock.fileno(), launcher)
        self._launcher = launcher
        return launcher

    def _initializer(self) -> InitializerPack | None:
        return self.functions.prepare_initializer(self.options)

    def stop(self, slot: Hashable, *, dump: bool = False) -> None:
        """Terminate a worker, then kill it."""
        self._signals.stop(slot, dump=dump)

    def retire(self, slot: Hashable) -> None:
        """Ask a worker to leave; its end is told like any other."""
        worker = self._workers.get(slot)
        if worker is not None:  # else it is dead since a moment ago, which will be told
            worker.index = -1  # free for the one that takes its place
            worker.channel.post("stop")
            self._signals.send_soon(slot, signal.SIGKILL, GRACE)

    def _flush(self) -> None:
        while self.unflushed:
            worker, _ = self.unflushed.popitem()
            if not worker.channel.flush():
                self.flush_later(worker)

    def flush_later(self, worker: Worker) -> None:
        """Send the rest of a message when there is room."""
        if worker not in self._unheard:
            self.poller.want_write(worker.channel.sock.fileno(), worker, on=True)

    # events

    def wait(self, timeout: float | None) -> list[Event]:
        """Sleep until a worker, the template or a timer has something to say."""
        if self._unheard:
            self._listen_again()
        self._flush()
        times = [each for each in (self._signals.next_time, copies.next_time) if each is not None]
        if self._events:
            timeout = 0.0
        elif times:
            left = max(0.0, min(times) - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        for source, events in self.poller.wait(timeout):
            if isinstance(source, Launcher):
                self._hear_launcher()
            elif isinstance(source, QuickLine):
                self._hear_line(source)
            elif events & WRITE:
                if source.channel.flush():
                    self.poller.want_write(source.channel.sock.fileno(), source, on=False)
            else:
                self._hear(source)
        self._signals.send_due()
        copies.expire()
        happened, self._events = self._events, []
        return happened

    def wake(self) -> None:
        """Interrupt `wait`."""
        self.poller.wake()

    def _hear(self, worker: Worker) -> None:
        def take(message: Message) -> bool:
            self._take_message(worker, message)
            return worker in self._unheard

        if not worker.channel.hear(take):
            self._mute(worker)

    def _stop_listening(self, worker: Worker) -> None:
        """Let a worker that prints too much wait in `print`, until what it printed is written."""
        self._unheard[worker] = None
        self.poller.remove(worker.channel.sock.fileno())

    def _listen_again(self) -> None:
        """Listen to all if there is room; be woken once there is some again. Others may be faster, and have it all."""
        unheard, self._unheard = ({}, self._unheard) if relay.is_full else (self._unheard, {})
        for worker in unheard:
            if worker.name in self._workers and not worker.silent:
                self.poller.add(worker.channel.sock.fileno(), worker)
                if not worker.channel.is_clear:
                    self.flush_later(worker)
                self._hear(worker)  # what had been read with what went before
        if self._unheard and not self._asked:
            self._asked = True
            relay.when_room(self._have_room)

    def _have_room(self) -> None:
        self._asked = False  # first: who is woken asks again
        self.poller.wake()

    def _mute(self, worker: Worker) -> None:
        """A channel has ended. The template tells when and how the worker died; one that lives on has lost its use."""
        if worker.silent:
            return
        worker.silent = True
        self.poller.remove(worker.channel.sock.fileno())
        if worker.launcher is None:  # its template is gone
            self._bury(worker, None)
        else:
            self._signals.send_soon(worker.name, signal.SIGKILL, MUTE_PAUSE)

    def _take_message(self, worker: Worker, message: Message) -> None:
        if message.kind == "report":
            if message.fields[0] < 0:
                worker.finish_quick(message)
            else:
                self._events.append(worker.finish(message))
        elif message.kind in OUTPUT:
            relay.put(message.kind, message.fields)
            if relay.is_full and not worker.silent:
                self._stop_listening(worker)
        elif message.kind in _OF_SEGMENTS:
            worker.channel.settle(message.kind, message.fields[0])
        elif message.kind == "tracker":
            lend_tracker(message.fds)
        elif message.kind == "ready":
            worker.ready = True
            worker.pid = message.fields[0]
            self._failed_starts = 0
            self._events.append(Ready(worker.name, worker.since))
        elif message.kind == "broken":
            import marshal

            self._break(Failure(encoded=marshal.loads(message.fields[0])).exception())

    def _hear_launcher(self) -> None:
        launcher = self._launcher
        if launcher is not None and not launcher.control.hear(partial(self._take_news, launcher)):
            self._lose_launcher()

    def _take_news(self, launcher: Launcher, message: Message) -> None:
        """Do what a message of the template says."""
        kind, (what, *more) = message.kind, message.fields or (None,)
        worker = self._workers.get(what)
        if kind == "begun":
            launcher.has_begun = True
        elif worker is None:
            pass
        elif kind == "started":
            (worker.pid,) = more
            worker.hand_over()
        elif kind == "exited":
            self._bury(worker, *more)
        elif kind == "failed":
            self._bury(worker, None, f"a worker process can't be started: {more[0]}")

    def _bury(self, worker: Worker, exitcode: int | None, reason: str = "") -> None:
        """A worker is dead: hear what it said last, then tell the engine."""
        worker.silent = True
        worker.channel.hear(partial(self._take_message, worker))
        if self._workers.pop(worker.name, None) is None:  # its last word was that nothing works
            return
        self._forget(worker)
        died = worker.died(exitcode, reason)
        worker.close()
        self._events.append(died)
        if reason and self._workers:  # the system has no room for more
            self._crowd()
        elif not worker.ready and worker.launcher is not None:
            self._fail_start(died.explain(None, 0).exception())

    def _forget(self, worker: Worker) -> None:
        """Wait for nothing of a worker's any more."""
        worker.hand_over()
        self.poller.remove(worker.channel.sock.fileno())
        self._shut(worker)
        self._stop_listening_to(worker.quick)

    def _lose_launcher(self) -> None:
        """The template died. Workers that run go on to the end of what they have; new ones come from a new template."""
        launcher, self._launcher = self._launcher, None
        if launcher is None:  # a call was broken by what it said last
            return
        self.poller.remove(launcher.control.sock.fileno())
        launcher.close({})
        for worker in list(self._workers.values()):
            worker.launcher = None  # its exit status is lost; its end is that of its channel
            worker.hand_over()
            if worker.silent:
                self._bury(worker, None)
        if not launcher.has_begun and self._guess.give_up():
            return
        self._fail_start(WorkerDiedError("the template process died before a worker was ready", pid=launcher.pid))

    def _fail_start(self, cause: BaseException) -> None:
        """Do without more workers when they die again and again before they are ready; give up, if there are none."""
        self._failed_starts += 1
        if self._failed_starts < _STARTS:
            return
        if any(worker.ready for worker in self._workers.values()):
            self._failed_starts = 0
            self._crowd()
        else:
            error = WorkerDiedError(f"{_STARTS} workers in a row died while starting; the last: {cause}")
            error.__cause__ = cause
            self._break(error)

    def _crowd(self) -> None:
        """Go on with the workers that there are."""
        self._is_crowded = True
        self._events.append(Capacity(len(self._workers), self.cost))

    def _break(self, error: BaseException) -> None:
        self._failed_starts = 0
        self.close()
        self._events.append(Broken(error))

    # the end

    def close(self) -> None:
        """Stop all workers: the idle ones leave by themselves, the others are killed."""
        workers = list(self._workers.values())
        self._workers.clear()
        self._signals.clear()
        copies.forget()
        if self._is_crowded:  # next time there may be room
            self._is_crowded = False
            self._events.append(Capacity(self.options.workers, self.cost))
        # Not what its page says: it may have reported, and not come to rest yet.
        busy = {worker for worker in workers if worker.due or worker.quick.flight}
        for worker in busy:
            self._signals.send(worker, signal.SIGKILL)
        for worker in workers:
            worker.channel.post("stop")
            self._forget(worker)
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            self.poller.remove(launcher.control.sock.fileno())
            launcher.close({each.channel.sock.fileno(): partial(each.channel.hear, _farewell) for each in workers})
        for worker in workers:
            if worker.channel.hear(_farewell) and worker in busy and worker.pid is not None:
                kill_group(worker.pid, signal.SIGKILL)  # its template was gone, or did not hear us
            died = worker.died(None)
            for future, begun in died.tasks:
                with suppress(PoolClosedError):
                    if not begun:  # its caller came just as the line was taken back
                        self.post(future)
                        continue
                future.fail(died.explain(None, 0))
            worker.close()

    def finish(self) -> None:
        """Give the poller's descriptors back."""
        if self._early is not None:
            self._early.drop()
        self._lifeline.close()
        self.poller.close()

    def abandon(self) -> None:
        """Close our copies of everything, so that the parent's end is seen as its end."""
        for worker in list(self._workers.values()):
            worker.close()
        if self._early is not None:
            self._early.line.close()
        if self._launcher is not None:
            self._launcher.control.close()
        self._lifeline.close()
        self.poller.close()


def _farewell(message: Message) -> None:
    """What a worker closes that was told to leave may print, or ask for the program's tracker."""
    if message.kind in OUTPUT:
        relay.put(message.kind, message.fields)
    elif message.kind == "tracker":
        lend_tracker(message.fds)
