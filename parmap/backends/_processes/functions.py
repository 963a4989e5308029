"""Functions as the parent knows them: what was sent of each, in which parts, and whether it must be sent again.

A function by value is packed when its mark no longer holds. What is large in it travels by itself, in parts that stay
where they are as long as they are the same: tables of atoms, and buffers. The rest is one stream. Parts and functions
have numbers, under which workers keep them until they are told to forget: when the parent has dropped one.

Nothing here holds a function, or what it captures, of the user's.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from parmap._core.owners import Owners
from parmap._travel.code.by_name import by_value_modules, is_stranger, name_of, or_by_name, reference
from parmap._travel.code.by_value import is_by_value
from parmap._travel.code.classes import class_of, class_with, tracker_of
from parmap._travel.code.instances import Instances
from parmap._travel.code.marks.frozen import state_of, whose
from parmap._travel.code.marks.kept import Table
from parmap._travel.code.marks.mark import Mark
from parmap._travel.code.marks.walk import Large, apart_of, mark
from parmap._travel.failure import is_foreign
from parmap._travel.pack import EACH, Pack, Packed
from parmap._travel.payload import dump_call, dump_function, dump_plainly
from parmap._travel.stream import PROTOCOL, held_apart, hold, is_sent, read_with_files
from parmap._travel.text import called
from parmap._work.per_worker import PerWorker
from parmap._work.run import Callee, Rules
from parmap._work.threads import check_reentry, import_whole
from parmap.backends._base import Call
from parmap.backends._processes.line.parts import Numbered, Numbers, Part, parts_of
from parmap.errors import SerializationError

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap.backends._processes.line.channel import Channel

_RECENT = 32 << 20  # bytes of functions that are kept though the program has dropped them: it may make them again
_HELD = 256 << 20  # bytes of functions, and what their marks hold, that are kept as long as the program has them
_SMALL = 64 * 1024  # bytes of a stream that pickle makes in no time
_FEW = 64  # names


class ClassPack(Numbered):
    """A class by value as it was packed, for items that have it."""

    kind = "class"
    stable = False
    more: tuple[Any, ...] = ()

    def __init__(self, origin: Functions, packed: Packed, parts: list[Part]) -> None:
        super().__init__(origin.numbers, len(packed.stream) + sum(part.nbytes for part in parts))
        self.stream: bytes = packed.stream
        self.parts = parts
        self.needs: tuple[Any, ...] = packed.needs  # what must live until the stream is read
        self.factories: list[FactoryPack] = origin.factories(packed.needs)

    def tell(self, channel: Channel, known: set[int]) -> None:
        """Send it, and of what it is made of what is not *known*, to a worker."""
        before: tuple[Any, ...] = (*self.factories, *self.parts)
        for each in before:
            if each.number not in known:
                known.add(each.number)
                each.tell(channel, known)
        known.add(self.number)
        stream = Pack(EACH, 1, self.stream, [len(self.stream)])
        channel.post(self.kind, self.number, [part.number for part in self.parts], *self.more, pack=stream)


class FactoryPack(ClassPack):
    """A factory of `per_worker`; workers keep it, and what it made, until the program drops the token.

    Or a broadcast value, for those that can't read its file.
    """

    kind = "factory"


class InitializerPack(ClassPack):
    """The initializer of a pool, with its arguments: a worker that begins gets it once."""

    kind = "initializer"


class FunctionCall(ClassPack, Call):
    """A function as it was packed."""

    kind = "function"
    holds = False
    key: tuple[Any, ...]  # by which it is found
    owner: Callable[[], Any]  # gives what has the state that tasks may change, if anything has

    def __init__(
        self, origin: Functions, packed: Packed, parts: list[Part], callee: Callee, mark: Mark | None, *, stable: bool
    ) -> None:
        ClassPack.__init__(self, origin, packed, parts)
        Call.__init__(self, callee)
        self.stable = stable
        self.classes: frozenset[str] = frozenset() if mark is None else mark.classes  # those by value that came with it


class ItemClasses:
    """How the classes by value of the items of one call travel: workers have them, or get them once, before.

    Each as it is when the first of its instances is met.
    """

    def __init__(self, functions: Functions, call: FunctionCall) -> None:
        self.needs: list[ClassPack] = []
        self._functions = functions
        self._call = call
        self._known: dict[int, tuple[type, ClassPack | str | None]] = {}

    def __call__(self, cls: type) -> tuple[Any, ...] | None:
        """As a reducer; `None`: there is no need for another way."""
        known = self._known.get(id(cls))
        if known is None:
            known = self._known[id(cls)] = cls, self._find(cls)
        found = known[1]
        if type(found) is not ClassPack:
            return None if found is None else (class_with, (found,))
        hold(found)
        return class_of, (found.number,)

    @property
    def ways(self) -> dict[Any, Any]:
        """How pickle itself can take instances of those that were met before, by class."""
        return self._functions.instances.ways(self)

    def _find(self, cls: type) -> ClassPack | str | None:
        """What workers get of a class, or the name of what they have of it."""
        if not is_by_value(cls):
            return None
        if self._call.classes and (name := tracker_of(cls)) in self._call.classes:
            self._functions.instances.meet(cls)
            return name
        try:
            with held_apart():
                pack = self._functions.prepare_class(cls)
        except SerializationError:  # told once more by whoever pickles it with its instance
            return None
        self.needs.append(pack)
        self._functions.instances.meet(cls)
        return pack


class _Known(NamedTuple):
    """What was sent of one function or class."""

    sent: Any
    mark: Mark | None
    by_value: Any

    @property
    def nbytes(self) -> int:
        own: int = self.sent.nbytes
        return own + (self.mark.nbytes if self.mark is not None else 0)

    def is_current(self, roots: tuple[Any, ...]) -> bool:
        return by_value_modules() == self.by_value and (self.mark is None or self.mark.holds(roots))


class Functions:
    """The functions of one pool. Any thread may prepare one, also within the making of another one."""

    def __init__(self, *sent: type, has_files: bool = False) -> None:
        """*sent*: kinds of what is sent before what needs it, besides what always is.

        *has_files*: whether the files of this machine are there for those who get it.
        """
        self.numbers: Numbers = Numbers()
        self.instances: Instances = Instances()
        self._sent = sent
        self._has_files = has_files
        self._known: Owners[_Known] = Owners()
        self._owned: Owners[FunctionCall] = Owners()
        self._factories: Owners[FactoryPack] = Owners()
        # Changed with the lock only, which whoever holds it may take again: from a signal handler or a `__del__`.
        self._lock = threading.RLock()
        self._calls: dict[Any, ref[FunctionCall]] = {}
        self._parts: dict[tuple[str, int], list[ref[Any]]] = {}
        self._tables: dict[tuple[type, int], list[ref[Any]]] = {}
        self._recent: OrderedDict[FunctionCall, None] = OrderedDict()
        self._recent_nbytes = 0
        self._room = 0  # names until it is looked which of them are those of something gone
        self._most = 0  # bytes that `_known` keeps, at most

    def witness(self, function: Any, call: FunctionCall) -> Callable[[tuple[Any, ...]], bool] | None:
        """What tells whether a function is still what it was when it was packed as *call*; `None`: nothing does."""
        known = self._known.find(function, call.callee.rules)
        # Another thread, or a signal handler, may have packed it since, as something else.
        return known.is_current if known is not None and known.sent is call else None

    def prepare(self, function: Any, rules: Rules) -> FunctionCall:
        """The call of a function as it is now; the same as before if it is the same, byte by byte.

        Raises:
            SerializationError: it can't be pickled.
        """
        known = self._known.find(function, rules)
        if known is not None and known.is_current((function, *rules.retry_on)):
            call: FunctionCall = known.sent
            return call
        check_reentry()
        with self._lock, read_with_files(self._has_files):
            return or_by_name(self._prepare, function, rules)

    def prepare_class(self, cls: type) -> ClassPack:
        """A class by value as it is now; the same as before if nothing has changed.

        Raises:
            SerializationError: it can't be pickled.
        """
        known = self._known.find(cls, None)
        if known is not None and known.is_current((cls,)):
            pack: ClassPack = known.sent
            return pack
        with self._lock, read_with_files(self._has_files):
            mark, packed, parts = self._pack(cls, cls, (cls,))
            pack = ClassPack(self, packed, parts)
            self._keep((cls,), None, pack, mark)
            return pack

    def prepare_initializer(self, options: Options) -> InitializerPack | None:
        """The initializer as it is now, if there is one.

        Raises:
            SerializationError: it can't be pickled.
        """
        if options.initializer is None:
            return None
        with read_with_files(self._has_files):
            packed = dump_call(options.initializer, options.initargs, given=options.initargs)
        with self._lock:
            return InitializerPack(self, packed, self._buffers(packed.buffers))

    def factories(self, needs: Iterable[Any]) -> list[FactoryPack]:
        """What is sent before what *needs* it, each once."""
        return [self._factory_of(each) for each in dict.fromkeys(needs) if is_sent(each) or type(each) in self._sent]

    def _factory_of(self, token: Any) -> FactoryPack:
        with self._lock:
            pack = self._factories.find(token, None)
            if pack is None:
                packed = token.packed
                assert packed is not None  # noqa: S101 - a token is needed only by what was pickled with it
                pack = FactoryPack(self, packed, self._buffers(packed.buffers))
                pack.more = (token.token, type(token) is PerWorker)
                self._factories.keep(token, None, pack)
            return pack

    def take_gone(self) -> list[int]:
        """Drop what was kept for functions, classes and tokens that are gone; returns the numbers that nobody needs."""
        for purge in (self._known.purge, self._owned.purge, self._factories.purge):
            purge()
        return self.numbers.take_gone()

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._recent_nbytes = 0
            for clear in (self._known.clear, self._owned.clear, self._recent.clear, self._tables.clear):
                clear()

    def _prepare(self, function: Any, rules: Rules) -> FunctionCall:
        find, args, by_name = reference(function)
        what = find, args, rules
        mark: Mark | None = None
        packed = None if is_stranger(function) and not by_name else dump_plainly(what)
        if packed is not None and (by_name or len(packed.stream) <= _SMALL):
            parts = self._buffers(packed.buffers)
        else:
            mark, packed, parts = self._pack(function, what, (function, *rules.retry_on))
        owner = None if by_name else state_of(function)
        key = (id(owner), hash(packed.stream), *(part.number for part in parts))
        found, before = self._calls.get(key), self._known.find(function, rules)
        call = found() if found is not None else None
        # If what was sent of it is the same, there is another object in it, as much as the one that it was sent with.
        is_other = before is not None and before.sent is call and not by_name
        if call is None or is_other or call.stream != packed.stream or call.owner() is not owner:
            self._thin_out()
            callee = Callee(SimpleNamespace(__qualname__=called(function)), rules)
            call = FunctionCall(self, packed, parts, callee, mark, stable=by_name)
            call.key, call.owner = key, whose(owner)
            self._calls[key] = ref(call)
        if owner is not None and any(getattr(each, "thing", None) is owner for each in call.needs):
            call.holds = True  # as the `put` of a queue does: if it were kept as long as that lives, both would stay
            return call
        if before is not None and before.sent is not call:  # nor is what comes later the same again
            self._calls.pop(before.sent.key, None)
        self._keep((function, *rules.retry_on), rules, call, mark)
        if owner is None:
            self._remember(call)
        else:  # as long as that lives
            self._owned.keep(owner, (called(function), rules), call)
        return call

    def _pack(self, thing: Any, what: Any, roots: tuple[Any, ...]) -> tuple[Mark | None, Packed, list[Part]]:
        """Pack *what*, in which a *thing* of the user's is by value; the mark of the *roots*, if they can have one."""
        found: Mark | None = None
        large: Large = []
        import_whole("cloudpickle")
        try:
            found, large = mark(roots, self._tables_of)
        except Exception as error:
            if is_foreign(error):
                raise  # else the user's code has failed; whether they can be pickled is seen next
        packed = dump_function(thing, what, apart_of(large))
        parts = [self._part_of(table) for _, table in large]
        return found, packed, [*parts, *self._buffers(packed.buffers)]

    def _keep(self, roots: tuple[Any, ...], rules: Rules | None, sent: ClassPack, mark: Mark | None) -> None:
        """Remember what was sent of a function or class, if it can be told whether that is still right."""
        # If another thread has changed something since the mark was made, nobody knows which of both was sent.
        if mark.bind(sent.parts) and mark.holds(roots) if mark is not None else sent.stable:
            known = _Known(sent, mark, by_value_modules())
            self._known.keep(roots[0], rules, known)
            self._most += known.nbytes
            if self._most > _HELD:
                self._limit()

    def _limit(self) -> None:
        """Drop what was kept first, if it is too much."""
        sizes = [each.nbytes for each in self._known.values()]
        self._most = sum(sizes)
        for size in sizes:
            if self._most <= _HELD:
                return
            self._known.drop_oldest()
            self._most -= size

    def _remember(self, call: FunctionCall) -> None:
        """A function may be made again, with all that it captures: a lambda in a loop is."""
        if call.needs or call.nbytes > _RECENT or any(name_of(kind) is None for kind in call.callee.retry_on):
            return
        if call not in self._recent:
            self._recent[call] = None
            self._recent_nbytes += call.nbytes
        self._recent.move_to_end(call)
        while self._recent_nbytes > _RECENT or len(self._recent) > 256:  # noqa: PLR2004
            self._recent_nbytes -= self._recent.popitem(last=False)[0].nbytes

    # parts

    def _buffers(self, views: list[memoryview]) -> list[Part]:
        return self._parts_of([("readonly" if view.readonly else "buffer", view) for view in views])

    def _tables_of(self, kind: type, length: int) -> Iterable[Table]:
        return [table for each in self._tables.get((kind, length), ()) if (table := each()) is not None]

    def _part_of(self, table: Table) -> Part:
        if table.part is None:
            table.part = self._parts_of([("table", memoryview(pickle.dumps(table.copy(), PROTOCOL)))])[0]
            self._tables.setdefault((table.kind, len(table.keys)), []).append(ref(table))
        return table.part

    def _parts_of(self, pieces: list[tuple[str, memoryview]]) -> list[Part]:
        """A part of each piece, kind and content: no two the same one, for a task may change one of equal arrays."""
        found: dict[int, Part] = {}
        taken: set[Part] = set()
        for place, (kind, content) in enumerate(pieces):
            for each in self._parts.get((kind, content.nbytes), ()):
                part: Part | None = each()
                if part is not None and part not in taken and part.holds(content):
                    found[place] = part
                    taken.add(part)
                    break
        missing = [place for place in range(len(pieces)) if place not in found]
        for place, part in zip(missing, parts_of(self.numbers, [pieces[place] for place in missing]), strict=True):
            found[place] = part
            self._parts.setdefault((part.kind, part.nbytes), []).append(ref(part))
        return [found[place] for place in range(len(pieces))]

    def _thin_out(self) -> None:
        """Forget the names of what is gone, when there may be as many as of what is not."""
        if len(self._calls) < self._room:
            return
        for key in [key for key, call in self._calls.items() if call() is None]:
            del self._calls[key]
        _drop_dead(self._parts)
        _drop_dead(self._tables)
        self._room = 2 * len(self._calls) + _FEW


def _drop_dead(table: dict[Any, list[ref[Any]]]) -> None:
    for name, known in list(table.items()):
        known[:] = [each for each in known if each() is not None]
        if not known:
            del table[name]
