"""No workers: tasks run one after the other in the thread that waits for them, where a debugger sees them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from parmap._core.pace import Cost
from parmap._travel.failure import IN_INITIALIZER, is_foreign, note, translate
from parmap._work.per_worker import here
from parmap.backends._base import Backend, Broken, Event, Report, run_here

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._core.job import Chunk

_LONG = 1e9  # seconds: as good as for ever
_MOST_PREPARED = 8  # pools whose initializer is known to have been called


class Serial(Backend):
    """Runs chunks in the calling thread. Each call has a `Serial` of its own, so calls don't wait for each other."""

    threaded = False

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.cost: Cost = Cost(aim=0.001, depth=1)
        self._chunks: deque[tuple[Chunk, str]] = deque()
        self._initialized = False
        self._problem: BaseException | None = None

    def grow(self, count: int) -> list[Hashable]:  # noqa: ARG002 - the contract
        """There is one worker: the caller."""
        if not self._initialized:
            self._initialized = True
            if self.options.initializer is not None:
                with here.keeper.turn(self.options.pool_key):
                    self._prepare_worker(self.options.initializer)
        return ["caller"]

    def _prepare_worker(self, initializer: Callable[..., object]) -> None:
        """Call the initializer once, though each call has a backend of its own."""
        keeper, key = here.keeper, self.options.pool_key
        if key in keeper.prepared:
            return
        keeper.prepared[key] = self.options  # now: it may use parmap itself
        try:
            initializer(*self.options.initargs)
        except BaseException as error:
            keeper.unprepare(key)
            if is_foreign(error) and not isinstance(error, SystemExit):
                raise
            self._problem = translate(error)
            note(self._problem, IN_INITIALIZER)
        for old in list(keeper.prepared)[:-_MOST_PREPARED]:  # closures, made in a loop
            keeper.unprepare(old)

    def start(self, chunk: Chunk, mode: str) -> int:
        """Remember a chunk until somebody waits."""
        self._chunks.append((chunk, mode))
        return len(chunk.items)

    def wait(self, timeout: float | None) -> Iterator[Event]:
        """Run a chunk, if there is one.

        As a generator, whose frame has none above it once it has ended: those of an error would lead from the task to
        whoever called, who has the error. (In Python 3.12 and 3.13 they do.)
        """
        if not self._chunks:
            if timeout:
                time.sleep(timeout)
            return
        if self._problem is not None:
            yield Broken(self._problem)
            return
        here.keeper.purge()
        yield self._run(*self._chunks.popleft())

    def _run(self, chunk: Chunk, mode: str) -> Report:
        self.at_work = True
        if (end := chunk.job.end) is not None:
            chunk.budget = min(chunk.budget or _LONG, end - time.monotonic())
        try:
            return run_here(chunk, mode, passes=(KeyboardInterrupt,))
        finally:
            self.at_work = False
            del chunk  # as in `run_here`

    def wake(self) -> None:
        """Nobody sleeps here."""

    def close(self) -> None:
        """Forget what waits."""
        self._chunks.clear()
