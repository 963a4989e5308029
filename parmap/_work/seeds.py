"""Random numbers that depend on the item alone: not on the worker, nor on how the items were cut into chunks."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from parmap._work.imports import when_imported

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sized


class _Now:
    """What the generators of this process are set to."""

    state: int | None = None
    watching = False
    randbits: Any = None  # numpy's own


def seeded(one: Callable[[Any], Any], seed: int, start: int, done: Sized) -> Callable[[Any], Any]:
    """Call *one* with the global generators set for its item, number *start* plus as many as are *done*."""
    import random

    def run(item: Any) -> Any:
        # A text is hashed with SHA-512, so that neighbours have nothing in common.
        _Now.state = random.Random(f"{seed}/{start + len(done)}").getrandbits(128)  # noqa: S311 - no secret
        random.seed(_Now.state)
        if _Now.watching:
            _seed_numpy()
        else:  # a task that is the first to import numpy gets the numbers that it would get later
            _Now.watching = True
            when_imported("numpy.random", _seed_numpy)
        try:
            return one(item)
        finally:
            _unseed_numpy()

    return run


def _seed_numpy() -> None:
    numpy = sys.modules.get("numpy.random")
    state = _Now.state
    if numpy is not None and state is not None:
        numpy.seed([state >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)])
        bits = numpy.bit_generator
        if hasattr(bits, "randbits"):  # what a generator begins with that is given no seed, as by `default_rng()`
            _Now.randbits = _Now.randbits or bits.randbits
            bits.randbits = sys.modules["random"].Random(state ^ 1).getrandbits


def _unseed_numpy() -> None:
    if _Now.randbits is not None:
        sys.modules["numpy.random"].bit_generator.randbits = _Now.randbits


@contextmanager
def preserved() -> Generator[None]:
    """Leave the global generators as they were: where items run in the user's own process."""
    import random

    numpy = sys.modules.get("numpy.random")
    state, other = random.getstate(), numpy and numpy.get_state()
    try:
        yield
    finally:
        _Now.state = None
        random.setstate(state)
        if numpy is not None:
            numpy.set_state(other)
