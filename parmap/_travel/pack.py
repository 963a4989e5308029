"""What travels: the streams of some items, and the buffers beside them. `payload` makes them, here they are opened."""

from __future__ import annotations

import pickle
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, Any

from parmap._travel.failure import pass_on
from parmap._travel.flat import decode
from parmap._travel.vocabulary import Reader, salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from parmap._travel.vocabulary import Vocabulary

ALIGNMENT = 64
"""Buffers begin at multiples of so many bytes, as numpy's own do."""

REMEMBERED = 4096
"""Bytes of the stream of an item that costs little to be held twice."""

WHOLE, EACH = 0, 1
"""Kinds of packs of pickled items; all others are flat, and their kind is the form of their stream."""


class Pack:
    """Pickled items: one stream each (`EACH`), one for all (`WHOLE`: arrays, ranges, and what is apart); or flat ones.

    `stream` holds the pickle streams in a row, `sizes` the length of each; `buffers` the out-of-band buffers of all
    items in a row, of which item `i` owns `owned[i]` (`owned` is empty where there are no buffers). Before the streams
    come `words` bytes of a vocabulary, which the first `bare` items don't need.
    """

    def __init__(
        self,
        kind: int,
        count: int,
        stream: bytes | memoryview,
        sizes: list[int],
        buffers: list[memoryview] | None = None,
        owned: list[int] | None = None,
        words: int = 0,
        bare: int = 0,
    ) -> None:
        self.kind: int = kind
        self.count: int = count
        self.stream: bytes | memoryview = stream
        self.sizes: list[int] = sizes
        self.buffers: list[memoryview] = buffers or []
        self.owned: list[int] = owned or []
        self.words: int = words
        self.bare: int = bare
        self.needs: tuple[Any, ...] = ()  # what must live until it is read
        self.problems: dict[int, Exception] = {}  # of items of `whole()` that can't be unpickled
        self._values: Sequence[Any] | None = None
        self._ends: list[int] | None = None
        self._reader: Reader | None = None

    def release(self) -> None:
        """Let go of the memory that the payload lies in; items that were decoded may still use it."""
        self._values = None
        for view in (*self.buffers, self.stream):
            if isinstance(view, memoryview):
                view.release()

    @property
    def nbytes(self) -> int:
        """Size of the payload in bytes."""
        buffers = self.buffers
        return len(self.stream) + sum(buffer.nbytes for buffer in buffers) if buffers else len(self.stream)

    def __iter__(self) -> Iterator[Any]:
        """Decode the items one after the other, each when it is asked for."""
        if self.kind != EACH:
            values = self.whole()
            return map(self.__getitem__, range(self.count)) if self.problems else iter(values)
        if self.buffers:
            return map(self.__getitem__, range(self.count))
        ends = self._places()
        streams: Iterator[Any] = map(self.stream.__getitem__, map(slice, ends[:-1], ends[1:]))
        if not self.words:
            return map(pickle.loads, streams)
        return chain(map(pickle.loads, islice(streams, self.bare)), map(self._loads(self.bare), streams))

    def begin(self, *, careful: bool = False) -> None:
        """Load the vocabulary; if *careful*, each word only when an item needs it."""
        if self.words and self._reader is None:
            self._reader = Reader(self.stream[: self.words], careful=careful)

    def _loads(self, index: int) -> Callable[..., Any]:
        """What decodes the item with that index."""
        if not self.words or index < self.bare:
            return pickle.loads
        self.begin()
        return self._reader or pickle.loads

    def values(self) -> list[Any]:
        """All items, decoded."""
        values = self if self.kind == EACH else self.whole()
        return values if type(values) is list and not self.problems else list(self)

    def __getitem__(self, index: int) -> Any:
        if self.kind != EACH:
            values = self.whole()
            if index in self.problems:
                raise self.problems[index]
            return values[index]
        ends = self._places()
        one = self.stream[ends[index] : ends[index + 1]]
        if not self.buffers:
            return self._loads(index)(one)
        first = sum(self.owned[:index])
        return self._loads(index)(one, buffers=map(_content, self.buffers[first : first + self.owned[index]]))

    def _places(self) -> list[int]:
        """Where each stream begins, and the last ends."""
        if self._ends is None:
            self._ends = list(accumulate(self.sizes, initial=self.words))
        return self._ends

    def whole(self) -> Sequence[Any]:
        """The items of a pack that is one stream."""
        values = self._values
        if values is None:
            self._values = values = self._load() if self.kind == WHOLE else decode(self.kind, self.stream)
        return values

    def _load(self) -> Sequence[Any]:
        stream = self.stream[self.words :] if self.words else self.stream
        try:
            values: Sequence[Any] = self._loads(0)(stream, buffers=map(_content, self.buffers))
        except Exception as error:  # noqa: BLE001 - of the user's code
            pass_on(error)
            try:
                values, self.problems = salvage(stream, self._reader)
            except Exception:  # noqa: BLE001 - nobody knows which of them it is
                values, self.problems = [None] * self.count, dict.fromkeys(range(self.count), error)
        return values

    def describe(self) -> tuple[Any, ...]:
        """What the other side needs, besides the bytes, to build this pack again: marshallable."""
        kinds = [(buffer.nbytes, buffer.readonly) for buffer in self.buffers]
        return self.kind, self.count, len(self.stream), self.sizes, kinds, self.owned, self.words, self.bare

    @classmethod
    def restore(cls, description: tuple[Any, ...], stream: bytes | memoryview, buffers: list[memoryview]) -> Pack:
        """Build a pack from its description, its streams and its buffers."""
        kind, count, _, sizes, kinds, owned, words, bare = description
        views = [view.toreadonly() if readonly else view for view, (_, readonly) in zip(buffers, kinds, strict=True)]
        return cls(kind, count, stream, sizes, views, owned, words, bare)

    def parts(self) -> list[Any]:
        """Its bytes as they follow each other on a line or in memory: the stream, and the buffers, each aligned."""
        parts: list[Any] = [self.stream]
        position = len(self.stream)
        for buffer in self.buffers:
            gap = bytes(-position % ALIGNMENT)
            parts += (gap, buffer)
            position += len(gap) + buffer.nbytes
        return parts

    @classmethod
    def lying_in(
        cls,
        memory: memoryview,
        description: tuple[Any, ...],
        copy: Callable[[memoryview, bool], memoryview] | None = None,
    ) -> Pack:
        """Build a pack whose `parts` lie in *memory*; *copy*: makes the copy of a buffer, whether or not readonly."""
        _, _, position, _, kinds, *_ = description
        stream = memory[:position]
        buffers = []
        for nbytes, readonly in kinds:
            position += -position % ALIGNMENT
            buffer = memory[position : position + nbytes]
            buffers.append(copy(buffer, readonly) if copy else buffer)
            position += nbytes
        return cls.restore(description, bytes(stream) if copy else stream, buffers)


