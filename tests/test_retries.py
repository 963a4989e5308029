"""`retries`, `retry_on`, `retry_delay`: another attempt for what failed, in whatever way; the order stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import tasks
import tasks_that_hang as hang
from fake_clock import Clock
from tasks_that_recover import dies_at_first, fails_in_turn, flaky, says_much, starts_and_hangs

from parmap import TaskTimeoutError, WorkerDiedError, parallel

pytestmark = pytest.mark.usefixtures("pools_stay")


def _items(folder: Path, count: int, every: int, times: int = 1) -> list[tuple[str, int, int]]:
    return [(str(folder), number, times if number % every == 0 else 0) for number in range(count)]


def test_an_error_is_retried(backend: dict[str, Any], tmp_path: Path):
    """A task that fails once returns at the second attempt."""
    f = parallel(flaky, retries=1, **backend)

    assert f.map(_items(tmp_path, 20, 3)) == list(range(20))


def test_a_death_is_retried(processes: dict[str, Any], tmp_path: Path):
    """So is one whose worker died."""
    f = parallel(dies_at_first, retries=1, **processes)

    assert f.map([(str(tmp_path), number) for number in range(6)]) == list(range(6))


def test_each_way_to_fail_counts(processes: dict[str, Any], tmp_path: Path):
    """Error, death and timeout are attempts alike."""
    f = parallel(fails_in_turn, retries=3, timeout=0.5, **processes)

    assert f.map([(str(tmp_path), 7), (str(tmp_path), 8)]) == [7, 8]


def test_attempts_are_listed(processes: dict[str, Any], tmp_path: Path):
    """The final error tells what the attempts before it ended with."""
    f = parallel(fails_in_turn, retries=2, timeout=0.5, **processes)
    with pytest.raises(TaskTimeoutError) as caught:
        f.map([(str(tmp_path), 7)])

    told = next(note for note in caught.value.__notes__ if note.startswith("earlier attempts"))
    assert "attempt 1: KeyError: 7" in told
    assert "attempt 2: WorkerDiedError" in told


def test_attempts_take_a_line_each(processes: dict[str, Any]):
    """However long their own messages are: that of a timeout has a stack."""
    with pytest.raises(TaskTimeoutError) as caught:
        parallel(hang.sleep, retries=1, timeout=0.3, **processes).map([1])

    told = next(note for note in caught.value.__notes__ if note.startswith("earlier attempts"))
    assert len(told.splitlines()) == 2


def test_attempts_take_no_more_than_a_line_each(backend: dict[str, Any]):
    """Thousands of attempts are told in what the last error has beside its own message, which may be long."""
    with pytest.raises(ValueError, match="x" * 100) as caught:
        parallel(says_much, retries=20, **backend).map([1])

    told = next(note for note in caught.value.__notes__ if note.startswith("earlier attempts"))
    assert "attempt 20: ValueError: xxxxxxxx" in told
    assert len(told) < 21 * 300
    assert len(str(caught.value)) == 1_000_000


def test_no_more_than_asked_for(backend: dict[str, Any], tmp_path: Path):
    """Two retries are three attempts."""
    with pytest.raises(OSError, match="attempt 2 of 0"):
        parallel(flaky, retries=2, **backend).map(_items(tmp_path, 1, 1, 99))

    assert len(list(tmp_path.iterdir())) == 3


def test_only_what_retry_on_names(backend: dict[str, Any], tmp_path: Path):
    """Other errors are final at once."""
    with pytest.raises(OSError, match="attempt 0"):
        parallel(flaky, retries=5, retry_on=ValueError, **backend).map(_items(tmp_path, 1, 1, 99))

    assert len(list(tmp_path.iterdir())) == 1


def test_retry_on_decides_about_deaths(processes: dict[str, Any], tmp_path: Path):
    """A death is retried only if its class is covered."""
    with pytest.raises(WorkerDiedError):
        parallel(dies_at_first, retries=5, retry_on=OSError, **processes).map([(str(tmp_path), 1)])
    result = parallel(dies_at_first, retries=5, retry_on=WorkerDiedError, **processes).map([(str(tmp_path), 2)])

    assert result == [2]


def test_os_errors_are_no_timeouts(processes: dict[str, Any], tmp_path: Path):
    """A timeout is an OSError by its bases only: it is tried again if timeouts are named, or everything."""
    for number, kinds in enumerate(
        [OSError, (OSError, ValueError), TimeoutError, (OSError, TaskTimeoutError), Exception]
    ):
        seen = tmp_path / str(number)
        seen.mkdir()
        with pytest.raises(TaskTimeoutError):
            parallel(starts_and_hangs, retries=1, timeout=0.1, retry_on=kinds, **processes).map([str(seen)])

        assert len(list(seen.iterdir())) == (1 if number < 2 else 2)


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_streams_keep_their_order(backend: dict[str, Any], tmp_path: Path, chunksize: int | None):
    """What is retried leaves a hole, and what is behind it waits for it."""
    stream = parallel(flaky, retries=1, **backend).imap(_items(tmp_path, 60, 4), chunksize=chunksize)

    assert list(stream) == list(range(60))


@pytest.mark.parametrize("buffersize", [1, 3])
def test_streams_with_a_small_window(backend: dict[str, Any], tmp_path: Path, buffersize: int):
    """A hole can't stop a stream, however little it may read ahead."""
    stream = parallel(flaky, retries=1, **backend).imap(iter(_items(tmp_path, 20, 2)), buffersize=buffersize)

    assert list(stream) == list(range(20))


