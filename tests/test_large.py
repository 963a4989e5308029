"""Large arguments and results: they arrive as they were, in memory of their own, which goes back when they are dropped."""

from __future__ import annotations

import gc
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any

import pytest
import tasks_that_keep as keeping
from inspection import own_memory
from tasks_that_keep import Letter, echo

from conftest import Script, wait_until
from parmap import parallel
from parmap.backends._processes.line.copies import LARGE
from parmap.backends._processes.line.segments import Limits

MB = 1 << 20


def large_ones(kind: Any, size: int) -> list[Any]:
    """Something large in all that it may lie in."""
    once, twice, *others = (str(n) * size if kind is str else kind(b"%d" % n * size) for n in range(6))
    return [
        once,
        [twice, twice],
        *((other, 1) for other in others[:2]),
        {1: [others[2]]},
        Letter(others[3]),
        5,
        "small",
    ]


@pytest.mark.parametrize("size", [70_000, LARGE + 70_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, str])
@pytest.mark.parametrize("segments", [True, False])
def test_large_contents_travel_both_ways(kind: Any, size: int, segments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every method, whatever they lie in; each is one object where it was one, and shares nothing with others."""
    monkeypatch.setattr(Limits, "enabled", segments and Limits.enabled)
    items = large_ones(kind, size)
    function = parallel(echo, workers=2, backend="processes")
    by_method = [
        function.map(items),
        function.map(iter(items)),
        function.map(items, chunksize=len(items)),
        list(function.imap(items)),
        [future.result(60) for future in [function.submit(item) for item in items]],
        [function.submit(item).result(60) for item in items],
    ]
    function.shutdown()

    assert all(results == items for results in by_method)
    assert all(results[1][0] is results[1][1] for results in by_method)
    if kind is bytearray:
        for number, results in enumerate(by_method):
            results[0][:1] = b"%d" % number  # neither the others, nor what they came from, see that
            results[1][0].clear()
        assert [results[0][:1] for results in by_method] == [b"%d" % number for number in range(len(by_method))]
        assert (items[0][:1], len(items[1][0])) == (b"0", size)


@pytest.mark.parametrize("kind", ["processes", "executor"])
def test_bytearrays_can_grow(kind: Any) -> None:
    """In a task, and in the program while results that came with them are held, too; no other of them changes."""

    def grown(item: bytearray) -> bytearray:
        item.append(1)
        return item

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        function = parallel(grown, workers=1, backend=executor if kind == "executor" else kind)
        futures = [function.submit(bytearray(70_000)) for _ in range(60)]
        wait(futures)
        for future in futures:
            future.result().append(2)

    assert [future.result()[-2:] for future in futures] == [b"\1\2"] * 60


def test_large_contents_on_an_executor() -> None:
    """Other engines carry them as well."""
    items = [item for kind in (bytes, bytearray, str) for item in large_ones(kind, 100_000)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert parallel(echo, backend=executor).map(items) == items


def test_an_argument_that_changes_after_its_task_was_submitted() -> None:
    """It can be changed, and made smaller; the task has it as it was."""
    content = bytearray(b"x" * MB)
    function = parallel(echo, workers=1, backend="processes")
    futures = []
    for _ in range(4):
        futures.append(function.submit(content))
        content[:10] = b""

    assert [future.result(60) for future in futures] == [b"x" * (MB - 10 * number) for number in range(4)]


@pytest.mark.parametrize("size", [70_000, LARGE + 70_000])
def test_a_function_that_captures_large_bytes(size: int) -> None:
    """It sees those that it has when it is called."""
    content = b"a" * size

    def first() -> bytes:
        return content[:1]

    function = parallel(first, workers=1, backend="processes")
    seen = [function.submit().result(60)]
    content = b"b" * size
    seen.append(function.submit().result(60))

    assert seen == [b"a", b"b"]


needs_segments = pytest.mark.skipif(not Limits.enabled, reason="nothing is copied out of shared memory")


@needs_segments
@pytest.mark.parametrize("how", ["map", "imap", "submit"])
def test_memory_goes_back_to_the_system(how: str) -> None:
    """Soon after results were dropped, the process is as small as before, though it does nothing else."""
    make = parallel(keeping.views, workers=2, backend="processes")
    make.map([1000, 2000])
    gc.collect()
    before = own_memory()
    results: Any = make.submit(64 * MB).result(60) if how == "submit" else list(getattr(make, how)([32 * MB] * 4))
    peak = own_memory()
    del results

    assert peak > before + 60 * MB
    wait_until(lambda: own_memory() < before + 10 * MB)


@needs_segments
def test_results_for_which_there_is_no_memory(script: Script) -> None:
    """Where private memory is short, results stay in the memory in which they came, writable and each on its own."""
    done = script.run("""
        import pickle, resource
        from parmap import parallel

        class Views:
            def __init__(self, data):
                self.data = data

            def __reduce_ex__(self, protocol):
                return Views, (pickle.PickleBuffer(self.data),)

        make = parallel(lambda size: Views(bytearray(b"x" * size)), workers=1)
        make.map([100_000_000])  # from now on, the memory of the worker's segment is counted among what is used
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000, resource.RLIM_INFINITY))
        first, second = (make.submit(100_000_000).result().data for _ in range(2))
        second[:3] = b"abc"
        assert bytes(first[:3]) == b"xxx" and len(first) == len(second) == 100_000_000
        assert bytes(make.submit(1000).result().data[:3]) == b"xxx"
    """)

    assert (done.returncode, done.stderr) == (0, "")
