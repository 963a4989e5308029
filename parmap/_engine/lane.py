"""The stream of all tasks that `submit` makes of one function: they wait together, and travel in chunks like others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from parmap._core.job import Chunk, Job, Sink
from parmap._results.unheard import Origin
from parmap._work.report.watch import Open, Watch

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap._engine.engine import Engine
    from parmap._results.futures import Future
    from parmap._travel.failure import Failure
    from parmap._work.surroundings import Context
    from parmap.backends._base import Call


def job_of(engine: Engine, call: Call, sink: Sink, options: Options, context: Context, **more: Any) -> Job:
    """A job with these options; *more*: what else makes it."""
    timeout = options.timeout if engine.backend.kills else None
    job = Job(call, sink, pace=call.pace, timeout=timeout, context=context, **more)
    job.owner = options.owner
    job.retries, job.retry_delay = options.retries, options.retry_delay
    return job


class Lane(Origin):
    """The stream of all tasks that `submit` makes of one function with the same options: the sink of their job."""

    function: Callable[[], object] = staticmethod(lambda: None)
    """Returns the function, as long as the program has it, if it can be told quickly whether it is as it was."""
    witness: Callable[[tuple[Any, ...]], bool] | None = None
    """Tells that, of the function and the classes that its rules name; `None`: it can't change unseen."""

    def __init__(
        self, engine: Engine, call: Call, options: Options, function: Any, context: Context, *, keywords: bool
    ) -> None:
        super().__init__(engine, function)
        self.call = call
        self.options = options
        self.context = context  # of all its tasks: where it changes, another lane begins
        self.mode: str = "call" if keywords else "star"
        self.job: Job | None = None
        # Timeouts, retries and the count of tasks are the scheduler's business: such tasks don't go past it.
        limited = options.timeout or options.retries or options.max_tasks_per_child or options.max_memory_per_child
        self.direct: bool = engine.backend.threaded and not limited

    def make_job(self) -> Job:
        """A job for the tasks that come now."""
        job = job_of(self.engine, self.call, self, self.options, self.context)
        if Open.reports:
            job.watch = Watch(self.name, self.engine.backend)
        return job

    def take(self, futures: list[Future[Any]]) -> Job:
        """The job that has these tasks now."""
        if self.job is None or self.job.closed:
            self.job = self.make_job()
        self.job.extend(futures)
        return self.job

    @staticmethod
    def index(_chunk: Chunk, _offset: int) -> None:
        """A task of `submit` has no number."""
        return

    def load(self, items: list[Future[Any]]) -> list[Any]:
        """The arguments of tasks."""
        return [future.args for future in items]

    def started(self, items: list[Future[Any]]) -> None:
        """A worker has these tasks."""
        for future in items:
            future.settle_running()

    def deliver(self, chunk: Chunk, done: int, results: Any, failures: dict[int, Failure]) -> None:
        """Complete the first *done* futures of a chunk."""
        futures = chunk.items if done == len(chunk.items) else chunk.items[:done]
        for place, future in enumerate(futures):
            if place in failures:
                future.fail(failures[place])
            else:
                future.settle(results, place)

    def finish(self, failure: Failure | None, left: Iterable[Future[Any]]) -> None:
        """The job ended; what is *left* fails with it."""
        self.job = None  # no cycle: what the function captured shall not wait for the garbage collector
        if failure is not None:
            for future in left:
                future.settle_failure(failure)
