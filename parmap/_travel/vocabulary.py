"""Classes, functions and dtypes that the items of a chunk name: they travel once, for all of them.

Items are pickled one by one, so that they share nothing (see `payload`). Left alone, each stream would spell the same
names, to be looked up and verified again for every item; and a class of a script has no name that a worker knows, so
that the whole of it would travel with each of its instances. But a class is the same for all items, and so is a
function that goes by name, or a dtype of numpy's. Both sides therefore begin each item with a memo that holds these
already. What else all hold, as the table in `[(table, x) for x in xs]`, travels once as well, and each item has a copy.
"""

from __future__ import annotations

import copyreg
import io
import marshal
import pickle
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Self

from parmap._travel.code.by_name import names_stranger
from parmap._travel.code.by_value import cloud_dumps, home_class, is_by_value
from parmap._travel.code.classes import Classes
from parmap._travel.code.special.remade import asks_too_soon, has_functions
from parmap._travel.failure import pass_on
from parmap._travel.flat import ATOMS
from parmap._travel.stream import PROTOCOL, Stream, plain_dumps, plain_pickler

_LARGEST = 64 * 1024  # bytes of the stream of an item above which its names don't matter
_MOST = 32  # words: of more, one item uses few
_DTYPES = "numpy.dtypes"  # the module of the classes of dtypes
_SIMPLE = frozenset("biufcO")  # kinds of dtypes of which there is one that all share
_CYTHON = "_cython_"  # how the module of the type of a function begins that Cython has made
_RECALLS = frozenset({"GET", "BINGET", "LONG_BINGET"})

_MUCH = 1024  # bytes of a stream from which on it pays to pickle it once

# An unpickler takes the next of its buffers, which may be any object, memorizes it, and drops it from its stack.
_MEMORIZE = pickle.NEXT_BUFFER + pickle.MEMOIZE + pickle.POP


class Vocabulary:
    """Some words, as we call all these: how they travel, and the memo that a pickler begins with."""

    def __init__(self, words: list[tuple[Any, bytes]], common: Sequence[Any] = (), copies: bytes = b"") -> None:
        """*words*: each with its own stream; *copies*: the stream of what the items have in *common*."""
        self.words: list[tuple[Any, bytes]] = words
        self.stream: bytes = marshal.dumps(([stream for _, stream in words], copies))
        origin = plain_pickler(io.BytesIO())
        known = chain((word for word, _ in words), common)
        origin.memo = {id(word): (place, word) for place, word in enumerate(known)}
        self._memo = origin.memo

    def teach(self, pickler: pickle.Pickler) -> None:
        """Let a pickler know the words, and forget all else."""
        pickler.memo = self._memo  # of which it makes a copy


def with_common(items: Any, known: Vocabulary | None) -> Vocabulary | None:
    """What is *known*, and what *items* have in common, if that is much; nobody may change that until they travel."""
    common = _parts_of(items[0]) if len(items) > 1 else {}
    if not common or common.keys() != _parts_of(items[-1]).keys():
        return known
    written = Stream()
    pickler = plain_pickler(written, written.keep)
    if known is not None:
        known.teach(pickler)
    pickler.dump(list(common.values()))
    stream, buffers = written.take()
    if buffers or len(stream) < _MUCH or names_stranger(stream):  # buffers are fast as they are
        return known
    if any(_parts_of(item).keys() - common.keys() for item in items):  # which could hold a part of what is common
        return known
    return Vocabulary(known.words if known else [], list(common.values()), stream)


def _parts_of(item: Any) -> dict[int, Any]:
    """What an item holds that is no atom, by identity; itself, if nobody looks into those of its kind."""
    parts = [*item, *item.values()] if type(item) is dict else item if type(item) in {tuple, list} else [item]
    return {id(part): part for part in parts if type(part) not in ATOMS}


