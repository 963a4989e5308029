"""Lines that type checkers must accept, with the types they must infer. Never run.

Checked by mypy, pyright, basedpyright, ty and pyrefly, each as strict as it can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from io import StringIO
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, assert_type, overload

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
def two_of(x: int, y: str, *, scale: int = 1) -> str:
    return y * x * scale


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
assert_type(parallel(lambda: str(3))(), str)
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


def tell(future: Future[float]) -> None: ...
def tell_any(future: futures.Future[float]) -> None: ...


bare.submit(1).add_done_callback(tell)
bare.submit(1).add_done_callback(tell_any)
bare.submit(1).add_done_callback(lambda future: future.async_result.get(3))
wider: parmap.AsyncResult[float | None] = bare.submit(1).async_result
assert_type(next(futures.as_completed([bare.submit(1)])).result(), float)
assert_type(futures.wait([bare.submit(1)]).done.pop().result(), float)

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

with parmap.Pool(2, progress=True, deadline=60.0, seed=1) as own, parmap.Executor(2, traceback_locals=True) as executor:
    assert_type(own.map(bare, [1]), list[float])
    assert_type(executor.submit(bare, 1), Future[float])

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
assert_type(Model.build(1), str)
assert_type(Model().build(1), str)
assert_type(Model.build.map([1]), list[str])  # ty: ignore[type-assertion-failure, invalid-argument-type]
assert_type(model.build.map([1]), list[str])  # ty: ignore[type-assertion-failure, invalid-argument-type]
assert_type(Model.score(model, 1), float)
assert_type(Model.parse("1"), int)
assert_type(model.parse("1"), int)
assert_type(model.parse.map(["1"]), list[int])


@dataclass(frozen=True)
class Order:
    amount: int
    currency: str = "EUR"

    @parallel(workers=2)
    def priced(self, rate: float, /, *, digits: int = 2) -> float:
        return round(self.amount * rate, digits)

    @classmethod
    @parallel
    async def fetched(cls, number: int) -> str:
        return cls.__name__ * number


order = Order(3)
assert_type(order.priced(1.5, digits=1), float)
assert_type(order.priced.map([1.5]), list[float])
assert_type(order.priced.partial(digits=1).map([1.5]), list[float])
assert_type(Order.priced.map([order], [1.5]), list[float])
assert_type(Order.fetched.map([1]), list[str])  # ty: ignore[type-assertion-failure, invalid-argument-type]
assert_type(parallel(Order.fetched).submit(1), Future[str])
assert_type(parallel(Order).map([1], ["USD"]), list[Order])

# --- results of Any ---


@parallel
def load(text: str) -> Any:
    return json.loads(text)


@parallel(workers=2)
def load_called(text: str, *, strict: bool = True) -> Any:
    return json.loads(text)


class Store:
    @parallel
    def load(self, key: str) -> Any:
        return json.loads(key)


load("{}")["key"]
load_called("{}", strict=False).anything
load.submit("{}").result()["key"]
Store().load("{}")["key"]
assert_type(load.map(["{}"]), list[Any])  # ty: ignore[type-assertion-failure]
assert_type(load_called.imap(["{}"], buffersize=3), ResultStream[Any])  # ty: ignore[type-assertion-failure]
assert_type(Store().load.map(["{}"]), list[Any])  # ty: ignore[type-assertion-failure]
assert_type(parallel(json.loads).map(["{}"]), list[Any])  # ty: ignore[type-assertion-failure]
assert_type(parallel(json.loads, workers=2).map(["{}"]), list[Any])  # ty: ignore[type-assertion-failure]
parallel(lambda x: x)(1) + 1
parallel(lambda x: x, workers=2).map([1])[0].anything
parallel(lambda x, y: x + y).map([1], [2])
parallel(lambda x: x * 2).submit(3).result()
for element in parallel(lambda x: x * 2).imap([1]):
    element + 1

# --- builtins, classes, partials ---

name: str = json.dumps("a")

assert_type(parallel(math.sqrt).map([1.0, 2.0]), list[float])
assert_type(parallel(int).map(["1"]), list[int])
assert_type(parallel(str.upper).map(["a"]), list[str])
assert_type(parallel(name.startswith).map(["a"]), list[bool])
assert_type(parallel(partial(two_of, scale=3)).submit(1, "a"), Future[str])
parallel(abs).map([-1])
parallel(abs, workers=2).map_async([-1])
parallel(sum).map([[1, 2]])
parallel(pow, workers=2).map([2], [3])
parallel(pow).starmap([(2, 3)])
parallel(partial(pow, 2)).map([3])
parallel(partial(two_of, scale=3)).map([1], ["a"])

# --- generic functions, and libraries built on parmap ---

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


@parallel
def first(items: Sequence[T]) -> T:
    return items[0]


@parallel(workers=2)
def twice(item: T) -> list[T]:
    return [item, item]


first([1])
first.map([[1], [2]])
first.submit("ab").result()
twice(1)
twice.map(["a"])


class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    @parallel
    def times(self, count: int) -> list[T]:
        return [self.value] * count


assert_type(Box("a").times(2), list[str])
assert_type(Box("a").times.map([2]), list[list[str]])


def scored(function: Callable[P, R]) -> ParallelFunction[P, R]:
    return parallel(function, workers=2)


def everything(function: Callable[[T], R], items: list[T]) -> list[R]:
    return parallel(function).map(items)


def with_options(*, workers: int) -> Callable[[Callable[P, R]], ParallelFunction[P, R]]:
    def decorate(function: Callable[P, R]) -> ParallelFunction[P, R]:
        return parallel(workers=workers)(function)

    return decorate


@scored
def three_times(x: int) -> int:
    return 3 * x


@with_options(workers=3)
def four_times(x: int) -> int:
    return 4 * x


assert_type(three_times.map([1]), list[int])
assert_type(four_times.submit(1), Future[int])
assert_type(everything(three_times, [1]), list[int])
assert_type(everything(len, ["a"]), list[int])

# --- what stands above and below: wrappers, overloads, other decorators ---


def logged(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return inner


@parallel
@logged
def under(x: int) -> str:
    return str(x)


@logged
@parallel
def above(x: int) -> str:
    return str(x)


@wraps(bare)
def like_bare(x: int) -> float:
    return bare(x)


@overload
def either(x: int) -> int: ...
@overload
def either(x: str) -> str: ...
def either(x: int | str) -> int | str:
    return x


assert_type(under.map([1]), list[str])
assert_type(above(1), str)
assert_type(like_bare(1), float)
parallel(either)(1)
parallel(either).map([1])

# --- functions that take functions ---


class Scorer(Protocol):
    def __call__(self, x: int) -> float: ...


class Named(Protocol):
    __name__: str

    def __call__(self, x: int, /) -> float: ...


def takes(function: Callable[[int], float], scorer: Scorer, named: Named) -> None:
    assert_type(parallel(scorer).map([1]), list[float])


takes(bare, bare, bare)
takes(model.score, model.score, model.score)
sorted([1], key=bare)
list(map(bare, [1]))
table: dict[str, Callable[[int], float]] = {"bare": bare}

# --- other inputs ---


def numbers() -> Iterator[int]:
    yield 1


async def later() -> AsyncIterator[int]:
    yield 1


assert_type(bare.map(numbers()), list[float])
assert_type(bare.map(x for x in range(3)), list[float])
assert_type(bare.map({1: "a"}), list[float])
assert_type(bare.imap(later()), ResultStream[float])
assert_type(called.imap([1], "ab"), ResultStream[list[str]])

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
