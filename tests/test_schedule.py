"""What the scheduler cuts, and for whom: a fake backend and a fake clock."""

from __future__ import annotations

from itertools import cycle

import pytest
from fake_backend import COST, Bench, Recorder, paced, sizes

from parmap._core.job import Job
from parmap._core.pace import BYTE_CAP, CROWD, Cost, Pace
from parmap._core.schedule import SHORT
from parmap._core.states import State
from parmap._work.page import PLACES

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
    bench.job(range(max(4, round(10 * COST.aim / seconds))), pace=paced(seconds))

    chunk = bench.cut()

    assert chunk is not None
    assert abs(len(chunk.items) - size) <= 1


@pytest.mark.parametrize(("seconds", "size"), [(1e-6, 10_000), (1e-4, 100), (0.001, 10), (0.006, 1), (0.018, 1)])
def test_chunk_is_as_long_as_it_may_be_while_there_is_plenty(seconds: float, size: int) -> None:
    """What waits behind another chunk may be longer, for fewer trips, and may run longer before it is given back."""
    bench = Bench(workers=1, cost=Cost(aim=COST.aim, depth=2, most=2 * COST.aim))
    bench.job(range(1_000_000), pace=paced(seconds))

    first, second = bench.cut_all()

    assert abs(len(first.items) - COST.aim / seconds) <= 1
    assert abs(len(second.items) - size) <= 1
    assert second.budget == 2 * max(COST.aim, len(second.items) * seconds)


def test_long_chunks_are_not_crowded() -> None:
    """Of items that take next to nothing no more come into one chunk than make it worth its trip, or a few thousand."""
    bench = Bench(workers=1, cost=Cost(aim=COST.aim, depth=2, most=10 * COST.aim))
    bench.job(range(10_000_000), pace=paced(1e-6))
    tiny = Bench(workers=1, cost=Cost(aim=COST.aim, depth=2, most=10 * COST.aim))
    tiny.job(range(10_000_000), pace=paced(1e-7))

    assert sizes(bench.cut_all()) == [5000, CROWD]
    assert sizes(tiny.cut_all()) == [50_000, 50_000]


def test_size_follows_measured_time() -> None:
    """After the first report, the size follows from the time that items took."""
    bench = Bench(workers=1)
    bench.job(range(3000))

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


def test_little_work_tells_little() -> None:
    """The last items of a call, which travel almost alone and so seem slow, don't make the next call begin small."""
    pace = paced(0.0005)
    for _ in range(4):
        pace.learn(1, 0.001)

    assert pace.seconds is not None
    assert pace.seconds < 0.0008
    pace.learn(20, 0.020)
    assert pace.seconds > 0.0007


