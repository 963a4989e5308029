"""`Outcome`: what became of one item, told as it is, whether there is a result or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parmap._results.batch import Arrival, Batch, Decoded
from parmap._travel.pack import Packed
from parmap._travel.text import shorten

if TYPE_CHECKING:
    from parmap._core.job import Chunk
    from parmap._travel.failure import Voice

R_co = TypeVar("R_co", covariant=True)


class Outcome(Generic[R_co]):
    """What became of one item: what `outcomes` gives.

    Example:
        >>> from parmap import parallel
        >>> outcomes = list(parallel(float, workers=2).outcomes(["1.5", "x"]))
        >>> [outcome.value for outcome in outcomes if outcome.ok]
        [1.5]
        >>> [outcome.item for outcome in outcomes if not outcome.ok]
        ['x']
    """

    __slots__ = {  # noqa: RUF023 - in the order in which one wants to read them
        "index": "The number of the item in the input, from 0.",
        "item": "The item: the object of the input itself; of several iterables, the tuple of their items.",
        "value": "What the function returned; None if it failed.",
        "error": "What it failed with, the death of its worker and a timeout included; None if it did not.",
        "seconds": "How long its last attempt took, in the worker; None if nobody can tell.",
        "attempts": "How often it was tried; 0 if a deadline came first.",
        "worker": "Which worker ran it: its index, as `parmap.worker` tells it there; None if nobody can tell.",
    }

    def __init__(
        self,
        index: int,
        item: Any,
        value: R_co | None = None,
        error: BaseException | None = None,
        *,
        seconds: float | None = None,
        attempts: int = 1,
        worker: int | None = None,
    ) -> None:
        """Made by `outcomes`."""
        self.index: int = index
        self.item: Any = item
        self.value: R_co | None = value
        self.error: BaseException | None = error
        self.seconds: float | None = seconds
        self.attempts: int = attempts
        self.worker: int | None = worker

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.error is None

    def result(self) -> R_co:
        """The value.

        Raises:
            BaseException: the error, if there is one.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None may be what the function returns

    def __repr__(self) -> str:
        end = shorten(self.value) if self.error is None else f"{type(self.error).__name__}"
        return f"<parmap.Outcome {self.index} of {shorten(self.item)}: {end}>"


class Accounts(Batch):
    """The sink of a call that wants an account of each item."""

    def arrival(self, arrival: Arrival, chunk: Chunk) -> Arrival:
        """Add the attempts of each item."""
        tries = {place: len(failure.earlier) + failure.begun for place, failure in arrival.failures.items()}
        if chunk.job.retries and not arrival.failures:
            tries = {place: 1 + len(chunk.job.attempts.get(chunk.start + place, ())) for place in range(arrival.done)}
        return arrival._replace(attempts={place: count for place, count in tries.items() if count != 1})

    def decode(self, arrival: Arrival, voice: Voice) -> Decoded:
        """All outcomes of an arrival, as values; no error is left beside them."""
        accounts, errors, problems = super().decode(arrival, voice)
        return told(arrival, accounts, errors | problems), {}, {}


def told(arrival: Arrival, accounts: list[Any], errors: dict[int, BaseException]) -> list[Any]:
    """The outcomes of an arrival."""
    outcomes: list[Any] = []
    for place, (item, account) in enumerate(zip(arrival.items, accounts, strict=False)):
        failure = arrival.failures.get(place)
        seconds, worker = failure.account if failure else (None, None)
        value, seconds, worker = account or (None, seconds, worker)
        attempts = arrival.attempts.get(place, 1)
        given = item.item if type(item) is Packed else item
        index, error = arrival.start + place, errors.get(place)
        outcomes.append(Outcome(index, given, value, error, seconds=seconds, attempts=attempts, worker=worker))
    return outcomes
