"""The scheduler, without workers and without time: a fake backend and a fake clock."""

from __future__ import annotations

import pytest
from fake_backend import COST, Bench, failed

from parmap._job import Chunk, Job, Pace
from parmap._schedule import BYTE_CAP, SHORT, STRIKES, Cost, Scheduler


def paced(seconds: float, nbytes: float = 0.0) -> Pace:
    """What would be known of a function whose calls take so long, and so many bytes."""
    pace = Pace()
    pace.seconds = seconds
    pace.nbytes = nbytes
    return pace


def sizes(chunks: list[Chunk]) -> list[int]:
    """How many items each chunk has."""
    return [len(chunk.items) for chunk in chunks]


# --- size ---------------------------------------------------------------------------------------


def test_first_chunks_have_one_item() -> None:
    """Of an unknown function each worker gets one item, and no more."""
    bench = Bench(workers=3)
    bench.job(range(1000))

    assert sizes(bench.cut_all()) == [1, 1, 1]


@pytest.mark.parametrize(("seconds", "size"), [(1e-6, 5000), (1e-4, 50), (0.001, 5), (0.004, 1), (1.0, 1)])
def test_chunk_is_worth_the_aim(seconds: float, size: int) -> None:
    """A chunk has as many items as make up the aim of the backend, at least one."""
    bench = Bench()
    bench.job(range(1_000_000), pace=paced(seconds))

    chunk = bench.cut()

    assert chunk is not None
    assert abs(len(chunk.items) - size) <= 1


def test_size_follows_measured_time() -> None:
    """After the first report, the size follows from the time that items took."""
    bench = Bench(workers=1)
    bench.job(range(100_000))

    first = bench.cut()
    assert first is not None
    bench.finish(first, each=1e-5)
    second = bench.cut()

    assert second is not None
    assert 450 <= len(second.items) <= 550


def test_slow_first_call_is_soon_forgotten() -> None:
    """A first call that warmed something up does not keep the chunks small."""
    pace = Pace()
    pace.learn(1, 1.0)
    for _ in range(10):
        pace.learn(1, 1e-5)

    assert pace.seconds is not None
    assert pace.seconds < 1e-3


