"""What each mechanism of parmap buys: the same work with it on, and switched off through parmap's internals.

See `pairs` for how it is run.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import items
import tasks
from pairs import Comparison

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 2
ARRAY = 32 << 20


def _set(owner: Any, name: str, value: Any) -> None:
    """Change something inside parmap; a switch for what is no longer there fails, instead of switching nothing."""
    getattr(owner, name)
    setattr(owner, name, value)


def _no_segments() -> None:
    from parmap.backends._processes.line.segments import Limits

    _set(Limits, "enabled", value=False)


def _fresh_segments() -> None:
    from parmap.backends._processes.line.segments import Limits

    _set(Limits, "kept", 0)


def _fresh_copies() -> None:
    from parmap.backends._processes.line.copies import Copies

    Copies._remember = lambda *_: None  # type: ignore[method-assign,assignment]


def _no_huge_pages() -> None:
    import mmap

    if hasattr(mmap, "MADV_HUGEPAGE"):
        del mmap.MADV_HUGEPAGE


def _no_marshal() -> None:
    from parmap._travel import payload

    _set(payload, "encode", lambda *_: None)


def _no_vocabulary() -> None:
    from parmap._travel.vocabulary import Learner

    _set(Learner, "learn", lambda *_, **__: None)


def _no_blocks() -> None:
    from parmap._work import run

    _set(run, "_QUICK", -1)


def _change_cost(**changes: Any) -> None:
    """Let the backend say something else about itself."""
    from parmap.backends._processes.pool import Processes

    original = Processes.__init__

    def init(self: Any, options: Any) -> None:
        original(self, options)
        self.cost = self.cost._replace(**changes)

    _set(Processes, "__init__", init)


def _one_in_flight() -> None:
    _change_cost(depth=1, deepest=0)


def _no_give_back() -> None:
    """Neither when its time is up nor when asked does a worker give back what it has not started."""
    _change_cost(recalls=False)
    serve: Any = import_module("parmap.backends._processes.child.serve")
    original = serve.run

    def run(callee: Any, terms: Any, *args: Any, **options: Any) -> Any:
        return original(callee, terms._replace(budget=None), *args, **options)

    _set(serve, "run", run)


def _no_leases() -> None:
    from parmap.backends._processes.pool import Processes

    _set(Processes, "leases", value=False)


def _no_reading() -> None:
    from parmap.backends._processes.line.quick import QuickLine

    _set(QuickLine, "read_for", lambda *_: False)


def _no_joining() -> None:
    from parmap._engine.lane import Lane

    original = Lane.make_job

    def make_job(self: Any) -> Any:
        job = original(self)
        job.chunksize = 1
        return job

    _set(Lane, "make_job", make_job)


def _no_marks() -> None:
    from parmap._travel.code.marks.mark import Mark

    _set(Mark, "holds", lambda *_: False)


def _nothing() -> None:
    """The switch is an option."""


def _map_arrays(options: dict[str, Any], size: int) -> Callable[[], Any]:
    import numpy as np

    arrays = [np.full(ARRAY // 8, float(number)) for number in range(size)]
    return lambda: _function(tasks.take_array, options).map(arrays)


def _stream_results(options: dict[str, Any], size: int) -> Callable[[], Any]:
    # One by one, so that each is dropped before the next.
    return lambda: [result.nbytes for result in _function(tasks.make_array, options).imap([ARRAY] * size)]


def _map_first_results(options: dict[str, Any], size: int) -> Callable[[], Any]:
    kept: list[Any] = []  # so that each has fresh memory
    return lambda: kept.append(_function(tasks.make_array, options).map([ARRAY] * (size // 4)))


def _map_short(options: dict[str, Any], size: int) -> Callable[[], Any]:
    return lambda: _function(tasks.short, options).map(range(size))


def _map_tiny(options: dict[str, Any], size: int) -> Callable[[], Any]:
    return lambda: _function(tasks.inc, options).map(range(size))


def _map_strings(options: dict[str, Any], size: int) -> Callable[[], Any]:
    strings = [f"item number {number}" for number in range(size)]
    return lambda: _function(tasks.to_dict, options).map(strings)


def _map_points(options: dict[str, Any], size: int) -> Callable[[], Any]:
    class Point(tasks.Point):
        """As a class of a script, it has no name that workers know."""

    points = [Point(number, -number) for number in range(size)]
    return lambda: _function(tasks.mirror, options).map(points)


def _map_frames(options: dict[str, Any], size: int) -> Callable[[], Any]:
    frames = items.groups(size)
    return lambda: _function(tasks.group_stats, options).map(frames)


def _map_surprise(options: dict[str, Any], size: int) -> Callable[[], Any]:
    seconds = [0.0001] * size + [0.03] * (size // 20)
    return lambda: _function(tasks.busy, options).map(seconds)


def _submit_closure(options: dict[str, Any], size: int) -> Callable[[], Any]:
    function = _function(tasks.capture(list(range(100))), options)
    return lambda: [function.submit(number % 100).result() for number in range(size)]


def _submit_many(options: dict[str, Any], size: int) -> Callable[[], Any]:
    function = _function(tasks.inc, options)
    return lambda: [future.result() for future in [function.submit(number) for number in range(size)]]


def _submit_one_by_one(options: dict[str, Any], size: int) -> Callable[[], Any]:
    function = _function(tasks.inc, options)
    return lambda: [function.submit(number).result() for number in range(size)]


def _function(task: Callable[..., Any], options: dict[str, Any]) -> Any:
    from parmap import parallel

    return parallel(task, workers=WORKERS, **options)


class Mechanism(NamedTuple):
    """Something that can be switched off."""

    name: str
    off: Callable[[], None]
    work: str
    make: Callable[[dict[str, Any], int], Callable[[], Any]]
    sizes: tuple[int, int, int]
    """Items in a smoke test, a quick run and a full run."""
    option: tuple[str, Any] | None = None


MECHANISMS = (
    Mechanism(
        "shared memory for large payloads", _no_segments, "arrays of 32 MB as arguments", _map_arrays, (2, 8, 12)
    ),
    Mechanism("segments are used again", _fresh_segments, "arrays of 32 MB as arguments", _map_arrays, (2, 12, 24)),
    Mechanism("huge pages", _no_huge_pages, "arrays of 32 MB as results", _map_first_results, (2, 12, 24)),
    Mechanism(
        "dropped memory is used again", _fresh_copies, "arrays of 32 MB out of `imap`", _stream_results, (2, 12, 24)
    ),
    Mechanism(
        "nothing unchanged is packed again",
        _no_marks,
        "`submit().result()` of a closure over a list",
        _submit_closure,
        (20, 500, 1000),
    ),
    Mechanism(
        "chunks follow the clock", _nothing, "tasks of about 50 µs", _map_short, (200, 5000, 20_000), ("chunksize", 1)
    ),
    Mechanism("give-back", _no_give_back, "0.1 ms items, then a few of 30 ms", _map_surprise, (40, 400, 400)),
    Mechanism("two chunks in flight", _one_in_flight, "data frames", _map_frames, (10, 300, 600)),
    Mechanism("blocks", _no_blocks, "tiny tasks", _map_tiny, (1000, 100_000, 200_000)),
    Mechanism("flat items are marshalled", _no_marshal, "strings to dicts", _map_strings, (1000, 50_000, 100_000)),
    Mechanism("classes travel once", _no_vocabulary, "instances of a script's class", _map_points, (100, 2000, 2000)),
    Mechanism("submits are joined", _no_joining, "`submit` and gather", _submit_many, (100, 5000, 10_000)),
    Mechanism("direct path", _no_leases, "one `submit().result()` at a time", _submit_one_by_one, (20, 500, 1000)),
    Mechanism(
        "the waiter reads", _no_reading, "one `submit().result()` at a time", _submit_one_by_one, (20, 500, 1000)
    ),
)


def prepare(mechanism: Mechanism, state: str, size: int) -> Callable[[], Any]:
    """The work with a mechanism on or off: here, before there is a pool, and in the workers by an initializer."""
    options: dict[str, Any] = {}
    if state == "off":
        mechanism.off()
        options["initializer"] = mechanism.off
        options |= dict([mechanism.option] if mechanism.option else [])
    return mechanism.make(options, size)


if __name__ == "__main__":
    sys.exit(
        Comparison(
            "ablation.py",
            MECHANISMS,
            ("on", "off"),
            prepare,
            "| mechanism | work | with | without | buys |",
            lambda on, off: f"{on * 1e3:.1f} ms | {off * 1e3:.1f} ms | {off / on:.2f} ×",
        ).main()
    )
