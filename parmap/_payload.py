"""Object <-> payload: how arguments, results, functions and exceptions travel between processes.

Plain pickle does the work wherever it can (C speed, protocol 5, large buffers out of band). cloudpickle takes over for
what plain pickle refuses, and for what it would pickle by a name that means nothing in a worker: names in `__main__`.

Items are pickled one by one, never as one list: two items that share an object arrive as two objects however they were
cut into chunks, an item that fails to travel fails alone, and each is decoded only when it is asked for. Atoms
(numbers, strings, bytes), and flat tuples, lists and dicts of them, where none of this can matter, are marshalled as
one list, which is several times faster.
"""

from __future__ import annotations

import io
import marshal
import pickle
from bisect import bisect_right
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any

from parmap._by_value import PROTOCOL, cloud_pickler, names_stranger, plain_pickler
from parmap._vocabulary import Learner, Reader, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types whose values are immutable and whole: sharing one between two items can't be observed."""

_FLAT = frozenset({tuple, list, dict})
_SIZED = frozenset({str, bytes})
_BLOCK = 256  # items pickled before their size is looked at
_MANY = 8  # items for which a vocabulary pays

OUT_OF_BAND = 16 * 1024
"""Buffers of at least so many bytes travel beside the pickle stream, uncopied; smaller ones cost less inside it."""

LARGE = 1 << 20
"""Bytes objects of at least so many bytes travel out of band, too."""

WHOLE, EACH, FLAT = 0, 1, 2


class Packed:
    """One item that is pickled already, maybe with a vocabulary; `by_value`: not by pickle alone."""

    __slots__ = ("buffers", "by_value", "stream", "vocabulary")

    def __init__(
        self, stream: bytes, buffers: list[memoryview], vocabulary: Vocabulary | None = None, *, by_value: bool = False
    ) -> None:
        self.stream = stream
        self.buffers = buffers
        self.vocabulary = vocabulary
        self.by_value = by_value

    def keep(self) -> Packed:
        """Copy the buffers, which lie in the caller's arrays and may change before they are sent; returns itself."""
        self.buffers = [memoryview(bytes(buffer) if buffer.readonly else bytearray(buffer)) for buffer in self.buffers]
        return self


class Pack:
    """Pickled items: one stream each (`EACH`), one for an array or a range (`WHOLE`), or marshalled atoms (`FLAT`).

    `stream` holds the pickle streams in a row, `sizes` the length of each; `buffers` the out-of-band buffers of all
    items in a row, of which item `i` owns `owned[i]` (`owned` is empty where there are no buffers). Before the streams
    come `words` bytes of a vocabulary.
    """

    __slots__ = ("_ends", "_reader", "_values", "buffers", "count", "kind", "owned", "sizes", "stream", "words")

    def __init__(
        self,
        kind: int,
        count: int,
        stream: bytes | memoryview,
        sizes: list[int],
        buffers: list[memoryview] | None = None,
        owned: list[int] | None = None,
        words: int = 0,
    ) -> None:
        self.kind = kind
        self.count = count
        self.stream = stream
        self.sizes = sizes
        self.buffers = buffers or []
        self.owned = owned or []
        self.words = words
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
        return len(self.stream) + sum(buffer.nbytes for buffer in self.buffers)

    def __iter__(self) -> Iterator[Any]:
        """Decode the items one after the other, each when it is asked for."""
        if self.kind != EACH:
            return iter(self.whole())
        if self.buffers:
            return map(self.__getitem__, range(self.count))
        stream, ends = self.stream, list(accumulate(self.sizes, initial=self.words))
        return map(self._loads, [stream[start:end] for start, end in pairwise(ends)])

    def begin(self, *, careful: bool = False) -> None:
        """Load the vocabulary; if *careful*, each word only when an item needs it."""
        if self.words and self._reader is None:
            self._reader = Reader(bytes(self.stream[: self.words]), careful=careful)

    @property
    def _loads(self) -> Callable[..., Any]:
        self.begin()
        return self._reader or pickle.loads

    def values(self) -> list[Any]:
        """All items, decoded."""
        values = self.whole() if self.kind != EACH else self
        return values if type(values) is list else list(values)

    def __getitem__(self, index: int) -> Any:
        if self.kind != EACH:
            return self.whole()[index]
        if self._ends is None:
            self._ends = list(accumulate(self.sizes, initial=self.words))
        one = self.stream[self._ends[index] : self._ends[index + 1]]
        if not self.buffers:
            return self._loads(one)
        first = sum(self.owned[:index])
        return self._loads(one, buffers=_views(self.buffers[first : first + self.owned[index]]))

    def whole(self) -> Sequence[Any]:
        """The items of a pack that is one stream."""
        values = self._values
        if values is None:
            loads: Any = marshal.loads if self.kind == FLAT else pickle.loads
            values = self._values = loads(self.stream, **({"buffers": _views(self.buffers)} if self.buffers else {}))
        return values

    def describe(self) -> tuple[Any, ...]:
        """What the other side needs, besides the bytes, to build this pack again: marshallable."""
        return self.kind, self.count, len(self.stream), self.sizes, _kinds(self.buffers), self.owned, self.words

    @classmethod
    def restore(cls, description: tuple[Any, ...], stream: bytes | memoryview, buffers: list[memoryview]) -> Pack:
        """Build a pack from its description, its streams and its buffers."""
        kind, count, _, sizes, kinds, owned, words = description
        views = [view.toreadonly() if readonly else view for view, (_, readonly) in zip(buffers, kinds, strict=True)]
        return cls(kind, count, stream, sizes, views, owned, words)


