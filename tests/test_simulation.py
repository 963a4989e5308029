"""The core against engines that exist only in the benchmarks: of any size, with nodes that fail and items that kill."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def simulated() -> Iterator[Any]:
    """The engines."""
    if not (BENCHMARKS / "simulated.py").exists():
        pytest.skip("the benchmarks are not here")
    sys.path.append(str(BENCHMARKS))
    import simulated

    yield simulated
    sys.path.remove(str(BENCHMARKS))


def run(simulated: Any, kind: str, size: int, items: int, *, draw: str = "lognormal", fails: bool = True) -> Any:
    """A batch of items of 50 ms; where *fails*, nodes fail all the time, and one item of a hundred kills its worker."""
    from simulation import drive

    lengths = simulated.Lengths(getattr(simulated, draw), 0.05, seed=3)
    deadly = frozenset(range(5, items, 100)) if fails else frozenset()
    engine = simulated.Engine(getattr(simulated, kind), size, lengths, deadly)
    if fails:
        engine.fail_now_and_then(0.5, 0.2, seed=3)
    found = drive(engine, items, charged=False, each=True)
    return engine, found


@pytest.mark.parametrize("draw", ["lognormal", "pareto"])
@pytest.mark.parametrize("size", [10, 300])
@pytest.mark.parametrize("kind", ["CLUSTER", "PROCESSES"])
def test_each_item_ends_once(simulated: Any, kind: str, size: int, draw: str):
    """Whatever happens to the nodes and workers that it was on, an item has one outcome."""
    engine, found = run(simulated, kind, size, 20 * size, draw=draw)

    assert set(found.sink.often) == {1}
    assert found.ended == 20 * size
    assert found.failed >= size // 5
    if kind == "CLUSTER":  # elsewhere a worker is all there is to fail
        assert engine.failed_nodes > 0
    else:
        assert found.failed == size // 5


def test_it_can_be_repeated(simulated: Any):
    """The same seed makes the same run."""
    first, second = (run(simulated, "CLUSTER", 50, 2000)[1]._replace(client=0.0, sink=None) for _ in range(2))

    assert first == second


def test_workers_are_kept_busy(simulated: Any):
    """As long as items wait, workers have something to do, however much the items differ."""
    for kind in ("CLUSTER", "PROCESSES"):
        _, found = run(simulated, kind, 100, 10_000, fails=False)

        assert found.busy > 0.95


def test_the_engine_listens_while_it_sends(simulated: Any):
    """What the first of a thousand workers tell of very short items is heard before each has been sent one."""
    from simulation import drive

    engine = simulated.Engine(simulated.CLUSTER, 1000, simulated.Lengths(simulated.lognormal, 1e-5, seed=3))

    assert drive(engine, 100_000, charged=False, more=0.0005).chunks < 500


def test_a_chunk_takes_the_client_no_longer_with_many_workers(simulated: Any):
    """It looks at as few of a thousand workers as of fifty: the lines of code that run for a chunk are as many."""
    lines: Counter[int] = Counter()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if "_core" not in frame.f_code.co_filename:
            return None
        lines[size] += event == "line"
        return trace

    chunks = {}
    for size in (50, 1000):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            chunks[size] = run(simulated, "CLUSTER", size, 5 * size, fails=False)[1].chunks
        finally:
            sys.settrace(before)

    assert lines[1000] / chunks[1000] < 1.5 * lines[50] / chunks[50]
