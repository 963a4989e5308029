"""Copies of large results: whose memory is used again as soon as nobody has them, and never before."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Script, wait_until
from parmap import parallel
from parmap.backends._processes.line import copies as _copies
from parmap.backends._processes.line.copies import LARGE, Copies
from parmap.backends._processes.line.segments import Limits

MB = 1 << 20

pytestmark = pytest.mark.skipif(not Limits.enabled, reason="without memfd, nothing is copied out of shared memory")


def filled(size: int, number: int) -> bytes:
    """Some content that tells copies apart."""
    return number.to_bytes(8, "little") * (size // 8)


@pytest.mark.parametrize("size", [0, 1, LARGE, 5_000_000])
def test_a_copy_is_writable_and_apart(size: int) -> None:
    """A copy has the bytes of the original, and can be written without touching it."""
    original = bytearray(os.urandom(size))
    copy = Copies().copy(memoryview(original))

    assert bytes(copy) == bytes(original)
    if size:
        copy[0] ^= 1
        assert copy[0] != original[0]


@pytest.mark.parametrize("size", [0, LARGE, 2 * LARGE - 1, 2 * LARGE, 2 * LARGE + 4097, 20_000_001])
def test_a_copy_of_bytes_is_bytes(size: int) -> None:
    """It has the content and the hash of the original, ends where that ends, and is nobody else's."""
    original = os.urandom(size)
    copy = Copies().copy(memoryview(original), readonly=True).obj

    assert type(copy) is bytes
    assert (copy, hash(copy), len(copy), copy[-1:]) == (original, hash(original), size, original[-1:])
    assert copy is not original or not size
    assert {copy: 1}[original] == 1
    assert (copy + b"x").endswith(original[-1:] + b"x")


def test_dropped_memory_is_used_again() -> None:
    """The second copy lies where the first did; while that is kept, elsewhere."""
    copies = Copies()
    first = copies.copy(memoryview(filled(LARGE, 1)))
    second = copies.copy(memoryview(filled(LARGE, 2)))
    part = first[100:200]  # enough to keep all of it
    del first
    third = copies.copy(memoryview(filled(LARGE, 3)))

    assert len(copies._pieces) == 3
    assert bytes(part) == filled(LARGE, 1)[100:200]
    del part, second
    others = [copies.copy(memoryview(filled(LARGE, number))) for number in (4, 5)]
    assert len(copies._pieces) == 3
    assert [bytes(copy) for copy in (third, *others)] == [filled(LARGE, number) for number in (3, 4, 5)]


# What a caller may do: get a result, keep a part of one, write into one, drop one.
deeds = st.lists(st.tuples(st.sampled_from(["copy", "part", "write", "drop"]), st.integers(0, 7)), max_size=40)


@given(deeds)
@settings(max_examples=30)
def test_whoever_has_a_copy_has_it_alone(deeds: list[tuple[str, int]]) -> None:
    """Whatever was dropped and used again meanwhile."""
    copies = Copies()
    held: list[tuple[memoryview, bytes]] = []
    for number, (deed, which) in enumerate(deeds):
        if deed == "copy" or not held:
            content = filled(LARGE * (1 + which % 2), number)
            held.append((copies.copy(memoryview(content)), content))
            continue
        view, content = held.pop(which % len(held))
        if deed == "part":
            held.append((view[8 : len(view) // 2], content[8 : len(view) // 2]))
        elif deed == "write":
            view[:8] = b"\xff" * 8
            held.append((view, b"\xff" * 8 + content[8:]))
        del view

    assert all(bytes(view) == content for view, content in held)


def test_dropped_memory_is_given_up_where_memory_is_short(script: Script) -> None:
    """Under a limit, a result that is too large for memory that was kept gets what it needs."""
    done = script.run("""
        import resource
        from parmap.backends._processes.line.copies import Copies

        copies = Copies()
        copies.copy(memoryview(bytes(64 << 20)))  # kept, though nobody has it
        large = bytes(80 << 20)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
        assert len(copies._pieces) == 1
        assert copies.copy(memoryview(large)).nbytes == len(large)
    """)

    assert (done.returncode, done.stderr) == (0, "")


def test_threads() -> None:
    """Threads that copy at the same time don't get the same memory."""
    copies = Copies()
    wrong: list[int] = []

    def work(number: int) -> None:
        for step in range(60):
            content = filled(LARGE, number * 1000 + step)
            copy = copies.copy(memoryview(content))
            if bytes(copy) != content:
                wrong.append(number)
            del copy

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert wrong == []


def test_dropped_memory_is_kept_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is forgotten, each time anew, though the pool has nothing to do."""
    monkeypatch.setattr(_copies, "HOLD", 0.05)
    make = parallel(bytearray, workers=1)
    for _ in range(3):
        assert len(make.map([2 * LARGE])[0]) == 2 * LARGE
        wait_until(lambda: not _copies.copies._pieces)


def test_a_pool_that_ends_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would be there to forget it."""
    monkeypatch.setattr(_copies, "HOLD", 1000.0)
    make = parallel(bytearray, workers=1)
    make.map([2 * LARGE])
    assert _copies.copies._pieces
    make.shutdown()

    assert not _copies.copies._pieces


def test_memory_of_the_parent(script: Script) -> None:
    """A process that was forked has none of it."""
    done = script.run("""
        import os
        from parmap.backends._processes.line.copies import LARGE, copies

        copies.copy(memoryview(bytes(LARGE)))
        assert copies._pieces
        if os.fork() == 0:
            os._exit(len(copies._pieces))
        assert os.wait()[1] == 0
    """)

    assert (done.returncode, done.stderr) == (0, "")