def _views(buffers: list[memoryview]) -> list[memoryview]:
    """Views for an item to keep as they are: the pack's own are released under it."""
    return [memoryview(buffer) for buffer in buffers]


def _kinds(buffers: list[memoryview]) -> list[tuple[int, bool]]:
    return [(buffer.nbytes, buffer.readonly) for buffer in buffers]


def pack(
    items: Any, byte_cap: int | None = None, learner: Learner | None = None
) -> tuple[Pack, dict[int, BaseException]]:
    """Pickle *items*, or as many of them from the front as fit into *byte_cap* (at least one).

    Returns the pack and the errors of the items that can't be pickled; these have an empty stream in the pack.
    """
    learner = learner or Learner()
    if type(items) is range or type(items).__module__ == "numpy":
        whole = dump(items)
        return Pack(WHOLE, len(items), whole.stream, [len(whole.stream)], whole.buffers), {}
    try:
        kinds = _kinds_of(items)
    except Exception:  # noqa: BLE001 - the class of something here can't be compared, or has no hash: its metaclass rules
        return _pack_each(items, byte_cap, learner)
    packed = _pack_flat(items, kinds, byte_cap)
    if packed is None and not {Packed, bytes} & kinds:
        packed = _pack_by_name(items, byte_cap, learner)
    return (packed, {}) if packed is not None else _pack_each(items, byte_cap, learner)


def _kinds_of(items: Any) -> set[type]:
    types = list(map(type, items))
    if types and types.count(types[0]) == len(types):  # most often it is, and counting takes half the time
        return {types[0]}
    return set(types)


def _pack_by_name(items: Any, byte_cap: int | None, learner: Learner) -> Pack | None:
    """A pack of small items that pickle can send, maybe when it knows some classes."""
    vocabulary = learner.of(items[0]) if len(items) >= _MANY else learner.vocabulary
    while True:
        buffers: list[memoryview] = []
        head = vocabulary.stream if vocabulary else b""
        try:
            dump_quickly = _dump_quickly if vocabulary is None else vocabulary.dump
            stream, sizes = dump_quickly(items, _collector(buffers), byte_cap)
        except Exception:  # noqa: BLE001 - whatever went wrong, `_pack_each` finds out with whom
            stream = b""
        if buffers:
            return None
        if stream and not names_stranger(stream, len(head)):
            return Pack(EACH, len(sizes), stream, sizes, words=len(head))
        if len(items) == 1 or not learner.learn(items):
            return None
        vocabulary = learner.vocabulary


def _pack_flat(items: Any, kinds: set[type], byte_cap: int | None) -> Pack | None:
    try:
        if not _is_flat(items, kinds):
            return None
        fitting = items if byte_cap is None else _fitting(items, kinds, byte_cap)
        stream = marshal.dumps(fitting)
    except (TypeError, ValueError):  # a class without a hash, further in; more than 2 GiB in one string
        return None
    return Pack(FLAT, len(fitting), stream, [len(stream)])


def _fitting(items: Any, kinds: set[type], byte_cap: int) -> Any:
    """The first of *items*, atoms, that fit; only strings and bytes can be large."""
    if kinds <= {str, bytes}:
        sizes: list[int] = list(map(len, items))
    elif {str, bytes} & kinds:
        sizes = [len(item) if type(item) in _SIZED else 0 for item in items]
    else:
        return items
    return items if sum(sizes) <= byte_cap else items[: max(1, bisect_right(list(accumulate(sizes)), byte_cap))]


def _dump_quickly(
    items: Any, keep: Callable[[pickle.PickleBuffer], bool], byte_cap: int | None
) -> tuple[bytes, list[int]]:
    """The streams of the first of *items* that fit, and their sizes, looked at in blocks."""
    streams: list[bytes] = []
    sizes: list[int] = []
    size = 0
    for start in range(0, len(items), _BLOCK):
        block = [pickle.dumps(item, PROTOCOL, buffer_callback=keep) for item in items[start : start + _BLOCK]]
        streams += block
        sizes += map(len, block)
        size += sum(sizes[start:])
        if byte_cap is not None and size > byte_cap:
            fitting = max(1, bisect_right(list(accumulate(sizes)), byte_cap))
            del streams[fitting:], sizes[fitting:]
            break
    return b"".join(streams), sizes


