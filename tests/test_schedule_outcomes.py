"""What the scheduler makes of deaths, errors, retries and cancelled work: a fake backend and a fake clock."""

from __future__ import annotations

import pytest
from fake_backend import COST, Bench, failed, paced

from parmap._core.job import Chunk
from parmap._core.schedule import STRIKES, Scheduler

# --- deaths ---------------------------------------------------------------------------------------


def bury(bench: Bench, chunk: Chunk, position: tuple[int, int] | None, *, retry: bool = False) -> None:
    """The worker of a chunk dies; another takes its place."""
    slot = chunk.slot
    chunks = bench.scheduler.remove_slot(slot)
    bench.scheduler.died(chunk, position, failed(retry=retry), bench.now)
    for other in chunks[1:]:
        bench.scheduler.put_back(other)
    bench.scheduler.add_slot((slot, "next"))


def test_death_costs_one_item() -> None:
    """The item that ran ends with the failure, the others wait again in order."""
    bench = Bench(workers=1)
    job = bench.job(range(6), chunksize=6, pace=paced(1e-5))
    chunk = bench.cut()
    assert chunk is not None

    bury(bench, chunk, (2, 1))

    assert list(job.sink.outcomes) == [2]
    assert [(again.start, list(again.items)) for again in bench.cut_all()] == [(0, [0, 1]), (3, [3, 4, 5])]


def test_death_in_a_block_is_looked_into_one_by_one() -> None:
    """When a block of items ran, all of them run again, carefully; those around it as before."""
    bench = Bench(workers=1)
    job = bench.job(range(9), chunksize=9)
    chunk = bench.cut()
    assert chunk is not None

    bury(bench, chunk, (3, 4))
    again = []
    while (cut := bench.cut()) is not None:
        again.append((list(cut.items), cut.careful))
        bench.finish(cut)

    assert again == [([0, 1, 2], False), ([3, 4, 5, 6], True), ([7, 8], False)]
    assert job.sink.outcomes == dict.fromkeys(range(9), "ok")


def test_death_before_the_start_costs_nothing() -> None:
    """A worker that died before its chunk began costs no item."""
    bench = Bench(workers=1)
    job = bench.job(range(5), chunksize=5)
    chunk = bench.cut()
    assert chunk is not None

    bury(bench, chunk, None)

    assert job.sink.outcomes == {}
    assert job.waiting == 5


def test_chunk_that_kills_before_it_starts_pays_in_the_end() -> None:
    """A chunk that no worker survives is not sent for ever: its first item is charged, the rest goes on."""
    bench = Bench(workers=1)
    job = bench.job(range(5), chunksize=5)

    for _ in range(STRIKES):
        chunk = bench.cut()
        assert chunk is not None
        bury(bench, chunk, None)

    assert list(job.sink.outcomes) == [0]
    assert job.waiting == 4


def test_only_what_was_lost_alone_pays() -> None:
    """Where nobody can tell what had begun, the items of a chunk that is lost again go one by one, and know why."""
    bench = Bench(workers=1)
    job = bench.job(range(3), chunksize=3)
    for strikes in range(2):
        chunk = bench.cut()
        assert chunk is not None
        assert (chunk.careful, chunk.strikes) == (False, strikes)
        bury(bench, chunk, None)
    chunk = bench.cut()
    assert chunk is not None
    assert chunk.careful
    bench.scheduler.trim(chunk, 1, chunk.strikes)  # as a cluster takes it
    bench.finish(chunk)
    chunk = bench.cut()
    assert chunk is not None
    bench.scheduler.trim(chunk, 1, chunk.strikes)
    assert (list(chunk.items), chunk.strikes) == ([1], 2)
    bury(bench, chunk, None)

    assert [*job.sink.outcomes] == [0, 1]
    assert job.sink.outcomes[0] == "ok" != job.sink.outcomes[1]
    assert job.waiting == 1


def test_cancelled_item_of_a_killed_worker_has_no_outcome() -> None:
    """A task for whose sake its worker was killed vanishes, the others wait again."""
    bench = Bench(workers=1)
    job = bench.job(range(3), chunksize=3)
    chunk = bench.cut()
    assert chunk is not None
    bench.scheduler.remove_slot(0)

    bench.scheduler.died(chunk, (1, 1), None, bench.now)

    assert job.sink.outcomes == {}
    assert list(job.left()) == [0, 2]


