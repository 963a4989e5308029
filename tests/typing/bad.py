"""Lines that type checkers must refuse. Never run: checked by mypy, pyright and basedpyright.

Each wrong line carries an ignore, which all of them heed; and they report an ignore that is of no use, so this file
fails as soon as a mistake is no longer caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import parmap
from parmap import Future, backends, parallel


@parallel
def bare(x: int) -> float:
    return x / 2


@parallel(workers=2)
def two(x: int, y: str) -> str:
    return y * x


@parallel
def three(a: int, b: str, c: bytes) -> str:
    return f"{a}{b}{c!r}"


@parallel
async def fetch(url: str) -> bytes:
    return url.encode()


class Model:
    @parallel
    def score(self, x: int) -> float:
        return x / 3

    @classmethod
    @parallel
    def build(cls, size: int) -> str:
        return cls.__name__ * size


@parallel
def keyword_only(*, x: int) -> int:
    return x


@parallel
def load(text: str) -> Any:
    return text


def takes(function: Callable[[str], float]) -> None: ...


model = Model()

# Wrong arguments.
bare("a")  # type: ignore[arg-type]
bare()  # type: ignore[call-arg]
bare.submit("a")  # type: ignore[arg-type]
bare.submit(1, 2)  # type: ignore[call-arg]
two.submit(1, z="a")  # type: ignore[call-arg]
model.score("a")  # type: ignore[arg-type]
model.score.submit()  # type: ignore[call-arg]
Model.build("a")  # type: ignore[arg-type]
takes(bare)  # type: ignore[arg-type]
parallel(3)  # type: ignore[call-overload]
load.mapp(["a"])  # type: ignore[attr-defined]

# Wrong results.
assert_type(bare(1), int)  # type: ignore[assert-type]
assert_type(bare.map([1]), list[int])  # type: ignore[assert-type]
assert_type(bare.submit(1), Future[int])  # type: ignore[assert-type]
assert_type(bare.map([1], return_exceptions=True), list[float])  # type: ignore[assert-type]
assert_type(model.score.map([1]), list[str])  # type: ignore[assert-type]
assert_type(next(bare.outcomes([1])).result(), int)  # type: ignore[assert-type]
number: float = fetch("a")  # type: ignore[assignment]
assert_type(fetch.map(["a"]), list[str])  # type: ignore[assert-type]
assert_type(load.map(["a"]), list[str])  # type: ignore[assert-type]

# Wrong options: misspelled, or of the wrong type.
parallel(bare, worker=2)  # type: ignore[call-overload]
parallel(worker=2)  # type: ignore[call-overload]
parallel(workers="2")  # type: ignore[arg-type]
parallel(backend="proceses")  # type: ignore[arg-type]
parallel(start_method="fork")  # type: ignore[arg-type]
bare.options(timeout="1")  # type: ignore[arg-type]
bare.options(timout=1)  # type: ignore[call-arg]
parmap.override(backends="serial")  # type: ignore[call-arg]
bare.map([1], chunk=2)  # type: ignore[call-overload]
bare.map([1], buffersize=2)  # type: ignore[call-overload]
bare.map([1], journal=2)  # type: ignore[call-overload]
bare.map_async([1], journal="a")  # type: ignore[call-overload]
parmap.Journal("a", version=2)  # type: ignore[arg-type]
bare.outcomes([1], return_exceptions=True)  # type: ignore[call-arg]
bare.map([1], return_exceptions="yes")  # type: ignore[call-overload]

# Wrong iterables.
bare.map(1)  # type: ignore[call-overload]
bare.map()  # type: ignore[call-overload]
bare.starmap([1])  # type: ignore[list-item]

# Wrong factories, and what they make.
parmap.per_worker(3)  # type: ignore[call-overload]
parmap.per_worker(bare)  # type: ignore[arg-type]
assert_type(parmap.per_worker(str)(), int)  # type: ignore[assert-type]

# Wrong elements, or too many iterables.
bare.map(["a"])  # type: ignore[list-item]
bare.map(x for x in "ab")  # type: ignore[misc]
bare.map("ab")  # type: ignore[arg-type]
bare.map(["a"], return_exceptions=True)  # type: ignore[list-item]
bare.map([1], ["a"])  # type: ignore[call-overload]
bare.map([1], [2], [3], buffersize=2)  # type: ignore[call-overload]
two.map([1], [2])  # type: ignore[list-item]
three.map(["a"], ["a"], [b"c"])  # type: ignore[list-item]
bare.imap(["a"])  # type: ignore[list-item]
bare.imap_unordered(["a"], buffersize=3)  # type: ignore[list-item]
bare.map_async(["a"])  # type: ignore[list-item]
bare.outcomes(["a"])  # type: ignore[list-item]
fetch.map([1])  # type: ignore[list-item]
model.score.map(["a"])  # type: ignore[list-item]
Model.build.map(["a"])  # type: ignore[list-item]
keyword_only.map([1])  # type: ignore[misc]

# Names that are not there.
parmap.paralel  # type: ignore[attr-defined]
parmap.map(str, [1])  # type: ignore[attr-defined]
backends.Daks  # type: ignore[attr-defined]

# Options of a pool or an executor of one's own.
parmap.Pool(2, workers=2)  # type: ignore[call-arg]
parmap.Executor(2, progress=3)  # type: ignore[arg-type]
