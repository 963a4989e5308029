"""Nothing is shared unseen: whoever has an argument or a result has it for itself, whatever memory it came through."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING, Any

import pytest
import tasks_that_keep as keeping
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inspection import wait_until_leased
from tasks_that_keep import make, prints, scribble

import parmap
from parmap import parallel
from parmap.backends._processes.line.segments import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Script

try:
    import numpy as np
except ImportError:  # the newest Python may have no wheel yet
    np = None  # type: ignore[assignment]

WAYS = {
    "as it is": {},
    "all through segments": {"smallest": 0},
    "few segments kept": {"smallest": 0, "kept": 300_000},
    "all handed over": {"smallest": 0, "kept": 0},
    "through the socket": {"enabled": False},
}
ACTS = ["pass", "keep", "parts", "scribble", "again"]
SIZES = [0, 1, 1000, 16_383, 16_384, 50_000, 65_535, 65_536, 200_000, 1_100_000]
KINDS = ["bytes", "bytearray", "array", "views", *(["numpy"] if np else [])]

leaves = st.tuples(st.sampled_from(KINDS), st.sampled_from(SIZES))
shapes = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from(["list", "tuple", "dict", "holder"]), st.lists(inner, max_size=3)),
    max_leaves=4,
)
steps = st.tuples(shapes, st.sampled_from(ACTS), st.booleans(), st.booleans())
"""What travels, what the task does with it, whether the next item holds the same object, whether the caller scribbles."""

properties = settings(
    max_examples=12,
    # Each example goes through the same workers on purpose: what they keep is looked at in all that follow.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def way(request: pytest.FixtureRequest, pools_stay: None) -> Iterator[None]:
    """Each way that a payload can take; workers go one way as long as they live."""
    if request.param.get("smallest") == 0 and not Limits.enabled:
        pytest.skip("there is no memfd here, or it is not to be used")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in request.param.items():
            patch.setattr(Limits, name, value)
        yield
        parmap.shutdown()
    gc.collect()  # graphs with cycles hold memory that was handed over, which has a descriptor


def things(plan: list[Any]) -> list[tuple[Any, list[int], str]]:
    """The arguments of the tasks of a plan."""
    items: list[tuple[Any, list[int], str]] = []
    for number, (shape, act, same, _) in enumerate(plan):
        thing = items[-1][0] if same and items else make(shape, number)
        items.append((thing, prints(thing), act))
    return items


def faults(results: list[Any], plan: list[Any]) -> list[tuple[int, str]]:
    """The tasks that saw what was not theirs, and the results that changed when others were written."""
    found = [(number, "task") for number, (right, _, _) in enumerate(results) if not right]
    for (_, thing, _), (*_, scribbles) in zip(results, plan, strict=True):
        if scribbles:
            scribble(thing)
    for number, ((_, thing, expected), (*_, scribbles)) in enumerate(zip(results, plan, strict=True)):
        if not scribbles and prints(thing) != expected:
            found.append((number, "result"))
    return found


def by_map(plan: list[Any], **options: Any) -> list[Any]:
    """All tasks at once; in chunks."""
    return parallel(keeping.visit, workers=1, **options).starmap(things(plan))


def by_imap(plan: list[Any], **options: Any) -> list[Any]:
    """All tasks in a stream."""
    columns = zip(*things(plan), strict=True)
    return list(parallel(keeping.visit, workers=1, **options).imap(*columns))


def by_submit(plan: list[Any], **options: Any) -> list[Any]:
    """One task after the other; each argument is overwritten when it was submitted."""
    visit = parallel(keeping.visit, workers=1, **options)
    futures = []
    for number, (shape, act, *_) in enumerate(plan):
        thing = make(shape, number)
        futures.append(visit.submit(thing, prints(thing), act))
        scribble(thing)
    return [future.result(timeout=60) for future in futures]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("call", [by_map, by_imap, by_submit])
@properties
@given(st.lists(steps, min_size=1, max_size=20))
def test_each_has_its_own(call: Callable[..., list[Any]], plan: list[Any]) -> None:
    """What is kept, changed or handed out twice, by tasks and by the caller, is nobody else's."""
    assert faults(call(plan), plan) == []


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("call", [by_map, by_imap, by_submit])
def test_hundreds_of_messages(call: Callable[..., list[Any]]) -> None:
    """Memory that is used again and again never shows what it held before."""
    draw = random.Random(5)
    plan = [
        ((draw.choice(KINDS), draw.choice(SIZES)), draw.choice(ACTS), draw.random() < 0.3, draw.random() < 0.5)
        for _ in range(300)
    ]

    assert faults(call(plan), plan) == []


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(np is None, reason="numpy is not there")
def test_rows_of_a_matrix() -> None:
    """Tasks that keep the rows of a matrix, or parts of them, have them for good."""
    matrix = np.repeat(np.arange(400, dtype=np.int64)[:, None], 2000, axis=1)

    results = parallel(keeping.keep_row, workers=1).map(matrix)

    assert all(right for right, _ in results)
    for number, (_, row) in enumerate(results):
        assert (row == number + 1).all()
        row[:] = -1


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
def test_argument_that_is_overwritten_when_submitted(kind: str) -> None:
    """A task sees its argument as it was when it was submitted, to an idle worker too, which is sent it piece by piece."""
    visit = parallel(keeping.visit, workers=1)
    visit.submit(b"", [0], "pass").result(timeout=60)
    for number in range(3):
        wait_until_leased(visit)
        thing = make((kind, 8_000_000), number)
        future = visit.submit(thing, prints(thing), "pass")
        scribble(thing)

        assert future.result(timeout=60)[0]


def test_system_without_memory_files(script: Script) -> None:
    """Where there is no `memfd_create` all works, large payloads and functions included, through the socket."""
    done = script.run("""
        import os
        if hasattr(os, "memfd_create"):
            del os.memfd_create
        from parmap import parallel
        from parmap.backends._processes.line.segments import Limits

        large = bytearray(5_000_000)
        print(Limits.enabled, parallel(lambda n: len(large) + n, workers=2).map(range(3)))
        print(sum(map(len, parallel(bytes, workers=2).map([1 << 20] * 20))))
        print(parallel(len, workers=2).submit(large).result())
    """)

    assert (done.stdout, done.stderr) == ("False [5000000, 5000001, 5000002]\n20971520\n5000000\n", "")