class Learner:
    """Finds the words of items as they are pickled, for those that follow. No item is pickled for that alone."""

    def __init__(self, *, apart: bool = True) -> None:
        """Know nothing yet, but maybe whether the items are *apart*."""
        self.classes: Classes | None = None  # how classes travel that go by value
        self.apart: bool = apart  # whether they are, as far as is known
        self.parts: dict[int, Any] = {}  # what `as_it_is` has found of their classes
        self._words: dict[int, tuple[Any, bytes]] = {}
        self._kinds: set[int] = set()
        self._vocabulary: Vocabulary | None = None
        self._written = Stream()
        self._pickler: pickle.Pickler | None = None

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words that are known; `None`: there are none."""
        if self._vocabulary is None and self._words:
            self._vocabulary = Vocabulary(list(self._words.values()))
        return self._vocabulary

    def is_new(self, item: Any) -> bool:
        """Whether no item of this type was looked at."""
        return id(type(item)) not in self._kinds

    def learn(self, item: Any, pickler: pickle.Pickler, size: int, *, by_value: bool = False) -> None:
        """Remember what *pickler* has named for *item*, in *size* bytes; *by_value*: it is one of cloudpickle's."""
        self._kinds.add(id(type(item)))
        if size > _LARGEST and not by_value:
            return
        for _, thing in pickler.memo.copy().values():
            if id(thing) not in self._words and _is_word(thing, classes=by_value):
                self._add(thing, by_value=by_value)

    def dump_again(self, item: Any) -> bytes | None:
        """The stream of an item of a kind that was pickled before, in little time; `None`: it is not that easy."""
        if self.is_new(item):
            return None
        vocabulary = self.vocabulary
        if self._pickler is None:
            self._pickler = plain_pickler(self._written, self._written.keep)
        if vocabulary is not None:
            vocabulary.teach(self._pickler)
        parts = self._written.parts
        try:
            self._pickler.dump(item)
            return parts[0] if len(parts) == 1 and not names_stranger(parts[0]) else None
        except Exception as error:  # noqa: BLE001 - `dump` finds out what it is
            pass_on(error)
            return None
        finally:
            parts.clear()
            self._pickler.clear_memo()

    def _add(self, word: Any, *, by_value: bool) -> None:
        stream = _dump_by_name(word)
        if stream is not None and by_value:  # one of many that cloudpickle names for its own ends
            return
        if stream is None:
            # A function would have to be one for each item: its state is its own. Ends of pipes are refused, each.
            if not _is_class(word) or not is_by_value(word):
                return
            try:
                stream = cloud_dumps(word, self.classes or home_class)
            except Exception as error:  # noqa: BLE001 - the user's class: whoever sends an instance tells what is wrong
                pass_on(error)
                return
        if len(self._words) >= _MOST:
            self._words.clear()
        self._words[id(word)] = word, stream
        self._vocabulary = None


class Reader:
    """Unpickles items that were pickled with a vocabulary."""

    def __init__(self, vocabulary: bytes | memoryview, *, careful: bool = False) -> None:
        """Load the words, which runs the user's code. One that fails is left for the items that use it, to fail there.

        *careful*: load each word with the first item that uses it, which pays if its worker dies of that.
        """
        words, self._copies = marshal.loads(vocabulary)
        self._due: dict[int, bytes] = dict(enumerate(words))
        self._words: list[Any] = [None] * len(words)
        self._prelude = _MEMORIZE * len(words)
        for place in () if careful else list(self._due):
            try:
                self._load(place)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - raised again for each item that uses it
                pass_on(error)

    def __call__(self, stream: bytes | memoryview, buffers: Iterable[Any] = ()) -> Any:
        """The item of one stream."""
        prelude, known = self._prelude, self._words
        if self._copies:
            copies = self._load_by(prelude, self._copies, known)
            prelude, known = prelude + _MEMORIZE * len(copies), [*known, *copies]
        return self._load_by(prelude, stream, chain(known, buffers) if buffers else known)

    def _load_by(self, prelude: bytes, stream: bytes | memoryview, buffers: Iterable[Any]) -> Any:
        if self._due:
            import pickletools  # only now: it takes half a megabyte

            for code, place, _ in pickletools.genops(bytes(stream)):
                if code.name in _RECALLS and place in self._due:
                    self._load(place)
        return pickle.loads(prelude + stream, buffers=buffers)

    def words(self) -> list[Any]:
        """All words; in the place of one that can't be loaded, what stands for it."""
        for place in list(self._due):
            try:
                self._load(place)
            except Exception as error:  # noqa: BLE001 - of the user's code
                self._words[place] = _stand_in(error)
        return self._words

    def _load(self, place: int) -> None:
        stream = self._due.get(place)  # threads that decode results of one pack may meet here
        if stream is not None:
            self._words[place] = pickle.loads(stream)
            self._due.pop(place, None)