def test_removed_slot_returns_its_chunks_running_first() -> None:
    """A dead worker's chunks are told in the order in which it would have run them."""
    bench = Bench(workers=1)
    bench.job(range(10_000), pace=paced(1e-5))
    chunks = bench.cut_all()

    assert bench.scheduler.remove_slot(0) == chunks
    assert bench.scheduler.remove_slot(0) == []


# --- retries --------------------------------------------------------------------------------------


def test_failure_that_may_be_retried_is_not_told() -> None:
    """An item that gets another attempt has no outcome yet, and the job has not ended."""
    bench = Bench(workers=1)
    job = bench.job(range(1), retries=1, retry_delay=1.0)
    chunk = bench.cut()
    assert chunk is not None

    bench.finish(chunk, failures={0: failed(retry=True)})

    assert job.sink.outcomes == {}
    assert not job.sink.ended
    assert not bench.scheduler.is_idle


def test_retry_waits_its_delay() -> None:
    """An item comes back after its delay, not before, and the scheduler says when."""
    bench = Bench(workers=1)
    bench.job(range(1), retries=1, retry_delay=1.0)
    chunk = bench.cut()
    assert chunk is not None
    bench.finish(chunk, failures={0: failed(retry=True)})
    due = bench.now + 1.0

    assert bench.scheduler.next_time() == due
    bench.now = due - 0.001
    assert bench.cut() is None
    bench.now = due
    again = bench.cut()
    assert again is not None
    assert list(again.items) == [0]


def test_delay_doubles_with_jitter() -> None:
    """Each delay is twice the one before, times the jitter."""
    scheduler = Scheduler(1, COST, jitter=lambda: 1.5)
    bench = Bench(workers=1)
    bench.scheduler = scheduler
    scheduler.add_slot(0)
    bench.job(range(1), retries=3, retry_delay=1.0)
    delays = []

    for _ in range(3):
        chunk = bench.cut()
        assert chunk is not None
        bench.finish(chunk, failures={0: failed(retry=True)})
        due = scheduler.next_time()
        assert due is not None
        delays.append(due - bench.now)
        bench.now = due

    assert delays == pytest.approx([1.5, 3.0, 6.0])


def test_retries_without_end() -> None:
    """However often an item has failed, the delay is a number; when it has come through, its failures are forgotten."""
    bench = Bench(workers=1)
    job = bench.job(range(2), retries=3000, retry_delay=1.0)
    for _ in range(2000):
        chunk = bench.cut()
        assert chunk is not None
        bench.finish(chunk, failures={0: failed(retry=True)} if chunk.start == 0 else None)
        bench.now = max(bench.now, bench.scheduler.next_time() or 0.0)
    assert list(job.attempts) == [0]
    assert len(job.attempts[0]) > 1024
    while (chunk := bench.cut()) is not None:
        bench.finish(chunk)

    assert job.closed
    assert not job.attempts


def test_retries_end_with_the_last_failure() -> None:
    """After the last attempt the item fails, and its failure knows those before."""
    bench = Bench(workers=1)
    job = bench.job(range(1), retries=2)
    failures = [failed(retry=True) for _ in range(3)]

    for failure in failures:
        chunk = bench.cut()
        assert chunk is not None
        bench.finish(chunk, failures={0: failure})

    assert job.sink.outcomes == {0: failures[2]}
    assert failures[2].earlier == tuple(failures[:2])
    assert job.sink.ended


def test_failure_outside_retry_on_is_final() -> None:
    """A failure that `retry_on` does not cover is not retried."""
    bench = Bench(workers=1)
    job = bench.job(range(1), retries=5)
    chunk = bench.cut()
    assert chunk is not None

    bench.finish(chunk, failures={0: failed(retry=False)})

    assert 0 in job.sink.outcomes


