"""Classes and functions that the items of a chunk name: they travel once, for all of them.

Items are pickled one by one, so that they share nothing (see `_payload`). Left alone, each stream would spell the same
names, to be looked up and verified again for every item; and a class of a script has no name that a worker knows, so
that the whole of it would travel with each of its instances. But a class is the same for all items, and so is a
function that goes by name. Both sides therefore begin each item with a memo that holds these already.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import pickletools
from itertools import chain
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from parmap._by_value import (
    PROTOCOL,
    came_by_value,
    cloud_dumps,
    cloud_pickler,
    name_of,
    names_stranger,
    plain_pickler,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer

_LARGEST = 64 * 1024  # bytes of the stream of an item above which its names don't matter
_SAMPLE = 16  # items that are looked at to learn words
_MOST = 256  # words in a vocabulary
_PATIENCE = 8  # times to learn nothing, before giving up
_RECALLS = frozenset({"GET", "BINGET", "LONG_BINGET"})

# An unpickler takes the next of its buffers, which may be any object, memorizes it, and drops it from its stack.
_MEMORIZE = pickle.NEXT_BUFFER + pickle.MEMOIZE + pickle.POP


class Vocabulary:
    """Words, as we call those classes and functions: how they travel, and the memo that a pickler begins with."""

    __slots__ = ("_memo", "came_by_value", "stream", "words")

    def __init__(self, words: Iterable[Any]) -> None:
        """Pickle *words*, but for those that can't be shared.

        Raises:
            Exception: one of them is a class that even cloudpickle can't send.
        """
        groups: list[tuple[list[Any], bytes]] = []
        strangers: list[type] = []
        for word in words:
            stream = _dump_by_name(word)
            if stream is not None:
                groups.append(([word], stream))
            elif _is_class(word):  # a function would have to be one for each item: its state is its own
                strangers.append(word)
        if strangers:
            groups.append((strangers, cloud_dumps(strangers)))
        self.came_by_value = all(map(came_by_value, strangers))
        self.words = list(chain.from_iterable(group for group, _ in groups))
        self.stream = pickle.dumps([(len(group), stream) for group, stream in groups], PROTOCOL)
        self._memo = _memo_of(self.words)

    def dump(
        self, items: Iterable[Any], keep: Callable[[pickle.PickleBuffer], bool], byte_cap: int | None = None
    ) -> tuple[bytes, list[int]]:
        """The stream of the words, then that of each of the first of *items* that fit; and the sizes of the latter."""
        sizes: list[int] = []
        with io.BytesIO() as file:
            end = file.write(self.stream)
            pickler = plain_pickler(file, keep)
            for item in items:
                self.teach(pickler)
                pickler.dump(item)
                sizes.append(file.tell() - end)
                end += sizes[-1]
                if byte_cap is not None and end > byte_cap:
                    if len(sizes) > 1:
                        file.truncate(end - sizes.pop())
                    break
            return file.getvalue(), sizes

    def teach(self, pickler: pickle.Pickler) -> None:
        """Let a pickler know the words, and forget all else."""
        pickler.memo = self._memo  # of which it makes a copy


class Learner:
    """Finds the vocabulary of items as they come, and keeps it for those that follow."""

    def __init__(self, *, guests: bool = False) -> None:
        """Know nothing yet.

        *guests*: of classes that travel by value, keep only those that came here so, which are known where they go.
        Others are pickled again for each chunk, so that no change to one remains unseen.
        """
        self.vocabulary: Vocabulary | None = None
        self._guests = guests
        self._kinds: set[int] = set()
        self._patience = _PATIENCE

    def of(self, item: Any) -> Vocabulary | None:
        """A vocabulary for items like this one; `None` if they name nothing."""
        if self._guests and self.vocabulary is not None and not self.vocabulary.came_by_value:
            self.vocabulary = None
            self._kinds.clear()
        if id(type(item)) not in self._kinds:
            self._kinds.add(id(type(item)))
            self._look_at([item])
        return self.vocabulary

    def learn(self, items: Sequence[Any]) -> bool:
        """Look at some of *items*, of which one named what has no name; false if nothing is learnt from them."""
        if self._patience and not self._look_at(items[:: len(items) // _SAMPLE + 1]):
            self._patience -= 1
            return False
        return self._patience > 0

    def _look_at(self, items: Sequence[Any]) -> bool:
        known = self.vocabulary.words if self.vocabulary is not None else []
        if len(known) > _MOST:
            known = []
        words = {id(word): word for word in known}
        try:
            words |= {id(word): word for word in _words_of(items)}
            if len(words) == len(known):
                return False
            learnt = Vocabulary(words.values())
        except Exception:  # noqa: BLE001 - pickling runs the user's code: whoever pickles the item itself tells the error
            return False
        self.vocabulary = learnt if learnt.words else None
        return len(learnt.words) > len(known)


class _Latest:
    """What was loaded last: the chunks of a call mostly have the same."""

    vocabulary = b""
    words: ClassVar[list[Any]] = []


class Reader:
    """Unpickles items that were pickled with a vocabulary."""

    def __init__(self, vocabulary: bytes, *, careful: bool = False) -> None:
        """Load the words, which runs the user's code. One that fails is left for the items that use it, to fail there.

        *careful*: load each word with the first item that uses it, which pays if its worker dies of that.
        """
        self._vocabulary = vocabulary
        self._due: dict[int, tuple[int, bytes]] = {}  # what is not loaded: the place of the first of its group, stream
        if vocabulary == _Latest.vocabulary:
            self._words = _Latest.words
        else:
            self._words = []
            for count, stream in pickle.loads(vocabulary):
                first = len(self._words)
                self._words += [None] * count
                self._due.update(dict.fromkeys(range(first, first + count), (first, stream)))
            if not careful:
                self._load_all()
        self._prelude = _MEMORIZE * len(self._words)

    def __call__(self, stream: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
        """The item of one stream."""
        if self._due:
            for code, place, _ in pickletools.genops(bytes(stream)):
                if code.name in _RECALLS and place in self._due:
                    self._load(place)
        return pickle.loads(self._prelude + stream, buffers=chain(self._words, buffers) if buffers else self._words)

    def _load_all(self) -> None:
        for place in list(self._due):
            try:
                self._load(place)
            except (Exception, SystemExit):  # noqa: BLE001, S110 - raised again for each item that uses it
                pass

    def _load(self, place: int) -> None:
        first, stream = self._due.get(place, (0, b""))  # it may be there by now, with others of its group
        if stream:
            group = pickle.loads(stream)
            self._words[first : first + len(group)] = group
            for loaded in range(first, first + len(group)):
                self._due.pop(loaded, None)
            if not self._due:
                _Latest.vocabulary, _Latest.words = self._vocabulary, self._words


class _Short(io.BytesIO):
    """A file that takes only so much."""

    def write(self, data: Buffer, /) -> int:
        if self.tell() > _LARGEST:
            raise _TooLongError
        return super().write(data)


class _TooLongError(Exception):
    """What was looked at is too long to profit."""


def _words_of(items: Sequence[Any]) -> list[Any]:
    try:
        memory = _memory(items)
    except _TooLongError:
        return []
    except Exception:  # noqa: BLE001 - whatever plain pickle can't send: see whether it can once it knows some classes
        with io.BytesIO() as file:
            pickler = cloud_pickler(file, _drop)
            pickler.dump(items)
        memory = [thing for thing in _known(pickler) if _is_class(thing) and name_of(thing) is None]
        try:
            memory = _memory(items, memory)
        except Exception:  # noqa: BLE001, S110 - it can't: it is spared these at least
            pass
    return [thing for thing in memory if _is_word(thing)]


def _memory(items: Sequence[Any], words: Iterable[Any] = ()) -> list[Any]:
    """What a pickler knows that knew *words*, then pickled *items*."""
    with _Short() as file:
        pickler = plain_pickler(file, _drop)
        pickler.memo = _memo_of(words)
        pickler.dump(items)
        return _known(pickler)


def _known(pickler: pickle.Pickler) -> list[Any]:
    return [thing for _, thing in pickler.memo.copy().values()]


def _memo_of(words: Iterable[Any]) -> Any:
    pickler = plain_pickler(io.BytesIO())
    pickler.memo = {id(word): (place, word) for place, word in enumerate(words)}
    return pickler.memo


def _drop(_: pickle.PickleBuffer) -> None:
    """Take buffers out of band, to nowhere."""


def _is_class(thing: Any) -> bool:
    return issubclass(type(thing), type)  # isinstance() asks the thing, and a proxy may lie


def _is_word(thing: Any) -> bool:
    """Whether pickle sends it by name, so that all items have the same."""
    if _is_class(thing):
        return type(thing) not in copyreg.dispatch_table
    return type(thing) is FunctionType or (type(thing) is BuiltinFunctionType and type(thing.__self__) is ModuleType)


def _dump_by_name(word: Any) -> bytes | None:
    """The stream of a list of one word that workers can find by its name; `None` if they can't."""
    try:
        stream = pickle.dumps([word], PROTOCOL)
    except Exception:  # noqa: BLE001 - there is no other reason
        return None
    return None if names_stranger(stream) else stream