def test_tail_is_guided() -> None:
    """A chunk is never more than its share of what remains, while items are worth a cut."""
    bench = Bench(workers=2)
    job = bench.job(range(40), pace=paced(0.0005))  # the aim alone would give ten

    while job.waiting:
        before = job.waiting
        chunk = bench.cut()
        assert chunk is not None
        assert len(chunk.items) <= max(-(-before // 4), 2)
        bench.finish(chunk, each=0.0005)


def test_tail_of_tiny_items_is_not_cut_to_crumbs() -> None:
    """Items that take next to nothing are not cut finer than about a millisecond of work."""
    bench = Bench(workers=2)
    bench.job(range(100), pace=paced(1e-6))

    assert sizes(bench.cut_all()) == [100]


def test_given_chunksize_is_kept() -> None:
    """With `chunksize`, every chunk has that size, but the last."""
    bench = Bench(workers=2)
    bench.job(range(10), chunksize=4, pace=paced(1e-5))

    assert sizes(bench.cut_all()) == [4, 4, 2]


def test_bytes_are_capped() -> None:
    """A chunk carries no more bytes of arguments than the cap, an item above it travels alone."""
    bench = Bench(workers=1)
    bench.job(range(10_000), pace=paced(1e-6, nbytes=BYTE_CAP / 10))
    alone = Bench(workers=1)
    alone.job(range(10_000), pace=paced(1e-6, nbytes=BYTE_CAP * 3))

    assert sizes(bench.cut_all())[0] == 10
    assert sizes(alone.cut_all())[0] == 1


def test_range_is_sliced() -> None:
    """A range is cut into ranges, never walked."""
    bench = Bench(workers=1)
    bench.job(range(10**12), pace=paced(1e-6))

    chunk = bench.cut()

    assert chunk is not None
    assert type(chunk.items) is range


def test_lists_that_follow_each_other_are_joined() -> None:
    """Items that came one by one, as those of submit do, travel together."""
    bench = Bench(workers=1)
    job = bench.job([0], pace=paced(1e-6))
    for number in range(1, 10):
        job.extend([number])
    bench.scheduler.add(job)

    assert [list(chunk.items) for chunk in bench.cut_all()] == [list(range(10))]


# --- depth ----------------------------------------------------------------------------------------


def test_second_chunk_waits_behind_a_short_one() -> None:
    """Short chunks go out two to a worker, so that it never idles for a round trip."""
    bench = Bench(workers=1)
    bench.job(range(10_000), pace=paced(1e-5))

    chunks = bench.cut_all()

    assert [chunk.slot for chunk in chunks] == [0, 0]
    assert [chunk.place for chunk in chunks] == [0, 1]


def test_nothing_waits_behind_a_slow_item() -> None:
    """Slow items go out one at a time."""
    bench = Bench(workers=2)
    bench.job(range(100), pace=paced(2 * SHORT))

    assert sizes(bench.cut_all()) == [1, 1]


def test_nothing_waits_behind_an_unknown_item() -> None:
    """Before anything is known of a function, one item goes to each worker."""
    bench = Bench(workers=2)
    bench.job(range(100))

    assert sizes(bench.cut_all()) == [1, 1]


def test_nothing_waits_behind_a_chunk_that_runs_late() -> None:
    """A worker whose chunk takes longer than expected gets no second one."""
    bench = Bench(workers=1)
    bench.job(range(10_000), pace=paced(1e-5))
    bench.cut()
    bench.now += 1.5 * SHORT

    assert bench.cut() is None


def test_backend_without_depth_gets_one_chunk() -> None:
    """A backend that can't queue holds one chunk per worker."""
    bench = Bench(workers=1, cost=Cost(aim=0.005, depth=1))
    bench.job(range(10_000), pace=paced(1e-5))

    assert len(bench.cut_all()) == 1


def test_idle_worker_comes_before_a_second_chunk() -> None:
    """A chunk waits behind another only when no worker is idle."""
    bench = Bench(workers=3)
    bench.job(range(10_000), pace=paced(1e-5))

    assert [chunk.slot for chunk in bench.cut_all()] == [0, 1, 2, 0, 1, 2]


# --- back again -----------------------------------------------------------------------------------


def test_rest_given_back_comes_first() -> None:
    """Items that a worker did not start are the next to be cut, with their own numbers."""
    bench = Bench(workers=1)
    job = bench.job(range(100), chunksize=10, pace=paced(1e-5))
    chunk, second = bench.cut_all()

    bench.finish(chunk, done=3)
    again = bench.cut()

    assert again is not None
    assert (again.start, list(again.items)) == (3, [3, 4, 5, 6, 7, 8, 9])
    assert second.start == 10
    assert job.sink.order == [0, 1, 2]


def test_trim_leaves_the_first_items() -> None:
    """Of a trimmed chunk the first items run, the others wait again, and a budget gets its tasks back."""
    bench = Bench(workers=1, budget=10)
    job = bench.job(range(100), chunksize=8)
    chunk = bench.cut()
    assert chunk is not None

    bench.scheduler.trim(chunk, 3)

    assert list(chunk.items) == [0, 1, 2]
    assert job.waiting == 97
    assert bench.scheduler.slots[0].budget == 7


def test_released_chunk_runs_no_more() -> None:
    """A chunk that was put back leaves its worker idle, and all its items wait."""
    bench = Bench(workers=1)
    job = bench.job(range(10), chunksize=5)
    chunk = bench.cut()
    assert chunk is not None

    bench.scheduler.put_back(chunk)

    assert job.waiting == 10
    assert not job.flight
    assert not bench.scheduler.slots[0].flight


def test_hostages_are_found() -> None:
    """When nothing waits, a worker idles and another is late, what stands behind its slow item is named."""
    bench = Bench(workers=2)
    bench.job(range(20), pace=paced(0.0001))
    chunks = bench.cut_all()
    for chunk in chunks[1:]:
        bench.finish(chunk, each=0.0001)
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is chunks[0]


def test_no_hostages_while_something_waits() -> None:
    """As long as there is other work for the idle, nobody is disturbed."""
    bench = Bench(workers=2)
    bench.job(range(10_000), pace=paced(0.0001))
    bench.cut_all()
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is None


def test_single_slow_item_is_no_hostage() -> None:
    """An item that runs alone can't be given to anybody else."""
    bench = Bench(workers=2)
    bench.job(range(1))
    bench.cut()
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is None
    assert bench.scheduler.next_time() is None


def test_given_chunksize_is_not_broken_up() -> None:
    """Who gives a chunk size gets these chunks: nothing is taken out of one that runs."""
    bench = Bench(workers=2)
    bench.job(range(5), chunksize=5)
    bench.cut()
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is None


def test_time_of_hostages_is_told() -> None:
    """The scheduler says when it wants to look for hostages, so that nobody has to poll."""
    bench = Bench(workers=2)
    bench.job(range(10), pace=paced(0.00001))
    chunk = bench.cut()
    assert chunk is not None

    assert bench.scheduler.next_time() == chunk.sent + 2 * COST.aim


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
    assert bench.scheduler.waiting_for_retry() == []


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


def test_find_names_the_chunk_of_an_item() -> None:
    """An item in flight is found in its chunk, one that waits is in none."""
    bench = Bench(workers=1)
    job = bench.job(list(range(10)), chunksize=2, pace=paced(1e-5))
    first, second = bench.cut_all()

    assert bench.scheduler.find(job, 1) is first
    assert bench.scheduler.find(job, 2) is second
    assert bench.scheduler.find(job, 9) is None


# --- several jobs and workers -----------------------------------------------------------------------


def test_jobs_take_turns() -> None:
    """A long job does not keep a short one that came later waiting."""
    bench = Bench(workers=2)
    long = bench.job(range(1_000_000), pace=paced(0.1))
    short = bench.job(range(3), pace=paced(0.1))

    order = []
    for _ in range(6):
        for chunk in bench.cut_all():
            order.append(chunk.job)
            bench.finish(chunk)

    assert order[:4] in ([long, short, long, short], [short, long, short, long])
    assert short.sink.ended


def test_budget_of_a_worker_is_kept() -> None:
    """A worker gets no more tasks than its life has, and is spent after the last."""
    bench = Bench(workers=1, budget=5)
    bench.job(range(100), chunksize=3, pace=paced(1e-5))

    chunks = bench.cut_all()

    assert sizes(chunks) == [3, 2]
    assert not bench.scheduler.is_spent(0)
    for chunk in chunks:
        bench.finish(chunk)
    assert bench.scheduler.is_spent(0)


def test_budget_given_back_is_used() -> None:
    """Tasks that a worker gave back count for its budget again."""
    bench = Bench(workers=1, budget=5)
    bench.job(range(100), chunksize=5)
    chunk = bench.cut()
    assert chunk is not None

    bench.finish(chunk, done=2)

    assert bench.scheduler.slots[0].budget == 3
    assert not bench.scheduler.is_spent(0)


def test_demand_counts_what_would_have_work() -> None:
    """Workers are asked for as far as items wait and the pool allows, less those that idle."""
    bench = Bench(workers=4, slots=0)
    assert bench.scheduler.demand == 0
    bench.job(range(2))
    assert bench.scheduler.demand == 2
    bench.job(range(100))
    assert bench.scheduler.demand == 4
    bench.scheduler.add_slot("one")

    assert bench.scheduler.demand == 3


def test_slot_that_a_caller_has_is_not_used() -> None:
    """A worker that a caller has borrowed gets no chunk, until it can be claimed back."""
    bench = Bench(workers=1)
    bench.scheduler.slots[0].lent = True
    bench.job(range(1))

    assert bench.scheduler.next(bench.now, lambda _: False) is None
    chunk = bench.scheduler.next(bench.now, lambda _: True)

    assert chunk is not None
    assert not bench.scheduler.slots[0].lent


def test_chunk_numbers_are_never_those_of_a_status() -> None:
    """A status page says 0 for idle and 1 for receiving: no chunk has these numbers."""
    bench = Bench(workers=1)
    bench.job(range(10), chunksize=1, pace=paced(1e-5))

    numbers = [chunk.number for chunk in bench.cut_all()]

    assert min(numbers) > 1
    assert len(set(numbers)) == len(numbers)


def test_slice_of_a_job_keeps_numbers_apart() -> None:
    """Pieces that do not follow each other are not joined into one chunk."""
    job = Job("call", None)  # type: ignore[arg-type]
    job.put_back(5, [5, 6])
    job.put_back(1, [1, 2])

    first, second = job.take(10), job.take(10)

    assert first is not None
    assert second is not None
    assert (first.start, first.items, second.start, second.items) == (1, [1, 2], 5, [5, 6])