def test_death_is_retried() -> None:
    """An item whose worker died is tried again, if retries cover it."""
    bench = Bench(workers=1)
    job = bench.job(range(1), retries=1)
    chunk = bench.cut()
    assert chunk is not None

    bury(bench, chunk, (0, 1), retry=True)
    again = bench.cut()
    assert again is not None
    bench.finish(again)

    assert job.sink.outcomes == {0: "ok"}


def test_items_that_were_taken_back_have_one_outcome() -> None:
    """A worker that ran them all the same is believed no more: their outcome is that of whoever has them now."""
    bench = Bench(workers=2)
    job = bench.job(list(range(10)), chunksize=10, pace=paced(1e-5))
    chunk = bench.cut()
    assert chunk is not None
    bench.scheduler.trim(chunk, 4)
    (rest,) = bench.cut_all()

    bench.finish(chunk, 10, {2: failed(), 7: failed()})

    assert sorted(job.sink.outcomes) == [0, 1, 2, 3]
    bench.finish(rest)
    assert [index for index in range(10) if job.sink.outcomes[index] != "ok"] == [2]


def test_retry_goes_alone_to_the_end() -> None:
    """An item that fills a gap comes by itself, though its worker dies before it begins and others wait behind it."""
    bench = Bench(workers=1)
    job = bench.job(list(range(6)), chunksize=6, retries=1, pace=paced(1e-5))
    block = bench.cut()
    assert block is not None
    bury(bench, block, (0, 6))  # all are run again, one by one: none is quick any more
    again = bench.cut()
    assert again is not None
    bury(bench, again, (0, 1), retry=True)
    retry = bench.cut()
    assert retry is not None
    assert retry.items == [0]

    bury(bench, retry, None)

    assert [chunk.items for chunk in bench.cut_all()] == [[0], [1, 2, 3, 4, 5]]
    assert not job.sink.ended


def test_delayed_item_holds_no_worker() -> None:
    """While an item waits for its retry, others run."""
    bench = Bench(workers=1)
    job = bench.job(range(3), retries=1, retry_delay=60.0, chunksize=1)
    chunk = bench.cut()
    assert chunk is not None
    bench.finish(chunk, failures={0: failed(retry=True)})

    while (cut := bench.cut()) is not None:
        bench.finish(cut)

    assert job.sink.outcomes == {1: "ok", 2: "ok"}
    assert not job.sink.ended


# --- ends -----------------------------------------------------------------------------------------


def test_job_ends_when_all_is_done() -> None:
    """The sink hears of the end once, after the last outcome."""
    bench = Bench()
    job = bench.job(range(50))

    while (chunk := bench.cut()) is not None:
        bench.finish(chunk)

    assert len(job.sink.outcomes) == 50
    assert (job.sink.ended, job.sink.failure, job.sink.left) == (True, None, [])
    assert bench.scheduler.is_idle


def test_empty_job_ends_at_once() -> None:
    """A job without items ends as soon as it is added."""
    assert Bench().job(range(0)).sink.ended


def test_open_job_waits_for_more() -> None:
    """A job that may get more items does not end when it runs dry."""
    bench = Bench()
    job = bench.job(range(1), open_end=True)
    chunk = bench.cut()
    assert chunk is not None
    bench.finish(chunk)

    assert not job.sink.ended
    job.open_end = False
    bench.scheduler.add(job)
    assert job.sink.ended


def test_first_failure_ends_a_fail_fast_job() -> None:
    """Failing fast tells the failure at once, drops what waits, and names what still runs."""
    bench = Bench(workers=2)
    job = bench.job(range(100), fail_fast=True)
    first, second = bench.cut_all()
    failure = failed()

    running = bench.finish(second, failures={0: failure})

    assert running == [first]
    assert job.sink.failure is failure
    assert bench.cut() is None


def test_failure_stays_in_place_without_fail_fast() -> None:
    """A job that does not fail fast goes on after a failure."""
    bench = Bench(workers=1)
    job = bench.job(range(3), chunksize=1)

    while (chunk := bench.cut()) is not None:
        bench.finish(chunk, failures={0: failed()} if chunk.start == 1 else None)

    assert [job.sink.outcomes[index] == "ok" for index in range(3)] == [True, False, True]


