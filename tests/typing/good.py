"""Lines that type checkers must accept, with the types they must infer. Never run: checked by mypy and pyright."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, assert_type

import parmap
from parmap import (
    Future,
    Journal,
    Outcome,
    ParallelFunction,
    PerWorker,
    ResultStream,
    Worker,
    WorkerDiedError,
    parallel,
)

# --- decorating ---


@parallel
def bare(x: int) -> float:
    return x / 2


@parallel(workers=4, timeout=1.5, retry_on=(OSError, WorkerDiedError), backend="processes")
def called(x: int, y: str = "", *, scale: float = 1.0) -> list[str]:
    return [y] * int(x * scale)


@parallel()
def three(a: int, b: str, c: bytes) -> str:
    return f"{a}{b}{c!r}"


@parallel
async def fetch(url: str) -> bytes:
    return url.encode()


@parallel(workers=2)
async def fetch_called(url: str) -> bytes:
    return url.encode()


assert_type(bare(1), float)
assert_type(called(1, "a", scale=2.0), list[str])
assert_type(bare.__wrapped__(1), float)
assert_type(parallel(len, workers=2).map([[1], [2]]), list[int])
assert_type(parallel(partial(bare, 1)).submit(), Future[float])

factory = parallel(workers=2)


@factory
def one(x: int) -> str:
    return str(x)


@factory
def two(x: str) -> int:
    return int(x)


assert_type(one(1), str)
assert_type(two("1"), int)
assert_type(parallel(str, workers=2)(1), str)
doubled: Callable[[int], int] = lambda x: 2 * x  # noqa: E731
assert_type(parallel(doubled).map([1]), list[int])
assert_type(parallel(lambda: 3)(), int)
plain: Callable[[int], float] = bare

# --- batches ---

assert_type(bare.map([1, 2]), list[float])
assert_type(bare.map(range(3), chunksize=2, progress="halving"), list[float])
assert_type(bare.map([1], return_exceptions=True), list[float | Exception])
assert_type(bare.map([1], return_exceptions=False), list[float])
assert_type(called.map([1], ["a"]), list[list[str]])
assert_type(called.map([1], ["a"], return_exceptions=True), list[list[str] | Exception])
assert_type(three.map([1], ["a"], [b"c"]), list[str])
assert_type(three.map([1], ["a"], [b"c"], return_exceptions=True), list[str | Exception])
assert_type(three.starmap([(1, "a", b"c")]), list[str])
assert_type(three.starmap([(1, "a", b"c")], return_exceptions=True), list[str | Exception])


def maybe(*, keep: bool) -> None:
    assert_type(bare.map([1], return_exceptions=keep), list[float | Exception])


# --- streams ---

assert_type(bare.imap([1], buffersize=10), ResultStream[float])
assert_type(bare.imap_unordered([1], return_exceptions=True), ResultStream[float | Exception])
assert_type(next(bare.imap([1])), float)
for half in bare.imap([1]):
    assert_type(half, float)
with bare.imap([1]) as stream:
    assert_type(next(stream), float)
    stream.close()


assert_type(bare.map([1], journal="a.sqlite"), list[float])
assert_type(
    bare.map([1], journal=Journal("a", key=lambda x: x, version="2"), return_exceptions=True), list[float | Exception]
)
assert_type(bare.imap([1], journal=Path("a")), ResultStream[float])
assert_type(bare.outcomes([1], journal=None), ResultStream[Outcome[float]])
assert_type(three.starmap([(1, "a", b"c")], journal="a"), list[str])
assert_type(bare.outcomes([1], ordered=False, buffersize=3, progress=True), ResultStream[Outcome[float]])
assert_type(called.outcomes([1], ["a"]), ResultStream[Outcome[list[str]]])
assert_type(three.outcomes([1], ["a"], [b"c"]), ResultStream[Outcome[str]])
assert_type(fetch.outcomes(["a"]), ResultStream[Outcome[bytes]])
for outcome in bare.outcomes([1]):
    assert_type(outcome.value, float | None)
    assert_type(outcome.result(), float)
    assert_type(outcome.seconds, float | None)
    failed: BaseException | None = outcome.error


async def consume() -> None:
    async for each in bare.outcomes([1]):
        assert_type(each, Outcome[float])
    async for value in bare.imap([1]):
        assert_type(value, float)
    assert_type(await bare.submit(1), float)
    assert_type(await bare.map_async([1]), list[float])
    assert_type(await fetch("a"), bytes)


# --- futures ---

assert_type(bare.submit(1), Future[float])
assert_type(called.submit(1, y="a", scale=1.0).result(timeout=3), list[str])
assert_type(bare.map_async([1]), Future[list[float]])
assert_type(bare.map_async([1], return_exceptions=True), Future[list[float | Exception]])
assert_type(three.starmap_async([(1, "a", b"c")]), Future[list[str]])

# --- coroutine functions: called, the coroutine; in parallel, what it returns ---

coroutine: Coroutine[Any, Any, bytes] = fetch("a")
assert_type(fetch.map(["a"]), list[bytes])
assert_type(fetch_called.submit("a"), Future[bytes])
assert_type(fetch.options(workers=2).partial().imap(["a"]), ResultStream[bytes])

# --- variants ---

assert_type(bare.options(workers=2, progress=True).map([1]), list[float])
assert_type(called.partial(1), ParallelFunction[..., list[str]])
assert_type(called.partial(1).map(["a"]), list[list[str]])
bare.options(backend=ThreadPoolExecutor()).shutdown()
bare.shutdown(wait=False)

# --- methods ---


class Model:
    @parallel
    def score(self, x: int) -> float:
        return x / 3

    @parallel(workers=2)
    def label(self, x: int, y: str) -> str:
        return y * x

    @parallel
    async def load(self, url: str) -> bytes:
        return url.encode()

    @staticmethod
    @parallel
    def parse(text: str) -> int:
        return int(text)

    @classmethod
    @parallel
    def build(cls, size: int) -> str:
        return cls.__name__ * size


model = Model()
assert_type(model.score(1), float)
assert_type(model.score.map([1]), list[float])
assert_type(model.label.map([1], ["a"]), list[str])
assert_type(model.label.submit(1, y="a"), Future[str])
assert_type(model.load.map(["a"]), list[bytes])
MYPY = False  # to mypy it is true
if not MYPY:  # a limit of mypy, which does not bind to the class here; at run time it binds
    assert_type(Model.build(1), str)
assert_type(Model.build.map([1]), list[str])
assert_type(model.build.map([1]), list[str])
assert_type(Model.score(model, 1), float)
assert_type(Model.parse("1"), int)

# --- one for each worker ---

made = parmap.per_worker(dict[str, int])
assert_type(made, PerWorker[dict[str, int]])
assert_type(made(), dict[str, int])
assert_type(parmap.per_worker(lambda: closing(StringIO()))(), StringIO)


@parmap.per_worker
@contextmanager
def entered() -> Generator[Model]:
    yield Model()


@parmap.per_worker
def yielded() -> Iterator[Model]:
    yield Model()


assert_type(entered(), Model)
assert_type(yielded(), Model)
assert_type(parmap.worker(), Worker)
assert_type(parmap.worker().index, int)

# --- around ---

assert_type(parmap.cpu_count(), int)
with parmap.override(backend="serial", workers=1):
    pass
parmap.shutdown()
with parmap.report() as report:
    pass
assert_type(report, parmap.Report)
assert_type(str(report), str)
report.summary()
report.save("report.html")


def died(error: WorkerDiedError) -> None:
    assert_type(error.item, int | None)
    assert_type(error.exitcode, int | None)
