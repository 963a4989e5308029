"""Random numbers that depend on the item alone: not on the worker, nor on how the items were cut into chunks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from parmap._work.imports import when_imported


class _Now:
    """What the generators of this process are set to."""

    state: int | None = None
    watching = False


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
        return one(item)

    return run


def _numpy() -> Any:
    """The module, if it is here, and another thread is not just importing it."""
    numpy = sys.modules.get("numpy.random")
    return numpy if hasattr(numpy, "set_state") else None


def _seed_numpy() -> None:
    numpy, state = _numpy(), _Now.state
    if numpy is not None and state is not None:
        # In another order than Python's own generator takes them, which is the same and would give the same numbers.
        numpy.seed([state >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)])
        bits = numpy.bit_generator
        if hasattr(bits, "randbits"):  # what a generator begins with that is given no seed, as by `default_rng()`
            bits.randbits = sys.modules["random"].Random(state ^ 1).getrandbits


@contextmanager
def preserved() -> Generator[None]:
    """Leave the global generators as they were: for what comes behind seeded items, in a worker or in the program."""
    import random

    numpy = _numpy()
    own, state = _Now.state, random.getstate()
    other, bits = (numpy.get_state(), getattr(numpy.bit_generator, "randbits", None)) if numpy else (None, None)
    try:
        yield
    finally:
        _Now.state = own
        random.setstate(state)
        if numpy is not None:
            numpy.set_state(other)
            numpy.bit_generator.randbits = bits
        elif (numpy := _numpy()) is not None:  # imported meanwhile
            numpy.bit_generator.randbits = sys.modules["secrets"].randbits  # where numpy has it from
            numpy.seed()
            _seed_numpy()


def undrawn() -> AbstractContextManager[None]:
    """For what happens in the midst of an item and is no part of it."""
    return nullcontext() if _Now.state is None else preserved()