def test_lowest_failure_of_a_chunk_is_raised() -> None:
    """When several items of a chunk failed, the first in order is the one that is told."""
    bench = Bench(workers=1)
    job = bench.job(range(4), fail_fast=True, chunksize=4)
    chunk = bench.cut()
    assert chunk is not None
    failures = {3: failed(), 1: failed()}

    bench.finish(chunk, failures=failures)

    assert job.sink.failure is failures[1]


def test_cancel_names_everything_left() -> None:
    """Cancelling drops what waits, runs and is delayed; the sink hears of each."""
    bench = Bench(workers=2)
    job = bench.job(range(5), chunksize=1, retries=1, retry_delay=9.0, pace=paced(1e-5))
    first, *rest = bench.cut_all()
    bench.finish(first, failures={0: failed(retry=True)})

    running = bench.scheduler.cancel(job)

    assert set(running) == set(rest)
    assert sorted(job.sink.left) == [0, 1, 2, 3, 4]
    assert not bench.scheduler.delayed


def test_cancel_twice_is_harmless() -> None:
    """The second cancel does nothing."""
    bench = Bench()
    job = bench.job(range(5))
    bench.scheduler.cancel(job)

    assert bench.scheduler.cancel(job) == []


def test_late_report_of_a_cancelled_job_is_ignored() -> None:
    """What comes back of a job that has ended reaches nobody, and frees its worker."""
    bench = Bench(workers=1)
    job = bench.job(range(10), chunksize=5)
    chunk = bench.cut()
    assert chunk is not None
    bench.scheduler.cancel(job)

    bench.finish(chunk, done=2)

    assert job.sink.outcomes == {}
    assert bench.scheduler.is_idle


def test_dropped_item_never_runs() -> None:
    """An item taken out while it waits is skipped, the numbers of the others hold, and the job ends."""
    bench = Bench(workers=1)
    job = bench.job(list(range(6)), chunksize=6)
    for item in (0, 3):
        bench.scheduler.drop(job, item)

    while (chunk := bench.cut()) is not None:
        bench.finish(chunk)

    assert sorted(job.sink.outcomes) == [1, 2, 4, 5]
    assert job.sink.ended


def test_dropping_all_items_ends_the_job() -> None:
    """A job all of whose items were taken out ends when its turn comes."""
    bench = Bench(workers=1)
    job = bench.job(list(range(3)))
    for item in range(3):
        bench.scheduler.drop(job, item)

    assert bench.cut() is None
    assert job.sink.ended


def test_drop_of_a_delayed_item() -> None:
    """An item that waits for a retry can be taken out, too."""
    bench = Bench(workers=1)
    job = bench.job([0], retries=1, retry_delay=5.0)
    chunk = bench.cut()
    assert chunk is not None
    bench.finish(chunk, failures={0: failed(retry=True)})

    bench.scheduler.drop(job, 0)

    assert job.sink.ended
    assert bench.scheduler.next_time() is None


class Task(int):
    """A number that counts how often one is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Task.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_each_of_many_delayed_items_is_dropped_at_once() -> None:
    """None is looked for among the others, and what was dropped keeps no time; the others are due when they were."""
    bench = Bench(workers=1)
    tasks = [Task(number) for number in range(1000)]
    job = bench.job(tasks, chunksize=1000, retries=1, retry_delay=5.0)
    chunk = bench.cut()
    assert chunk is not None
    bench.finish(chunk, failures=dict.fromkeys(range(1000), failed(retry=True)))

    for task in reversed(tasks[1:]):
        bench.scheduler.drop(job, task)

    assert Task.compared < 3000
    assert [items for _, items in job.delayed.values()] == [tasks[:1]]
    bench.now += 10.0
    (last,) = bench.cut_all()
    assert last.items == tasks[:1]
    bench.finish(last)
    assert job.sink.ended
    assert bench.scheduler.next_time() is None


def test_find_names_the_chunk_of_an_item() -> None:
    """An item in flight is found in its chunk, one that waits is in none."""
    bench = Bench(workers=1)
    job = bench.job(list(range(10)), chunksize=2, pace=paced(1e-5))
    first, second = bench.cut_all()

    assert bench.scheduler.find(job, 1) is first
    assert bench.scheduler.find(job, 2) is second
    assert bench.scheduler.find(job, 9) is None