def _content(buffer: memoryview) -> memoryview | bytes:
    """What an item may keep: bytes as they are; else a view, as the pack's own are released.

    A bytearray can't be, though it were nobody else's: as long as the pack has a view of it, it can't grow.
    """
    whole = buffer.obj
    return whole if type(whole) is bytes and buffer.readonly and len(whole) == buffer.nbytes else memoryview(buffer)


class Packed:
    """One item that is pickled already, maybe with a vocabulary."""

    __slots__ = ("buffers", "item", "needs", "stream", "vocabulary")

    item: Any
    """What was pickled, if it is remembered."""

    def __init__(
        self,
        stream: bytes,
        buffers: list[memoryview],
        vocabulary: Vocabulary | None = None,
        needs: tuple[Any, ...] = (),
    ) -> None:
        """*needs*: what must live until the stream is read."""
        self.stream: bytes = stream
        self.buffers: list[memoryview] = buffers
        self.vocabulary: Vocabulary | None = vocabulary
        self.needs: tuple[Any, ...] = needs

    def keep(self) -> Packed:
        """Copy the buffers, which lie in the caller's arrays and may change before they are sent; returns itself."""
        self.buffers = [kept(buffer) for buffer in self.buffers]
        return self

    def remember(self, item: Any) -> Packed:
        """Remember what was pickled, if that is small, for whoever asks which item failed; returns itself."""
        if not self.buffers and len(self.stream) <= REMEMBERED:
            self.item = item
        return self


def kept(buffer: memoryview) -> memoryview:
    """A copy that nobody changes meanwhile; of bytes, which nobody can change, none is made."""
    if type(buffer.obj) is bytes:
        return buffer
    return memoryview(bytes(buffer) if buffer.readonly else bytearray(buffer))
