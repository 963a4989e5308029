"""The items that wait for a retry: the next one, those of a job, and any task of them, are found at once among many."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parmap._core.job import Job

_FEW = 100


class Delayed:
    """Items that wait until it is time for them, each by a ticket of its own."""

    def __init__(self) -> None:
        self._times: list[tuple[float, int]] = []  # a heap; a ticket of it may be no more
        self._jobs: dict[int, Job] = {}
        self._tasks: dict[tuple[int, int], int] = {}  # by job and item: a task of `submit` is an object of its own
        self._tickets = count()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, when: float, job: Job, index: int, items: Any) -> None:
        """Let the one item in *items* wait; it is number *index* of its job."""
        ticket = next(self._tickets)
        self._jobs[ticket] = job
        job.delayed[ticket] = index, items
        if type(items) is list:
            self._tasks[id(job), id(items[0])] = ticket
        heapq.heappush(self._times, (when, ticket))
        if len(self._times) > 2 * len(self._jobs) + _FEW:
            self._times = [entry for entry in self._times if entry[1] in self._jobs]
            heapq.heapify(self._times)

    def next_time(self) -> list[float]:
        """When the first of them is due, if there are any."""
        while self._times and self._times[0][1] not in self._jobs:
            heapq.heappop(self._times)
        return [when for when, _ in self._times[:1]]

    def take_due(self, now: float) -> Iterator[tuple[Job, int, Any]]:
        """Take out those whose time has come."""
        while (when := self.next_time()) and when[0] <= now:
            ticket = self._times[0][1]
            job = self._jobs[ticket]
            yield job, *self._take(job, ticket)

    def take(self, job: Job, item: Any) -> int | None:
        """Take a task out; returns its number, if it is there."""
        ticket = self._tasks.get((id(job), id(item)))
        return None if ticket is None else self._take(job, ticket)[0]

    def take_all(self, job: Job) -> list[tuple[int, Any]]:
        """Take the items out of *job*, each with its number."""
        return [self._take(job, ticket) for ticket in [*job.delayed]]

    def _take(self, job: Job, ticket: int) -> tuple[int, Any]:
        del self._jobs[ticket]
        index, items = job.delayed.pop(ticket)
        if type(items) is list:
            self._tasks.pop((id(job), id(items[0])), None)
        return index, items

    def hurry(self) -> None:
        """Let all of them be due, in the order in which they came."""
        self._times = [(0.0, ticket) for ticket in self._jobs]

    def jobs(self) -> dict[Job, None]:
        """The jobs that have some."""
        return dict.fromkeys(self._jobs.values())
