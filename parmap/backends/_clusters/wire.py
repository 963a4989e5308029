"""What travels to the pilots of a cluster, or to an executor, and back: anything that pickles it will do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from parmap._travel.failure import Failure
from parmap._travel.pack import EACH, Pack, Packed, kept
from parmap._travel.stream import OUT_OF_BAND
from parmap.backends._processes.line.copies import copies

if TYPE_CHECKING:
    from parmap._work.report.clock import Times
    from parmap.errors import ParmapError


class Wire:
    """Streams and buffers beside what describes them: a pickler that can leaves what is large of them out of band."""

    __slots__ = ("buffers", "description", "stream")

    def __init__(self, description: Any, stream: Any, buffers: list[Any]) -> None:
        self.description: Any = description
        self.stream: Any = stream
        self.buffers: list[Any] = buffers

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        beside = _beside if protocol >= 5 else _within  # noqa: PLR2004 - the first that knows of buffers
        return Wire, (self.description, beside(self.stream), [*map(beside, self.buffers)])

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sum(memoryview(each).nbytes for each in (self.stream, *self.buffers))


def _beside(content: Any) -> Any:
    return pickle.PickleBuffer(content) if len(content) >= OUT_OF_BAND else _within(content)


def _within(content: Any) -> bytes | bytearray:
    if isinstance(content, bytes | bytearray):
        return content
    return bytes(content) if memoryview(content).readonly else bytearray(content)


def to_wire(payload: Pack, *, copied: bool = True) -> Wire:
    """A pack as it travels. Where its buffers are not *copied*, nobody may change them."""
    buffers = [*map(kept, payload.buffers)] if copied else payload.buffers
    return Wire(payload.describe(), bytes(payload.stream) if copied else payload.stream, buffers)


def from_wire(wire: Wire) -> Pack:
    """The pack that has come. What may be written is copied where it has come in memory that is shared."""
    views = [memoryview(buffer) for buffer in wire.buffers]
    for place, (_, readonly) in enumerate(wire.description[4]):
        if views[place].readonly and not readonly:
            views[place] = copies.copy(views[place])
    stream = wire.stream if isinstance(wire.stream, bytes) else memoryview(wire.stream)
    return Pack.restore(wire.description, stream, views)


def boxed(thing: Any) -> Any:
    """A thing of ours that is pickled now: bytes, or those with what is large beside them."""
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(thing, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    return Wire(None, stream, [buffer.raw() for buffer in buffers]) if buffers else stream


def unboxed(crate: Any) -> Any:
    """The thing."""
    return pickle.loads(crate) if type(crate) is bytes else pickle.loads(crate.stream, buffers=crate.buffers)


class Setup(NamedTuple):
    """What all chunks of a pool have in common."""

    pool: str
    options: dict[str, Any]
    initializer: Sent | None
    shipped: Any
    """Where the zip file with the modules is that workers lack, if there are any."""


SHIPPED = -1
"""Its number, as functions and their parts have numbers."""


class Sent(NamedTuple):
    """A function, or a factory, and where its stream and parts are: each bytes, or what the cluster finds them by."""

    key: int
    name: str
    stream: Any
    parts: tuple[tuple[int, str, Any], ...]
    """Number, kind, place."""
    more: tuple[Any, ...]
    factories: tuple[Sent, ...]


class Order(NamedTuple):
    """A chunk on its way."""

    setup: Setup
    function: Sent
    context: dict[str, Any]
    number: int
    mode: str
    start: int
    """The number of its first item; -1: they have none."""
    budget: float | None
    timeout: float | None
    stop_early: bool
    items: Wire
    needs: tuple[Sent, ...]
    """The factories of tokens among them."""
    timed: bool
    """Whether somebody wants to know what becomes of its time."""


class Piece(NamedTuple):
    """What became of some items of a chunk."""

    start: int
    length: int
    has_run: bool
    results: Wire | None = None
    failures: tuple[tuple[int, Any], ...] = ()
    """The place of each, counted from `start`, and what it is."""
    seconds: float = 0.0
    times: Times | None = None


class Told(NamedTuple):
    """What became of a chunk: the items that are in no piece, now or before, can be run elsewhere."""

    pieces: list[Piece] = []  # noqa: RUF012 - never changed
    inside: float = 0.0
    """Seconds from its coming to its end."""
    said: list[tuple[str, tuple[Any, ...]]] = []  # noqa: RUF012 - never changed
    stopped: bool = False
    broken: Any = None
    """Why there can be no worker, encoded."""
    missing: tuple[int, ...] = ()
    """What could not be found."""


class _Words(SimpleNamespace):
    """A vocabulary as it has come; there is one for all items."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # that it has none is what changes


def items_of(pack: Pack, needs: tuple[Any, ...]) -> Any:
    """The items of a pack as something that can be cut; what is pickled stays so, and *needs* something."""
    if pack.kind != EACH:
        return pack.whole()
    vocabulary: Any = _Words(stream=bytes(pack.stream[: pack.words])) if pack.words else None
    items, begin, first = [], pack.words, 0
    for index, size in enumerate(pack.sizes):
        count = pack.owned[index] if pack.owned else 0
        stream = bytes(pack.stream[begin : begin + size])
        words = vocabulary if index >= pack.bare else None
        items.append(Packed(stream, pack.buffers[first : first + count], words, needs))
        begin += size
        first += count
    return items


def failure_to_wire(failure: Failure) -> tuple[Any, bool, tuple[float | None, int | None]]:
    """A failure as it travels; an error of our own, as it is."""
    told = failure.encoded if failure.encoded is not None else pickle.dumps(failure.exception())
    return told, failure.retry, failure.account


def failure_from_wire(
    retries: Callable[[BaseException], bool], told: Any, retry: bool, account: tuple[float | None, int | None]
) -> Failure:
    """The failure that has come. Whether one of our own is retried could not be decided where it happened."""
    if type(told) is bytes:
        error: ParmapError = pickle.loads(told)
        failure = Failure(error, retry=retries(error))
    else:
        failure = Failure(encoded=told, retry=retry)
    failure.account = account
    return failure
