"""Lines that type checkers must refuse. Never run: checked by mypy and pyright.

Each wrong line carries an ignore; both checkers report an ignore that is of no use, so this file fails as soon as a
mistake is no longer caught. Where only one of them sees the mistake, the ignore is that one's own.
"""

from __future__ import annotations

from typing import assert_type

import parmap
from parmap import Future, parallel


@parallel
def bare(x: int) -> float:
    return x / 2


@parallel(workers=2)
def two(x: int, y: str) -> str:
    return y * x


@parallel
async def fetch(url: str) -> bytes:
    return url.encode()


class Model:
    @parallel
    def score(self, x: int) -> float:
        return x / 3


model = Model()

# Wrong arguments.
bare("a")  # type: ignore[arg-type]
bare()  # type: ignore[call-arg]
bare.submit("a")  # type: ignore[arg-type]
bare.submit(1, 2)  # type: ignore[call-arg]
two.submit(1, z="a")  # type: ignore[call-arg]
model.score("a")  # type: ignore[arg-type]
model.score.submit()  # type: ignore[call-arg]

# Wrong results.
assert_type(bare(1), int)  # type: ignore[assert-type]
assert_type(bare.map([1]), list[int])  # type: ignore[assert-type]
assert_type(bare.submit(1), Future[int])  # type: ignore[assert-type]
assert_type(bare.map([1], return_exceptions=True), list[float])  # type: ignore[assert-type]
assert_type(model.score.map([1]), list[str])  # type: ignore[assert-type]
assert_type(next(bare.outcomes([1])).result(), int)  # type: ignore[assert-type]
number: float = fetch("a")  # type: ignore[assignment]

# Wrong options: misspelled, or of the wrong type.
parallel(bare, worker=2)  # type: ignore[call-overload]
parallel(worker=2)  # type: ignore[call-overload]
parallel(workers="2")  # type: ignore[call-overload]
parallel(backend="proceses")  # type: ignore[call-overload]
parallel(start_method="fork")  # type: ignore[call-overload]
bare.options(timeout="1")  # type: ignore[arg-type]
bare.options(timout=1)  # type: ignore[call-arg]
parmap.override(backends="serial")  # type: ignore[call-arg]
bare.map([1], chunk=2)  # type: ignore[call-overload]
bare.map([1], buffersize=2)  # type: ignore[call-overload]
bare.map([1], journal=2)  # type: ignore[call-overload]
bare.map_async([1], journal="a")  # type: ignore[call-overload]
parmap.Journal("a", version=2)  # type: ignore[arg-type]
bare.outcomes([1], return_exceptions=True)  # type: ignore[call-overload]
bare.map([1], return_exceptions="yes")  # type: ignore[call-overload]

# Wrong iterables.
bare.map(1)  # type: ignore[call-overload]
bare.map()  # type: ignore[call-overload]
bare.starmap([1])  # type: ignore[list-item]

# Wrong elements, or too many iterables: a limit of mypy, which pyright does not have.
bare.map([1], ["a"])  # pyright: ignore
bare.map(["a"])  # pyright: ignore[reportArgumentType]
bare.outcomes(["a"])  # pyright: ignore[reportArgumentType]
two.map([1], [2])  # pyright: ignore[reportArgumentType]
model.score.map(["a"])  # pyright: ignore[reportArgumentType]

# Wrong factories, and what they make.
parmap.per_worker(3)  # type: ignore[call-overload]
parmap.per_worker(bare)  # type: ignore[arg-type]
assert_type(parmap.per_worker(str)(), int)  # type: ignore[assert-type]