def test_tail_is_guided() -> None:
    """A chunk is never more than its share of what remains, while items are worth a cut and not all alike."""
    bench = Bench(workers=2)
    job = bench.job(range(40), pace=paced(0.0005))  # the aim alone would give ten
    each = cycle([0.0004, 0.0006])

    while job.waiting:
        before = job.waiting
        chunk = bench.cut()
        assert chunk is not None
        assert len(chunk.items) <= max(-(-before // 4), 2)
        bench.finish(chunk, each=next(each))


@pytest.mark.parametrize(("count", "workers", "parts"), [(16, 2, [8, 8]), (15, 2, [8, 7]), (14, 4, [4, 4, 4, 2])])
def test_few_items_that_are_all_alike_are_dealt_out_at_once(count: int, workers: int, parts: list[int]) -> None:
    """Where all is over in a moment, and it is known when, each worker gets one chunk, and all end together."""
    bench = Bench(workers=workers, cost=Cost(aim=0.008, depth=2))
    pace = paced(0.001)
    for _ in range(8):
        pace.learn(4, 0.00396)
    bench.job(range(count), pace=pace)

    assert sizes(bench.cut_all()) == parts


@pytest.mark.parametrize("seconds", [0.0042, 0.0075, 0.0005])
def test_one_chunk_that_took_another_time_ends_that(seconds: float) -> None:
    """Then items are not known to be alike: what is left is cut finer and finer, so that it can be balanced."""
    bench = Bench(workers=2, cost=Cost(aim=0.008, depth=2))
    pace = paced(0.001)
    for _ in range(8):
        pace.learn(4, 0.004)
    pace.learn(3, seconds)
    job = bench.job(range(12), pace=pace)

    first = bench.cut()

    assert first is not None
    assert len(first.items) <= 4
    assert job.waiting


def test_more_work_than_is_over_in_a_moment_is_not_dealt_out() -> None:
    """However alike items were: what happens to the machine meanwhile can still be balanced."""
    bench = Bench(workers=2, cost=Cost(aim=0.008, depth=2))
    pace = paced(0.001)
    for _ in range(8):
        pace.learn(4, 0.004)
    job = bench.job(range(24), pace=pace)

    assert sizes(bench.cut_all()) == [6, 5, 4, 3]
    assert job.waiting == 6


@pytest.mark.parametrize("count", [16, 1600])
def test_what_all_workers_have_is_asked_only_where_it_tells(count: int) -> None:
    """Of the 128 workers of a large machine each would be looked at, for each chunk."""
    pace = paced(0.001)
    for _ in range(8):
        pace.learn(4, 0.004)
    asked: list[int] = []
    busy = (float(asked.append(worker) or 0) for worker in range(2))

    pace.size(Cost(aim=0.008, depth=2), count, 2, idle=1, busy=busy)

    assert bool(asked) == (count == 16)


def test_tail_of_tiny_items_is_not_cut_to_crumbs() -> None:
    """Items that take next to nothing are not cut finer than about a millisecond of work."""
    bench = Bench(workers=2)
    bench.job(range(100), pace=paced(1e-6))

    assert sizes(bench.cut_all()) == [100]


def test_tail_of_a_far_backend_is_cut_less_finely() -> None:
    """Where a trip is long, no chunk is worth less than the floor that the backend tells."""
    bench = Bench(workers=2, cost=Cost(aim=0.1, depth=1, floor=0.02))
    job = bench.job(range(100), pace=paced(0.001))

    cut = []
    while job.waiting:
        cut += sizes(chunks := bench.cut_all())
        for chunk in chunks:
            bench.finish(chunk, each=0.001)
    assert len(cut) == 5
    assert min(cut) >= 18


def test_idle_workers_far_away_share_what_there_is() -> None:
    """However long a trip seems to take, no worker gets all that a stream reads ahead while others have nothing."""
    bench = Bench(workers=4, cost=Cost(aim=1.0, depth=1, recalls=False, floor=0.25))
    bench.job(range(100), pace=paced(0.001))
    assert sizes(bench.cut_all()) == [25] * 4

    few = Bench(workers=4, cost=Cost(aim=1.0, depth=1, recalls=False, floor=0.25))
    few.job(range(10), pace=paced(0.001))
    assert sizes(few.cut_all()) == [5, 5]


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


def test_bytes_of_results_are_capped() -> None:
    """What the results of a chunk are expected to take is bounded, too."""
    bench = Bench(workers=1)
    job = bench.job(range(10_000), pace=paced(1e-6))
    job.pace.learn_results(4, memoryview(bytes(4 * BYTE_CAP // 10)))

    assert sizes(bench.cut_all())[0] == 10


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


def test_parts_of_an_array_that_follow_each_other_are_joined() -> None:
    """What was given back, and what is behind it, is put together, not added up."""
    numpy = pytest.importorskip("numpy")
    numbers = numpy.arange(6)
    bench = Bench(workers=1)
    job = bench.job(numbers[:3], chunksize=12)
    job.extend(numbers[3:])
    bench.scheduler.add(job)

    assert [[*chunk.items] for chunk in bench.cut_all()] == [[*range(6)]]


# --- depth ----------------------------------------------------------------------------------------


def test_second_chunk_waits_behind_a_short_one() -> None:
    """Short chunks go out two to a worker, so that it never idles for a round trip."""
    bench = Bench(workers=1)
    bench.job(range(10_000), pace=paced(1e-5))

    chunks = bench.cut_all()

    assert [chunk.slot for chunk in chunks] == [0, 0]
    assert len({chunk.number % PLACES for chunk in chunks}) == 2  # by which a status page tells them apart


@pytest.mark.parametrize(
    ("seconds", "nbytes", "held"),
    [(1e-6, 100, [8, 8]), (0.3e-3, 100, [4, 4]), (2e-3, 100, [2, 2]), (1e-6, 10**6, [2, 2])],
    ids=["brief", "short", "not so short", "large"],
)
def test_several_brief_chunks_wait_on_a_worker(seconds: float, nbytes: int, held: list[int]) -> None:
    """Chunks that are over in no time go out several to a worker, in turn; but not those that carry much."""
    bench = Bench(workers=2, cost=Cost(aim=0.005, depth=2, deepest=8))
    bench.job(range(100), pace=paced(seconds, nbytes), chunksize=1)

    chunks = bench.cut_all()

    assert [chunk.slot for chunk in chunks[:4]] == [0, 1, 0, 1]
    assert [len(slot.flight) for slot in bench.scheduler.slots.values()] == held
    assert [len({chunk.number % PLACES for chunk in slot.flight}) for slot in bench.scheduler.slots.values()] == held
    bench.finish(chunks[0], each=seconds)
    again = bench.cut()
    assert again is not None
    assert again.slot == 0


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


def test_a_long_chunk_gets_another_behind_it() -> None:
    """Where chunks may be long, a worker holds two all the same, each as long as it may be."""
    most = 2.5 * SHORT
    bench = Bench(workers=1, cost=Cost(aim=0.005, depth=2, most=most))
    bench.job(range(1_000_000), pace=paced(1e-4))
    _, second = bench.cut_all()
    assert len(second.items) == 500
    bench.finish(bench.scheduler.slots[0].flight[0], each=1e-4)
    third = bench.cut()
    assert third is not None
    bench.finish(second, each=1e-4)

    assert bench.cut() is not None


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


def test_hostages_of_the_next_chunk_are_found() -> None:
    """When a chunk has given back what it could, the one that waits behind it on the same worker is named."""
    bench = Bench(workers=2)
    bench.job(range(40), pace=paced(0.0001))
    chunks = bench.cut_all()
    behind = next(chunk for chunk in chunks[1:] if chunk.slot == chunks[0].slot)
    for chunk in chunks:
        if chunk.slot != behind.slot:
            bench.finish(chunk, each=0.0001)
    bench.now += 10 * COST.aim
    chunks[0].recalled = True

    assert bench.scheduler.hostages(bench.now) is behind
    assert bench.scheduler.next_time() == chunks[0].sent + 2 * COST.aim
    behind.recalled = True
    assert bench.scheduler.next_time() is None


def test_hostages_are_found_where_a_worker_is_missing() -> None:
    """A worker that could be started is as good as one that idles."""
    bench = Bench(workers=2)
    bench.scheduler.remove_slot(1)
    bench.job(range(2), pace=paced(0.0001))
    (chunk,) = bench.cut_all()
    assert len(chunk.items) == 2
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is chunk


def test_no_hostages_while_something_waits() -> None:
    """As long as there is other work for the idle, nobody is disturbed; but nor is a call kept waiting for long by another."""
    bench = Bench(workers=2)
    bench.job(range(10_000), pace=paced(0.0001))
    chunks = bench.cut_all()
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is None
    assert bench.scheduler.hostages(bench.now + 1.0) is chunks[0]
    assert bench.scheduler.next_time() is not None


def test_no_hostages_where_nobody_else_could_take_them() -> None:
    """An only worker is to tell what has ended; what waits in other chunks behind the slow item has to wait."""
    bench = Bench(workers=1)
    bench.job(range(10_000), pace=paced(0.0001))
    chunks = bench.cut_all()

    assert len(chunks) > 1
    assert bench.scheduler.hostages(bench.now + 0.1) is None
    assert bench.scheduler.hostages(bench.now + 1.0) is chunks[0]
    chunks[0].recalled = True
    assert bench.scheduler.hostages(bench.now + 1.0) is None
    assert bench.scheduler.next_time() is None


def test_a_job_that_waits() -> None:
    """While nothing of it is to begin, others have the workers; unless all that there is shall end."""
    bench = Bench(workers=2)
    held, other = bench.job(range(4)), bench.job(range(4))
    held.waits = lambda: True

    chunks = bench.cut_all()
    assert {chunk.job for chunk in chunks} == {other}
    for chunk in chunks:
        bench.finish(chunk)
    bench.scheduler.drains = True
    assert {chunk.job for chunk in bench.cut_all()} >= {held}


def test_single_slow_item_is_no_hostage() -> None:
    """An item that runs alone can't be given to anybody else."""
    bench = Bench(workers=2)
    bench.job(range(1))
    bench.cut()
    bench.now += 10 * COST.aim

    assert bench.scheduler.hostages(bench.now) is None
    assert bench.scheduler.next_time() is None


def test_given_chunksize_is_not_broken_up() -> None:
    """Who gives a chunk size gets these chunks: nothing is taken out of one that runs, but one behind it as a whole."""
    bench = Bench(workers=2)
    bench.job(range(15), chunksize=5, pace=paced(1e-5))
    first, other, behind = bench.cut_all()
    bench.now += 10 * COST.aim
    assert bench.scheduler.hostages(bench.now) is None
    bench.finish(other, each=1e-5)

    assert bench.scheduler.hostages(bench.now) is behind
    bench.finish(first)
    assert bench.scheduler.hostages(bench.now + 10 * COST.aim) is None
    assert bench.scheduler.next_time() is None


def test_time_of_hostages_is_told() -> None:
    """The scheduler says when it wants to look for hostages, so that nobody has to poll."""
    bench = Bench(workers=2)
    bench.job(range(10), pace=paced(0.00001))
    chunk = bench.cut()
    assert chunk is not None

    assert bench.scheduler.next_time() == chunk.sent + 2 * COST.aim


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


@pytest.mark.parametrize("pace", [paced(0.1), paced(None)], ids=["slow", "unknown"])
def test_slow_items_have_their_turn_among_short_ones(pace: Pace) -> None:
    """Workers hold two chunks of short items; the slow items of another call need one that has none, and get it."""
    bench = Bench(workers=2)
    bench.job(range(1_000_000), pace=paced(0.001))
    bench.cut_all()
    slow = bench.job(range(3), pace=pace)
    for number in range(20):
        flight = bench.scheduler.slots[number % 2].flight
        bench.finish(flight[0], each=0.001)
        bench.cut_all()

    assert slow.sink.ended
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
    """A worker that has a task of a caller's gets no chunk, until it can be taken back."""
    bench = Bench(workers=1)
    bench.scheduler.slots[0].move(State.LEASED)
    bench.job(range(1))

    assert bench.scheduler.next(bench.now, lambda _: False) is None
    chunk = bench.scheduler.next(bench.now, lambda _: True)

    assert chunk is not None
    assert bench.scheduler.slots[0].state is State.BUSY


def test_chunk_numbers_are_never_that_of_a_worker_at_rest() -> None:
    """A status page says 0 for idle: no chunk has this number."""
    bench = Bench(workers=1)
    bench.job(range(10), chunksize=1, pace=paced(1e-5))

    numbers = [chunk.number for chunk in bench.cut_all()]

    assert min(numbers) > 0
    assert len(set(numbers)) == len(numbers)


def test_chunks_that_a_worker_holds_have_places_of_their_own() -> None:
    """Also after others behind the first were given back, any number of times."""
    bench = Bench(workers=1)
    bench.job(range(100), pace=paced(0.001), chunksize=1)
    first = bench.cut()
    assert first is not None

    for _ in range(2 * PLACES):
        second = bench.cut()
        assert second is not None
        assert second.number % PLACES != first.number % PLACES
        bench.scheduler.put_back(second)


def test_slice_of_a_job_keeps_numbers_apart() -> None:
    """Pieces that do not follow each other are not joined into one chunk."""
    job = Job("call", None)  # type: ignore[arg-type]
    job.put_back(5, [5, 6])
    job.put_back(1, [1, 2])

    first, second = job.take(10), job.take(10)

    assert first is not None
    assert second is not None
    assert (first.start, first.items, second.start, second.items) == (1, [1, 2], 5, [5, 6])


# --- many jobs ------------------------------------------------------------------------------------


class Watched(Job):
    """A job that counts how often anything of all jobs is looked at."""

    looks = 0
    _waiting = 0

    @property
    def waiting(self) -> int:
        Watched.looks += 1
        return self._waiting

    @waiting.setter
    def waiting(self, waiting: int) -> None:
        self._waiting = waiting

    def __eq__(self, other: object) -> bool:
        Watched.looks += 1
        return self is other

    __hash__ = Job.__hash__


def looks(count: int) -> int:
    """How often jobs are looked at until each of *count* has had its turn."""
    bench = Bench(workers=2, slots=1)
    jobs = [Watched("call", Recorder()) for _ in range(count)]
    Watched.looks = 0
    for job in jobs:
        job.extend([0])
        bench.scheduler.add(job)
        assert bench.scheduler.demand <= 1
    for _ in jobs:
        (chunk,) = bench.cut_all()
        assert bench.scheduler.demand <= 1
        bench.finish(chunk, each=1.0)
    assert bench.scheduler.is_idle
    return Watched.looks


def test_a_job_among_thousands_costs_what_one_of_a_few_does() -> None:
    """Nothing looks at all of them for each."""
    assert looks(2000) / 2000 < 2 * looks(20) / 20