class _Missing:
    """Instances of a class that can't be loaded."""

    error: Exception

    def __new__(cls, *_args: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None:
        """Whatever it was."""


def _stand_in(error: Exception) -> type[_Missing]:
    pass_on(error)
    return type(_Missing.__name__, (_Missing,), {"error": error})


class _Salvager(pickle._Unpickler):  # noqa: SLF001 - the one in C can't be asked to go on
    """Unpickles what it can. An object that can't be made, for whatever reason, is an instance of a stand-in."""

    dispatch = pickle._Unpickler.dispatch.copy()  # noqa: SLF001

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except Exception as error:  # noqa: BLE001 - of the user's code
            return _stand_in(error)


def _or_stand_in(load: Callable[[Any], None], taken: int) -> Callable[[Any], None]:
    """What *load* does, which makes one object of so many that are *taken* from the stack."""

    def try_to_load(salvager: Any) -> None:
        first = len(salvager.stack) - taken
        try:
            load(salvager)
        except Exception as error:  # noqa: BLE001 - of a class that is another here
            salvager.stack[first:] = [_stand_in(error)()]

    return try_to_load


for _code, _taken in ((pickle.REDUCE, 2), (pickle.NEWOBJ, 2), (pickle.NEWOBJ_EX, 3), (pickle.BUILD, 2)):
    _Salvager.dispatch[_code[0]] = _or_stand_in(_Salvager.dispatch[_code[0]], _taken)


class _Finder(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _Missing):
            raise obj.error
        return 0 if isinstance(obj, type) else None


def salvage(stream: bytes | memoryview, reader: Reader | None) -> tuple[list[Any], dict[int, Exception]]:
    """The items of a stream for all of which some can't be made here, and the errors of these."""
    words = [] if reader is None else reader.words()
    values = _Salvager(io.BytesIO(_MEMORIZE * len(words) + stream), buffers=words).load()
    problems: dict[int, Exception] = {}
    for place, value in enumerate(values):
        try:
            _Finder(io.BytesIO(), PROTOCOL).dump(value)
        except Exception as error:  # noqa: BLE001 - of a class that it needs
            problems[place] = error
    return values, problems


def _is_class(thing: Any) -> bool:
    return issubclass(type(thing), type)  # isinstance() asks the thing, and a proxy may lie


def _is_word(thing: Any, *, classes: bool) -> bool:
    """Whether all items may have the same: pickle sends it by name, or it can't change. *classes*: no others count."""
    if _is_class(thing):
        return type(thing) not in copyreg.dispatch_table and not (has_functions(thing) or asks_too_soon(thing))
    kind = type(thing)
    if classes:
        return False
    if kind is BuiltinFunctionType:
        return type(thing.__self__) is ModuleType
    try:
        return kind is FunctionType or kind.__module__.startswith(_CYTHON) or _is_dtype(thing)
    except Exception:  # noqa: BLE001 - a metaclass may do anything when it is asked for the module
        return False


def _is_dtype(thing: Any) -> bool:
    """Whether it is one of numpy's dtypes that can't be changed, and of which there is one that all share."""
    kind = type(thing)
    return kind.__module__ == _DTYPES and thing.kind in _SIMPLE and thing is kind()


def _dump_by_name(word: Any) -> bytes | None:
    """The stream of what workers can find by its name; `None` if they can't."""
    try:
        stream = plain_dumps(word)
    except Exception:  # noqa: BLE001 - there is no other reason
        return None
    return None if names_stranger(stream) else stream
