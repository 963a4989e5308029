"""How much makes a good chunk, by what was learnt of a function and what a backend says; how long retries wait."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import ceil
from typing import Any, NamedTuple

BYTE_CAP = 4 << 20
"""Bytes of arguments, or of results, that one chunk carries; an item that is larger travels alone."""

CROWD = 16 * 1024
"""Items of a chunk longer than need be: more, and their results, would push each other out of the caches."""

_ENOUGH = 0.005  # seconds of work from which on the time of an item is believed, and worth being shared out

_ALIKE = 0.1  # of the time of an item: if chunks differ from it by less, what is sent at once is over at once


class Cost(NamedTuple):
    """What a backend says about itself."""

    aim: float
    """Seconds of work that make a chunk worth its trip."""
    depth: int
    """Chunks a worker may hold: one running, the others waiting in its channel."""
    recalls: bool = True
    """Whether a worker gives items of a chunk that it runs back when asked."""
    most: float = 0.0
    """Seconds of work in the chunks of a call that has much left to do, if these may be longer than `aim`.

    A trip costs more than its own code: it takes the caches of the processor from the tasks.
    """
    floor: float = 0.001
    """Seconds of work below which cutting a chunk finer costs more than it balances."""
    deepest: int = 0
    """Chunks a worker may hold, if more than `depth`, as long as they take next to no time."""


def cost_on_cluster(trip: float, workers: int) -> Cost:
    """What a cluster says, whose workers are a *trip* away, in seconds there and back; one client has to feed all."""
    aim = min(1.0, max(0.02, 20 * trip, 0.0005 * workers))
    floor = max(aim / 10, min(aim / 4, 5 * trip))  # a worker waits during each trip
    return Cost(aim=aim, depth=1, recalls=False, most=aim, floor=floor)


class Pace:
    """What was learnt of a function: seconds and bytes of one call, as moving averages."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.spread: float = 1.0  # by how much of that chunks differ from it: most of them by less
        self.nbytes: float = 0.0  # of its arguments
        self.result_nbytes: float = 0.0

    @property
    def is_even(self) -> bool:
        """Whether items are known to take the same time each."""
        return self.spread < _ALIKE

    def learn(self, items: int, seconds: float) -> None:
        """Record that *items* calls took *seconds*."""
        each = seconds / items
        if self.seconds is None:
            self.seconds = each
            return
        off = abs(each - self.seconds) / max(self.seconds, 1e-9)
        self.spread = off if off > self.spread else 0.5 * (self.spread + off)
        if each < self.seconds:
            # A first call that imported or warmed up something says nothing about the next: forget it quickly.
            self.seconds += 0.7 * (each - self.seconds)
        else:
            # Little work tells little: the last items of a call, which travel in small chunks, seem to take longer.
            trust = min(1.0, max(items * self.seconds, seconds) / _ENOUGH)
            self.seconds += 0.5 * trust * (each - self.seconds)

    def learn_bytes(self, items: int, nbytes: int) -> None:
        """Record that the arguments of *items* calls took *nbytes*."""
        self.nbytes = _follow(self.nbytes, nbytes / items)

    def learn_results(self, items: int, results: Any) -> None:
        """Record how large the *results* of so many items are."""
        self.result_nbytes = _follow(self.result_nbytes, _nbytes(results) / items)

    def size(self, cost: Cost, waiting: int, workers: int, *, idle: int, busy: Iterable[float] | None = None) -> int:
        """How many of the *waiting* items the next chunk should have: for one of the *idle* workers, if any is.

        *busy*: seconds for which each worker has work already, if that is known, and items are alike; not looked at
        without need, as there may be many.
        """
        if self.seconds is None:
            return 1
        each = max(self.seconds, 1e-9)
        size = int(cost.aim / each)
        if not idle:
            size = max(size, min(int(cost.most / each), CROWD))
        share = -(-waiting // (2 * workers))
        others = workers * cost.aim - waiting * each
        if waiting > idle > 0 and busy is not None and others >= 0.0 and (left := sum(busy)) <= others:
            # There is little to do, and it is known how long it takes: all get their part at once, and end together.
            # Not where each item has an idle worker: there may be hundreds to look at, for each chunk.
            share = ceil((waiting + left / each) / workers - 0.25)
        chunks = -(-waiting // max(1, int(cost.floor / each)))
        if not cost.recalls:  # from the others, those who have nothing to do would get nothing later
            chunks = max(chunks, min(idle, int(waiting * each / _ENOUGH)))
        least = -(-waiting // chunks)  # as many chunks as that makes, but all of one size
        size = min(size, max(share, least))
        nbytes = max(self.nbytes, self.result_nbytes)
        if nbytes:
            size = min(size, int(BYTE_CAP / nbytes))
        return max(size, 1)


def _nbytes(results: Any) -> float:
    """The bytes of results; of those that never were pickled, as far as the last of them knows."""
    if type(results) is not list:
        return float(getattr(results, "nbytes", 0))
    try:
        return float(len(results) * sys.getsizeof(results[-1]))
    except Exception:  # noqa: BLE001 - a method of the user's
        return 0.0


def _follow(average: float, each: float) -> float:
    """The moving average of a size: quick to grow, slow to shrink."""
    return each if each > average else 0.5 * (average + each)


def jitter() -> float:
    """What a pause is multiplied by: between one half and one and a half, so that many retries don't come at once."""
    import random

    return random.uniform(0.5, 1.5)  # noqa: S311 - no secret
