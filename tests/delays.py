"""Holds one thread up at one of parmap's lines that it comes through, each in turn, and looks whether all is well.

    python delays.py CASE HOW

The others go on meanwhile: what is right only because a thread is quick is wrong then. HOW is `every` (place), `some` (at
random) or `pairs` (two at random). A place is a line and the name of a thread. It prints what was wrong, and exits with
1 if anything was.
"""

from __future__ import annotations

import concurrent.futures
import faulthandler
import gc
import os
import random
import sys
import threading
import time
import traceback
import weakref
from itertools import count
from typing import TYPE_CHECKING, Any

import tasks

import parmap
from conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

HOME = os.path.dirname(parmap.__file__) + os.sep
PAUSE = 0.04  # seconds: longer than what the engine waits for before it looks again
PATIENCE = 60.0  # seconds for one try
SOME = 20

Place = tuple[str, str, int]


class Holder:
    """Traces all threads; holds up whoever comes to a place that is to be *held*, once each."""

    def __init__(self) -> None:
        self.seen: dict[Place, None] | None = {}
        self.held: list[Place] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line" and (self.held or self.seen is not None):
            thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]  # makes no dummy
            place = (thread.name if thread else "", frame.f_code.co_filename, frame.f_lineno)
            if self.seen is not None:
                self.seen[place] = None
            elif place in self.held:
                try:
                    self.held.remove(place)
                except ValueError:  # another thread of that name was quicker
                    return self
                time.sleep(PAUSE)
        return self


class Bench:
    """A pool, and what threads do with it."""

    def __init__(self) -> None:
        self.f = parmap.parallel(tasks.identity, workers=2)
        self.nap = parmap.parallel(tasks.nap, workers=2)
        self.numbers = count(1)
        self.made: list[weakref.ref[Any]] = []

    def new(self, size: int) -> list[int]:
        """Items that no other call has."""
        return [next(self.numbers) for _ in range(size)]

    def see(self, made: Any) -> Any:
        """Look later whether something is let go."""
        self.made.append(weakref.ref(made))
        return made

    def is_let_go(self) -> bool:
        """Whether nothing that was made is there still."""
        gc.collect()
        return all(each() is None for each in self.made)

    def submit(self) -> None:
        """Two threads submit, and wait for each task."""

        def act() -> None:
            for number in self.new(4):
                assert self.see(self.f.submit(number)).result(timeout=PATIENCE) == number

        together(act, act)

    def wait(self) -> None:
        """One waits for many tasks as they end, another for all of them; callbacks run once."""
        called: list[Any] = []

        def act(wait: Callable[..., Any]) -> None:
            futures = {self.see(self.f.submit(number)): number for number in self.new(8)}
            for future in futures:
                future.add_done_callback(lambda future: called.append(future.result()))
            wait(futures, timeout=PATIENCE)
            assert [future.result() for future in futures] == [*futures.values()]

        together(
            lambda: act(concurrent.futures.wait),
            lambda: act(lambda *some, **how: [*concurrent.futures.as_completed(*some, **how)]),
        )
        wait_until(lambda: len(called) >= 16)
        assert len({*called}) == len(called)

    def cancel(self) -> None:
        """One cancels what another waits for, beside a map."""
        futures = [self.see(self.nap.submit(0.002)) for _ in range(4)]

        def wait() -> None:
            for future in futures:
                try:
                    future.result(timeout=PATIENCE)
                except concurrent.futures.CancelledError:
                    assert future.cancelled()
                else:
                    assert not future.cancelled()

        def map_some() -> None:
            numbers = self.new(20)
            assert self.f.map(numbers) == numbers

        together(wait, lambda: [future.cancel() for future in futures], map_some)
        futures.clear()

    def share(self) -> None:
        """Two threads read one stream, which a third closes."""
        numbers, got = self.new(60), list[int]()
        stream = self.see(self.f.imap(iter(numbers), buffersize=5))

        def close() -> None:
            wait_until(lambda: len(got) > 2)
            stream.close()

        together(lambda: got.extend(stream), lambda: [got.append(each) for each in stream], close)
        assert len({*got}) == len(got)


CASES: dict[str, Callable[[Bench], None]] = {
    "submit": Bench.submit,
    "wait": Bench.wait,
    "cancel": Bench.cancel,
    "share": Bench.share,
}


def together(*acts: Callable[[], object]) -> None:
    """Do several things at once, each in a thread of its own name."""
    with concurrent.futures.ThreadPoolExecutor(len(acts), "thread") as threads:
        done = [threads.submit(act) for act in acts]
    for each in done:
        each.result()
    done.clear()


def main(name: str, how: str) -> int:
    """Try one case."""
    holder, bench = Holder(), Bench()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    threading.settrace(holder)
    sys.settrace(holder)
    for _ in range(3):
        CASES[name](bench)
    places, holder.seen = sorted(holder.seen or ()), None
    chance = random.Random(1)
    chance.shuffle(places)
    tries = [[place] for place in places] if how != "pairs" else [chance.sample(places, 2) for _ in range(20 * SOME)]
    faults: list[str] = []
    for held in tries[:SOME] if how == "some" else tries:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        holder.held = [*held]
        try:
            CASES[name](bench)
            numbers = bench.new(5)
            assert bench.f.map(numbers) == numbers
            wait_until(bench.is_let_go)
        except BaseException:
            faults.append(f"{held}: {traceback.format_exc()}")
        bench.made.clear()
        if len(faults) > 5:
            break
    print(f"{name}: {len(faults)} wrong", *faults, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
