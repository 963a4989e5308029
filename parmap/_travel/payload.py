"""Object <-> payload: how arguments, results, functions (see `code`) and exceptions travel between processes.

Plain pickle does the work wherever it can (C speed, protocol 5, large buffers out of band). cloudpickle takes over for
what plain pickle refuses, and for what it would pickle by a name that means nothing in a worker: names in `__main__`.

Items are pickled one by one: two items that share an object arrive as two objects however they were cut into chunks,
an item that fails to travel fails alone, and each is decoded only when it is asked for. Where none of this can matter
(see `flat` and `apart`) they travel as one, which is several times faster.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Any

from parmap._travel.apart import are_apart, as_it_is
from parmap._travel.code.by_name import names_stranger, or_by_name, reference
from parmap._travel.code.by_value import cloud_dumps, cloud_pickler, home_class
from parmap._travel.failure import pass_on
from parmap._travel.flat import MARSHALLED, SIZED, encode, encode_integers, kinds_of
from parmap._travel.pack import EACH, WHOLE, Pack, Packed
from parmap._travel.stream import Stream, held, plain_pickler
from parmap._travel.text import called, short_type
from parmap._travel.vocabulary import Learner, Vocabulary, with_common

if TYPE_CHECKING:
    import pickle
    from collections.abc import Callable

    from parmap._travel.code.classes import Classes

_MANY = 8  # items for which a vocabulary pays
_SHORT_RANGE = 64  # numbers of a range that are written sooner than the range itself is pickled
_TRIES = 10  # to pack a dict or a set that other threads change meanwhile


def snapshot(item: Any, learner: Learner, *, copies: bool = True) -> Any:
    """One of many objects as it is now: pickled, unless nothing in it can be changed, or a copy is as good.

    *copies*: whether one may be.

    Raises:
        SerializationError: neither pickle nor cloudpickle can.
    """
    try:
        made = as_it_is(item, learner.parts, copies=copies)
    except Exception as error:  # noqa: BLE001 - an attribute is missing
        pass_on(error)
        made = None
    if made is not None:
        return made
    stream = learner.dump_again(item)
    if stream is None:
        return dump(item, learner.vocabulary, learner).keep().remember(item)
    return Packed(stream, [], learner.vocabulary, held()).remember(item)


def pack(
    items: Any,
    byte_cap: int | None = None,
    learner: Learner | None = None,
    before: Callable[[int], object] | None = None,
    *,
    single: bool = False,
) -> tuple[Pack, dict[int, BaseException]]:
    """Pickle *items*, or as many of them from the front as fit into *byte_cap* (at least one).

    *before*: called with the index of each, which is pickled by itself then, before the user's code runs. *single*:
    whether each is unpickled by itself.

    Returns the pack and the errors of the items that can't be pickled; these have an empty stream in the pack.
    """
    learner = learner or Learner()
    if before is not None:
        return _pack_each(items, byte_cap, learner, before)
    if type(items) is range and len(items) <= _SHORT_RANGE:
        items = list(items)
    elif type(items) is range or type(items).__module__ == "numpy":
        whole = dump(items)
        made = Pack(WHOLE, len(items), whole.stream, [len(whole.stream)], whole.buffers)
        made.needs = whole.needs
        return made, {}
    if (integers := encode_integers(items)) is not None:
        return Pack(MARSHALLED, len(items), integers, [len(integers)]), {}
    try:
        kinds = kinds_of(items)
    except Exception as error:  # noqa: BLE001 - a class can't be compared, or has no hash: its metaclass rules
        pass_on(error)
        return _pack_each(items, byte_cap, learner)
    packed = None
    if Packed not in kinds and (packed := _pack_flat(items, kinds, byte_cap)) is None:
        packed = _pack_by_name(items, kinds, byte_cap, learner, single=single)
    return (packed, {}) if packed is not None else _pack_each(items, byte_cap, learner)


def _pack_by_name(items: Any, kinds: set[type], byte_cap: int | None, learner: Learner, *, single: bool) -> Pack | None:
    """A pack of items that pickle can send, maybe when it knows some classes."""
    bare = None
    try:
        if len(items) >= _MANY:
            if learner.apart and not single and (together := _pack_together(items, kinds, byte_cap, learner)):
                return together
            if learner.is_new(items[0]):
                bare = dump(items[0], None, learner)
        made = _pack_row(items, bare, with_common(items, learner.vocabulary), byte_cap)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, `_pack_each` finds out with whom
        pass_on(error)
        return None
    return None if names_stranger(bytes(made.stream), made.words + sum(made.sizes[: made.bare])) else made


def _pack_together(items: Any, kinds: set[type], byte_cap: int | None, learner: Learner) -> Pack | None:
    """A pack with one stream for all items, if they are apart; the *learner* remembers if they are not."""
    learner.apart = False
    if not are_apart(items):
        return None
    needs: list[Any] = []
    for item in items[:1] if len(kinds) == 1 else {type(item): item for item in items}.values():
        if learner.is_new(item):
            needs += dump(item, None, learner).needs
    vocabulary = learner.vocabulary
    written = Stream()
    pickler = plain_pickler(written, written.keep)
    if vocabulary is not None:
        vocabulary.teach(pickler)
    pickler.dump(items if type(items) is list else list(items))
    stream, buffers = written.take()
    made = _pack_of([stream], [], [], vocabulary, 0, (*needs, *held()))
    if buffers or (byte_cap is not None and made.nbytes > byte_cap) or names_stranger(stream):
        return None
    made.kind, made.count = WHOLE, len(items)
    learner.apart = True
    return made


def _pack_row(items: Any, bare: Packed | None, vocabulary: Vocabulary | None, byte_cap: int | None) -> Pack:
    """A pack of the first of *items* that fit, at least one; *bare*: the first, pickled without the *vocabulary*."""
    written = Stream()
    pickler = plain_pickler(written, written.keep)
    streams = written.parts  # of which each item becomes one
    buffers: list[memoryview] = []
    owned: list[int] = []  # how many buffers each item has, up to the last that has any
    if bare is not None:
        streams.append(bare.stream)
        buffers += bare.buffers
        owned.append(len(buffers))
    size = sum(map(len, streams + buffers))  # without the vocabulary: less in a chunk would send it more often
    cap = inf if byte_cap is None else byte_cap
    forget = pickler.clear_memo if vocabulary is None else partial(vocabulary.teach, pickler)
    for item in items[len(streams) :]:
        forget()
        place = len(streams)
        pickler.dump(item)
        if len(streams) > place + 1:
            stream, beside = written.take(place)
            streams.append(stream)
            owned += [0] * (place - len(owned)) + [len(beside)]
            buffers += beside
            size += sum(map(len, beside))
        size += len(streams[-1])
        if size > cap and place:
            streams.pop()
            del buffers[sum(owned[:place]) :], owned[place:]
            break
    owned += [0] * (len(streams) - len(owned))
    needs = held() if bare is None else (*bare.needs, *held())
    return _pack_of(streams, buffers, owned, vocabulary, int(bare is not None), needs)


def _pack_of(
    streams: list[Any],
    buffers: list[memoryview],
    owned: list[int],
    vocabulary: Vocabulary | None,
    bare: int,
    needs: tuple[Any, ...],
) -> Pack:
    words = vocabulary.stream if vocabulary else b""
    stream = streams[0] if len(streams) == 1 and not words else b"".join([words, *streams])
    sizes = list(map(len, streams))
    made = Pack(EACH, len(sizes), stream, sizes, buffers, owned if buffers else None, len(words), bare)
    made.needs = needs
    return made


def _pack_flat(items: Any, kinds: set[type], byte_cap: int | None) -> Pack | None:
    try:
        fitting = items if byte_cap is None else _fitting(items, kinds, byte_cap)
        flat = encode(fitting, kinds)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        # A class without a hash, further in; a dict that another thread changes; 2 GiB in one string.
        pass_on(error)
        return None
    return None if flat is None else Pack(flat[0], len(fitting), flat[1], [len(flat[1])])


def _fitting(items: Any, kinds: set[type], byte_cap: int) -> Any:
    """The first of *items*, atoms, that fit; only strings and bytes can be large."""
    if kinds <= {str, bytes}:
        sizes: list[int] = list(map(len, items))
    elif {str, bytes} & kinds:
        sizes = [len(item) if type(item) in SIZED else 0 for item in items]
    else:
        return items
    return items if sum(sizes) <= byte_cap else items[: max(1, bisect_right(list(accumulate(sizes)), byte_cap))]


def _pack_each(
    items: Any, byte_cap: int | None, learner: Learner, before: Callable[[int], object] = bool
) -> tuple[Pack, dict[int, BaseException]]:
    streams: list[bytes] = []
    buffers: list[memoryview] = []
    owned: list[int] = []
    errors: dict[int, BaseException] = {}
    needs: list[Any] = []
    size = 0
    packed = next((item for item in items if type(item) is Packed), None)
    vocabulary = learner.vocabulary if packed is None else packed.vocabulary
    bare = 0
    for index, item in enumerate(items):
        before(index)
        try:
            one = item if type(item) is Packed else dump(item, vocabulary, learner)
        except Exception as error:  # noqa: BLE001 - user code may raise anything; it is this item's own error
            pass_on(error)
            errors[index] = error
            one = Packed(b"", [], vocabulary)
        size += len(one.stream) + sum(buffer.nbytes for buffer in one.buffers)
        if one.vocabulary is not vocabulary or (byte_cap is not None and size > byte_cap and streams):
            errors.pop(index, None)
            break
        streams.append(one.stream)
        buffers += one.buffers
        needs += one.needs
        owned.append(len(one.buffers))
        if vocabulary is None and packed is None:  # until there is one, items go without
            vocabulary, bare = learner.vocabulary, len(streams)
    return _pack_of(streams, buffers, owned, vocabulary, bare, tuple(needs)), errors


def dump(
    item: Any, vocabulary: Vocabulary | None = None, learner: Learner | None = None, classes: Classes | None = None
) -> Packed:
    """Pickle one object, with a *vocabulary*; its own words go to the *learner*. *classes*: how those by value travel.

    Raises:
        SerializationError: neither pickle nor cloudpickle can.
    """
    packed = dump_plainly(item, vocabulary, learner, getattr(classes, "ways", None))
    if packed is not None:
        return packed
    try:
        if learner is not None:
            classes = learner.classes
        return _dump_by_value(partial(cloud_pickler, classes=classes or home_class), item, vocabulary, learner)
    except Exception as error:
        pass_on(error)
        from parmap._travel.code.blame import why
        from parmap.errors import SerializationError  # not before: it takes a third of the time that a worker needs

        if type(item) is tuple and not isinstance(error, RecursionError):
            for part in item:  # of the arguments of a call, the one to blame says better what is wrong
                dump(part)
        told = why(short_type(item), item, error, fresh=False)
        held()  # nobody is going to read this
        raise SerializationError(told) from error


def _dump_by_value(make: Any, item: Any, *words: Any) -> Packed:
    """Pickle one object; what functions and classes in it refer to comes fresh, as in functions that are called."""
    try:
        return _dump_with(make, item, *words)
    except Exception as error:  # noqa: BLE001 - it may be a lock, of the item or of a class
        pass_on(error)
    _dump_with(partial(cloud_pickler, place=id), item)  # without functions and classes: what else there is, is refused
    return _dump_with(partial(make, fresh=True), item, *words)


def dump_whole(item: Any, *, fresh: bool = False) -> bytes:
    """Pickle one object, with all that is large in it, into one stream; if *fresh*, with fresh locks in it.

    Raises:
        SerializationError: neither pickle nor cloudpickle can.
    """
    packed = None if fresh else dump(item)
    if packed is not None and not packed.buffers:
        return packed.stream
    stream = cloud_dumps(item, home_class)
    held()  # as above: whoever raises it holds them
    return stream


def dump_function(function: Any, what: Any, apart: dict[int, int] | None = None) -> Packed:
    """Pickle *what*, which has a function of the user's in it, by value; of what is *apart*, only its number.

    Raises:
        SerializationError: there is something in it that no other process can have.
    """
    try:
        return _dump_with(partial(cloud_pickler, fresh=True, apart=apart), what)
    except Exception as error:
        pass_on(error)
        from parmap._travel.code.blame import blame
        from parmap.errors import SerializationError

        told = f"{called(function)} can't be sent to a worker: {blame(function, error)}"
        held()  # as above
        raise SerializationError(told) from error


def dump_call(function: Any, *more: Any, given: tuple[Any, ...] = ()) -> Packed:
    """Pickle how a function is found, with which arguments, and what goes with it: arguments that are *given*, say.

    Raises:
        SerializationError: there is something in it that no other process can have.
    """

    def dumped() -> Packed:
        find, args, _ = reference(function)
        what = find, args, *more
        return dump_plainly(what) or dump_function(partial(function, *given) if given else function, what)

    return or_by_name(dumped)


def dump_plainly(
    what: Any,
    vocabulary: Vocabulary | None = None,
    learner: Learner | None = None,
    ways: dict[Any, Any] | None = None,
) -> Packed | None:
    """Pickle *what* as pickle does, but for *ways*; `None` if it can't, or if workers could not read it."""
    try:
        packed = _dump_with(partial(plain_pickler, ways=ways) if ways else plain_pickler, what, vocabulary, learner)
    except Exception as error:  # noqa: BLE001 - cloudpickle has the second try, and its error is the one that tells
        pass_on(error)
        return None
    return None if names_stranger(packed.stream) else packed


def _dump_with(make: Any, item: Any, vocabulary: Vocabulary | None = None, learner: Learner | None = None) -> Packed:
    tries = _TRIES
    while True:
        written = Stream()
        pickler: pickle.Pickler = make(written, written.keep)
        if vocabulary is not None:
            vocabulary.teach(pickler)
        try:
            pickler.dump(item)
        except RuntimeError as error:
            tries -= 1
            if not tries or type(error) is not RuntimeError or "during iteration" not in str(error):
                raise
        else:
            break
    stream, buffers = written.take()
    by_value = getattr(make, "func", make) is not plain_pickler
    if learner is not None and (by_value or learner.is_new(item)):
        learner.learn(item, pickler, len(stream), by_value=by_value)
    return Packed(stream, buffers, vocabulary, held())