def _pack_each(items: Any, byte_cap: int | None, learner: Learner) -> tuple[Pack, dict[int, BaseException]]:
    streams: list[bytes] = []
    buffers: list[memoryview] = []
    owned: list[int] = []
    errors: dict[int, BaseException] = {}
    size = 0
    packed = next((item for item in items if type(item) is Packed), None)
    if packed is not None:
        vocabulary = packed.vocabulary
    else:
        vocabulary = learner.of(items[0]) if len(items) > 1 else learner.vocabulary
    for index, item in enumerate(items):
        try:
            one = item if type(item) is Packed else dump(item, vocabulary)
        except Exception as error:  # noqa: BLE001 - user code may raise anything; it is this item's own error
            errors[index] = error
            one = Packed(b"", [], vocabulary)
        size += len(one.stream) + sum(buffer.nbytes for buffer in one.buffers)
        if one.vocabulary is not vocabulary or (byte_cap is not None and size > byte_cap and streams):
            errors.pop(index, None)
            break
        streams.append(one.stream)
        buffers += one.buffers
        owned.append(len(one.buffers))
    head = [vocabulary.stream] if vocabulary else []
    stream = streams[0] if len(streams) == 1 and not head else b"".join(head + streams)
    sizes = list(map(len, streams))
    pack = Pack(EACH, len(streams), stream, sizes, buffers, owned if buffers else None, words=sum(map(len, head)))
    return pack, errors


def are_atoms(values: Any) -> bool:
    """Whether all *values* are atoms."""
    try:
        return ATOMS.issuperset(map(type, values))
    except TypeError:  # a class without a hash
        return False


def is_small(value: Any) -> bool:
    """Whether a value may travel within a message: an atom, and not a long one."""
    kind = type(value)
    return kind in ATOMS and (kind not in _SIZED or len(value) < OUT_OF_BAND)


def _is_flat(items: Any, kinds: set[type]) -> bool:
    """Whether *items*, of these *kinds*, may travel as one: nothing in them can be changed, or shared, unseen.

    True of atoms, and of tuples, lists and dicts of atoms, if no list or dict is there twice. `marshal` takes these two
    to four times faster than pickle; anything else it must not see (it makes bytes of an array, for one).
    """
    if kinds <= ATOMS:
        return bytes not in kinds or max(len(item) for item in items if type(item) is bytes) < LARGE
    if len(kinds) > 1 or not kinds <= _FLAT:
        return False
    if kinds != {tuple} and len(set(map(id, items))) < len(items):
        return False
    if not ATOMS.issuperset(map(type, chain.from_iterable(items))):
        return False
    return kinds != {dict} or ATOMS.issuperset(map(type, chain.from_iterable(map(dict.values, items))))


class _Large:
    """Pickles bytes out of band: in band they would be copied three times on their way."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self._content),)


def dump(item: Any, vocabulary: Vocabulary | None = None) -> Packed:
    """Pickle one object.

    Raises:
        SerializationError: neither pickle nor cloudpickle can.
    """
    buffers: list[memoryview] = []
    keep = _collector(buffers)
    if type(item) is bytes and len(item) >= LARGE:
        item = _Large(item)
    try:
        if vocabulary is None:
            stream = pickle.dumps(item, PROTOCOL, buffer_callback=keep)
        else:
            stream = _dump_with(plain_pickler, item, keep, vocabulary)
        if not names_stranger(stream):
            return Packed(stream, buffers, vocabulary)
    except Exception:  # noqa: BLE001, S110 - cloudpickle has the second try, and its error is the one that tells
        pass
    del buffers[:]
    try:
        return Packed(_dump_with(cloud_pickler, item, keep, vocabulary), buffers, vocabulary, by_value=True)
    except Exception as error:
        from parmap.errors import SerializationError  # not before: it takes a third of the time that a worker needs

        if type(item) is tuple and not isinstance(error, RecursionError):
            for part in item:  # of the arguments of a call, the one to blame says better what is wrong
                dump(part)
        message = f"{_short_type(item)} can't be pickled: {type(error).__name__}: {error}"
        raise SerializationError(message) from error


def _dump_with(make: Any, item: Any, keep: Any, vocabulary: Vocabulary | None) -> bytes:
    with io.BytesIO() as file:
        pickler = make(file, keep)
        if vocabulary is not None:
            vocabulary.teach(pickler)
        pickler.dump(item)
        return file.getvalue()


def _short_type(item: Any) -> str:
    kind = type(item)
    return f"an object of type {kind.__module__}.{kind.__qualname__}"


def _collector(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Say whether the buffer goes in band; keep it if not."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: pickle copies it
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    return keep