def test_unordered_streams_lose_nothing(backend: dict[str, Any], tmp_path: Path):
    """Each result comes once."""
    stream = parallel(flaky, retries=1, **backend).imap_unordered(_items(tmp_path, 60, 4))

    assert sorted(stream) == list(range(60))


def test_async_streams_keep_their_order(processes: dict[str, Any], tmp_path: Path):
    """On an event loop, too."""

    async def consume() -> list[int]:
        return [value async for value in parallel(flaky, retries=1, **processes).imap(_items(tmp_path, 30, 4))]

    assert asyncio.run(consume()) == list(range(30))


def test_final_errors_stand_in_their_places(backend: dict[str, Any], tmp_path: Path):
    """With `return_exceptions`: some succeed at last, some never."""
    items = [(str(tmp_path), number, number % 4) for number in range(24)]
    results = parallel(flaky, retries=2, **backend).map(items, return_exceptions=True)

    assert [str(r) if isinstance(r, OSError) else r for r in results] == [
        f"attempt 2 of {number}" if number % 4 == 3 else number for number in range(24)
    ]


def test_submit_retries(backend: dict[str, Any], tmp_path: Path):
    """Single tasks are retried, too."""
    f = parallel(flaky, retries=1, **backend)
    futures = [f.submit(item) for item in _items(tmp_path, 10, 2)]

    assert [future.result(60) for future in futures] == list(range(10))


def test_a_submitted_task_whose_worker_dies_is_retried(processes: dict[str, Any], tmp_path: Path):
    """Even if it had the worker for itself."""
    f = parallel(dies_at_first, retries=1, **processes)
    f.submit((str(tmp_path), 0)).result(60)

    assert f.submit((str(tmp_path), 1)).result(60) == 1


def test_waiting_holds_no_worker(processes: dict[str, Any], tmp_path: Path):
    """While an item waits for its next attempt, the only worker does other things."""
    f = parallel(flaky, retries=1, retry_delay=3600.0, **{**processes, "workers": 1})
    waiting = f.submit((str(tmp_path), 0, 1))

    assert f.map(_items(tmp_path, 5, 99)[1:]) == [1, 2, 3, 4]
    assert not waiting.done()
    assert waiting.cancel()


def test_a_call_that_ends_forgets_what_waits(processes: dict[str, Any], tmp_path: Path):
    """Closing a stream does not wait for the next attempts."""
    f = parallel(flaky, retries=1, retry_delay=3600.0, **processes)
    with f.imap_unordered(_items(tmp_path, 10, 5)) as stream:
        values = [next(stream) for _ in range(8)]

    assert sorted(values) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_delays_double():
    """1, 2, 4 ... times `retry_delay`, by the scheduler's own clock, each with jitter."""
    clock = Clock(retries=3, retry_delay=10.0)

    assert [clock.delay_after_failure() for _ in range(3)] == [10.0, 20.0, 40.0]


def test_serial_waits_its_delays(tmp_path: Path):
    """The caller itself waits."""
    f = parallel(flaky, backend="serial", retries=1, retry_delay=0.01)

    assert f.map(_items(tmp_path, 3, 2)) == [0, 1, 2]


def test_an_error_of_the_function_itself_is_not_hidden(processes: dict[str, Any]):
    """Retrying what always fails ends with its own error."""
    with pytest.raises(ZeroDivisionError):
        parallel(tasks.inverse, retries=2, **processes).map([1, 0])
