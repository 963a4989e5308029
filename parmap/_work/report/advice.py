"""What a report says: how times and sizes are written, and plain sentences of advice, the weightiest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from parmap._work.report.gather import PARTS, Gathered

_MUCH = 0.3  # share of the time
_LARGE = 100_000  # bytes of an item that are better passed by a path
_LITTLE = 2e7  # nanoseconds that are not worth a word
_SHORT = 1e7  # nanoseconds of an item that is worth its transport in any case
_FASTER = 1.2

_WAYS = {
    ("arguments", True): "Pass paths and load in the task, or use `parmap.broadcast` for what all of them need.",
    ("arguments", False): "Give each task more to do: a block of items, as one array or list.",
    ("results", True): "Return paths, or what you need of the results.",
    ("results", False): "Give each task more to do: a block of items, with one array or list of results.",
}


def of_time(nanoseconds: float) -> str:
    """As "1.2 s", "340 ms" or "12 µs"."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            each = nanoseconds / size
            return f"{each:,.0f} {unit}" if each >= 100 else f"{each:.3g} {unit}"  # noqa: PLR2004 - three digits
    return f"{nanoseconds:.0f} ns"


def of_bytes(nbytes: float) -> str:
    """As "3.1 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} bytes"


def of_count(count: int, one: str, many: str = "") -> str:
    """As "1 item" or "1,000 items"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def of_item(first: int, count: int) -> str:
    """Which item, or items that ran as one."""
    if first < 0:
        return "a single task"
    return f"index {first}" if count == 1 else f"indexes {first} to {first + count - 1} together"


class Shares:
    """What became of the time of all workers."""

    def __init__(self, known: Gathered) -> None:
        self.wall = known.spans.total()
        each = [worker.spent() for worker in known.workers.values()]
        self.spent = sum(each, Counter[str]())
        self.total = self.spent.total()
        self.ideal = self.wall * self.of("running")
        self.starting = max((spent["starting"] for spent in each), default=0)

    def of(self, part: str) -> float:
        """How much of it went there."""
        return self.spent[part] / max(1, self.total)


def advice(known: Gathered) -> list[str]:
    """What to do about it; nothing, where all is well."""
    shares = Shares(known)
    if shares.wall < _LITTLE:
        return []
    told = [*transport(known), *_one_item(known, shares), *_workers(known, shares), *_failing(known)]
    return [sentence.replace("%", " %") for sentence in told]


def transport(known: Gathered) -> Iterator[str]:
    """Of functions whose arguments and results take longer to travel than they are worth."""
    shares = Shares(known)
    # Where most items fail, what takes long is to tell of errors.
    sound = [each for each in known.functions.values() if 2 * each.sums["errors"] < each.sums["items"]]
    for each in sound:
        busy = max(sum(each.sums[part] for part in PARTS), _LITTLE, shares.total / 10)
        for part, nbytes, what in (("unpacking", "nbytes", "arguments"), ("packing", "result_nbytes", "results")):
            share, size = each.sums[part] / busy, each.sums[nbytes] / max(1, each.sums["items"])
            if share >= _MUCH:
                where = f"{share:.0%} of the workers' time in {each.name} was spent {part} {what}"
                yield f"{where}: {of_bytes(size)} an item. {_WAYS[what, size >= _LARGE]}"
    running = shares.spent["running"]
    is_short = all(each.took(0.5) < _SHORT for each in known.functions.values())
    is_large = any(each.sums["nbytes"] >= _LARGE * max(1, each.sums["items"]) for each in known.functions.values())
    moving = known.handing + (shares.spent["unpacking"] + shares.spent["packing"]) / max(1, len(known.workers))
    is_sound = len(sound) == len(known.functions)
    if is_sound and is_short and moving >= shares.wall / 2 >= _LITTLE / 2 and shares.wall >= _FASTER * running > 0:
        yield (
            "This work is shorter than its transport: a plain loop would be about "
            f"{shares.wall / running:,.1f} times faster. {_WAYS['arguments', is_large]}"
        )


def _one_item(known: Gathered, shares: Shares) -> Iterator[str]:
    """Of one that all others had to wait for."""
    slow = [(*each.slowest[0], each) for each in known.functions.values() if each.slowest]
    if not slow:
        return
    took, first, count, _, function = max(slow, key=lambda row: row[0])
    is_long = took >= max(_MUCH * shares.wall, 2 * count * function.took(0.5))
    if is_long and shares.of("waiting") >= _MUCH / 2:
        yield (
            f"One item took {took / shares.wall:.0%} of the whole: {of_item(first, count)} of {function.name}, "
            f"{of_time(took)}. Put what takes long first, or split it."
        )


def _workers(known: Gathered, shares: Shares) -> Iterator[str]:
    """Of what they did besides tasks and transport."""
    if shares.starting >= _MUCH * shares.wall:
        yield (
            f"{shares.starting / shares.wall:.0%} of the time went by until the workers had started. "
            "A pool starts once: use it for more, or call `warm_up()` while the program does something else."
        )
    if shares.of("importing") >= _MUCH:
        yield (
            f"{shares.of('importing'):.0%} of the workers' time was spent loading functions, with what they capture "
            "and import. Give large data by `parmap.broadcast`, name large modules in `preload`: then it is done once."
        )
    if shares.of("waiting") >= _MUCH:
        reason = "for items that the program read slowly, for results that it took slowly, or for the last item."
        if any(kind == "thread" for kind, _ in known.workers):
            reason = "for the program, or for each other: of threads that compute in Python, one runs at a time."
        elif known.handing >= shares.wall / 2:
            reason = "for what the program had to pack and send. Pass less with each item, or more items at once."
        elif any(each.sums["items"] < 2 * len(known.workers) for each in known.functions.values()):
            reason = "there were hardly more items than workers. Split the work finer, or take fewer workers."
        yield f"The workers waited for {shares.of('waiting'):.0%} of their time: {reason}"


def _failing(known: Gathered) -> Iterator[str]:
    for each in known.functions.values():
        if each.sums["deaths"]:
            yield (
                f"{of_count(each.sums['deaths'], 'death')} of workers in {each.name}: each costs what ran, and a new "
                "start. The errors say which items, and how they died; where memory ran out, take fewer workers."
            )
        if each.sums["timeouts"]:
            stopped = of_count(each.sums["timeouts"], "item was", "items were")
            yield f"{stopped} stopped in {each.name}, having taken longer than `timeout` allows."
