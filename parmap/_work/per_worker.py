"""What each worker makes for itself, once, and closes at its end; and which worker this is.

A worker is a process of a pool's or of an executor's, a thread of theirs, or the program itself, for plain and serial
calls. What it has made is known by tokens, which travel; the factories behind them go to each worker once.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

# Not from `threading`: what it does after each fork makes pages of 0.4 MB each worker's own.
from _thread import RLock, get_ident
from _thread import _local as local
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import GeneratorType
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, overload
from weakref import KeyedRef, WeakValueDictionary

from parmap._travel.code.by_name import by_name, explain, name_of
from parmap._travel.pack import Packed
from parmap._travel.payload import dump_call
from parmap._travel.stream import held_apart, hold
from parmap._work import place as _place
from parmap._work.outcome import Loading
from parmap._work.seeds import undrawn

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_ASYNCHRONOUS = 0x80 | 0x200  # flags of the code of coroutines and asynchronous generators


class Worker(NamedTuple):
    """Which worker this is: what :func:`worker` returns."""

    index: int  # type: ignore[assignment]  # the methods of tuples have no use here
    """From 0 to `count - 1`: no other living worker of the pool has it. On a cluster, each process counts its own."""
    count: int  # type: ignore[assignment]
    """How many workers the pool may have."""


class _Made(NamedTuple):
    """What a worker has made, and how it is closed."""

    value: Any
    leave: Callable[[], object] | None
    owner: KeyedRef[bytes, PerWorker[Any]]


class Keeper:
    """What one worker has made, the latest last."""

    inherited: ClassVar[list[Any]] = []  # what the process made that this one was forked from: it closes it

    def __init__(self) -> None:
        self.made: dict[bytes, _Made] = {}
        self.prepared: dict[Hashable, object] = {}  # by initializers: pools, with the options that tell them apart
        self._turns: dict[Hashable, Any] = {}
        # Filled by C alone: of a Ctrl-C in a callback of ours nobody would hear.
        self._gone: deque[KeyedRef[bytes, PerWorker[Any]]] = deque()
        self.thread = get_ident()
        self._pid = os.getpid()
        self._ends = False  # whether this process closes it when it ends

    def make(self, owner: PerWorker[Any]) -> Any:
        """The object of *owner*, made if there is none. Several threads of one process may want it first."""
        self.purge()
        token = owner.token
        with self.turn(token):
            if token not in self.made:
                begin, before = time.monotonic_ns(), Loading.nanoseconds
                with undrawn():
                    value, leave = _entered(owner.factory())
                self.made[token] = _Made(value, leave, KeyedRef(owner, self._gone.append, token))
                if self is Here.keeper and not self._ends:
                    self._ends = True
                    atexit.register(self.close_all)
                    finalize = getattr(sys.modules.get("multiprocessing.util"), "Finalize", None)
                    if finalize is not None:  # its processes end without `atexit`
                        finalize(None, self.close_all, exitpriority=100)
                if _place.in_worker:  # no item is to be blamed for the time; what this one needs is in it
                    Loading.nanoseconds = before + time.monotonic_ns() - begin
            return self.made[token].value

    def turn(self, key: Hashable) -> Any:
        """Held by the thread that makes, or prepares, what has this key: others wait until it is there."""
        return self._turns.setdefault(key, RLock())

    def unprepare(self, key: Hashable) -> None:
        """Have the initializer of a pool called again."""
        self.prepared.pop(key, None)
        self._turns.pop(key, None)

    def purge(self) -> None:
        """Close what belongs to tokens that nobody holds any more."""
        while self._gone and self.thread == get_ident():
            self.close(self._gone.popleft().key)

    def close(self, token: bytes) -> None:
        """Close one, if it is there."""
        made = self.made.pop(token, None)
        self._turns.pop(token, None)
        if made is not None and made.leave is not None:
            try:
                made.leave()
            except BaseException as error:  # noqa: BLE001 - the user's code; nobody takes it, and the others wait
                sys.excepthook(type(error), error, error.__traceback__)

    def close_all(self) -> None:
        """Close everything, the latest first: it may use what was made before."""
        while self.made and self._pid == os.getpid():
            self.close(next(reversed(self.made)))

    def __del__(self) -> None:
        if self._pid == os.getpid():  # a thread that was a worker ends: here, in that thread
            self.close_all()
        else:
            self.inherited.append(self.made)


class Here(local):
    """The worker that this is: of the process, but for threads that are workers themselves."""

    keeper = Keeper()
    worker: Worker | None = Worker(0, 1)

    @property
    def is_of_process(self) -> bool:
        """Whether this thread is no worker by itself."""
        return "keeper" not in vars(self)

    def begin(self, number: Worker | None) -> None:
        """This thread is a worker from now on; `None`: one that has no number."""
        if self.is_of_process:
            self.keeper, self.worker = Keeper(), number


here = Here()
_known: WeakValueDictionary[bytes, PerWorker[Any]] = WeakValueDictionary()
_arrived: dict[bytes, PerWorker[Any]] = {}  # until the program drops them


class PerWorker(Generic[T_co]):
    """An object of which each worker has its own: what :func:`per_worker` returns. Call it to get the object."""

    is_sent = True

    def __init__(self, factory: Callable[[], Any] | None, token: bytes, module: str = "") -> None:
        """Made by `per_worker`. *module*: where; *factory*: none, where it is still to come."""
        self.__wrapped__: Any = factory
        self.load: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]] | None = None
        self._place = module
        self._packed: Packed | None = None
        self._turn = RLock()
        self._packing = False
        self.token: bytes = token

    def __call__(self) -> T_co:
        """The object of the worker that asks; it is made if this is the first time."""
        keeper = here.keeper
        made = keeper.made.get(self.token)
        value: T_co = keeper.make(self) if made is None else made.value
        return value

    def factory(self) -> Any:
        """Call the factory, which is loaded if it came from elsewhere."""
        if self.__wrapped__ is None:
            if self.load is None:
                raise RuntimeError(
                    "the factory of this parmap.PerWorker is not here: it goes to workers of parmap's calls only"
                )
            try:
                find, args = self.load()
                self.__wrapped__ = find(*args)
            except ImportError as error:
                explain(error)
                raise
        return self.__wrapped__()

    @property
    def packed(self) -> Packed | None:
        """The factory as it travels: as it was when it was first to do so. `None`: it came here, or is just packed.

        Raises:
            SerializationError: it can't travel.
        """
        if self.__wrapped__ is None or self.token in _arrived:
            return None
        with self._turn:
            if self._packed is None and not self._packing:  # else it is reached by itself
                self._packing = True
                try:
                    with held_apart():
                        self._packed = dump_call(self.__wrapped__).keep()
                finally:
                    self._packing = False
            return self._packed

    def __reduce__(self) -> tuple[Any, ...]:
        found = self._find_name()
        if found is not None:  # a worker that imports the module has it, too
            return by_name, found
        if self.packed is not None:
            hold(self)
        return _find, (self.token,)

    def _find_name(self) -> tuple[Any, ...] | None:
        module = sys.modules.get(self._place)
        for name, value in [*vars(module).items()] if module is not None else ():
            if value is self:
                self.__module__, self.__qualname__ = self._place, name
                return name_of(self)
        return None

    def __del__(self) -> None:
        known: Any = _known
        if known is None:  # an interpreter ends, and has closed all: globals are gone, those with an underscore first
            return
        if here.keeper.thread == get_ident() and known.get(self.token) in {None, self}:
            here.keeper.close(self.token)

    def __repr__(self) -> str:
        return f"<parmap.PerWorker of {getattr(self.__wrapped__, '__qualname__', 'a factory')}>"


@overload
def per_worker(factory: Callable[[], AbstractContextManager[T]]) -> PerWorker[T]: ...
@overload
def per_worker(factory: Callable[[], Iterator[T]]) -> PerWorker[T]: ...  # a generator function
@overload
def per_worker(factory: Callable[[], T]) -> PerWorker[T]: ...
def per_worker(factory: Callable[[], Any]) -> PerWorker[Any]:
    """Let each worker make an object of its own, once, when it first needs it: a model, a connection, a scratch folder.

    What this returns is called in tasks to get the object. A worker is a process, a thread, or the program itself, for
    plain and serial calls. It keeps the object as long as it lives and the program holds what this returned.

    Args:
        factory: called without arguments. If it returns a context manager, or is a generator function that yields once,
            that is entered, and closed when its worker ends: idle, replaced, shut down, or with the program.

    Raises:
        TypeError: the factory can't be called, or is asynchronous.

    Example:
        >>> import sqlite3, contextlib, parmap
        >>> connection = parmap.per_worker(lambda: contextlib.closing(sqlite3.connect(":memory:")))
        >>> @parmap.parallel(workers=2)
        ... def half(x: int) -> float:
        ...     return connection().execute("select ? / 2.0", (x,)).fetchone()[0]
        >>> half.map([1, 2])
        [0.5, 1.0]
    """
    if not callable(factory):
        raise TypeError(f"per_worker() takes a function without arguments that makes the object, not {factory!r}")
    if getattr(getattr(factory, "__code__", None), "co_flags", 0) & _ASYNCHRONOUS:
        raise TypeError(f"per_worker() can't use {factory.__qualname__}: a task has a loop of its own; use a plain def")
    token = os.urandom(16)
    made = _known[token] = PerWorker(factory, token, sys._getframe(1).f_globals.get("__name__", ""))  # noqa: SLF001
    made.__doc__ = factory.__doc__
    return made


def worker() -> Worker:
    """Which worker this is. Outside of tasks, and in serial ones, it is number 0 of 1.

    A worker keeps its number as long as it lives; one that replaces another takes the number that is free.

    Raises:
        RuntimeError: this is a worker of an executor that knows no numbers: any but `ThreadPoolExecutor` and, on Linux,
            `ProcessPoolExecutor` and loky's.

    Example:
        >>> import parmap
        >>> @parmap.parallel(workers=2)
        ... def device(_: int) -> str:
        ...     return f"cuda:{parmap.worker().index}"
        >>> sorted({*device.map(range(100))} | {"cuda:0", "cuda:1"})
        ['cuda:0', 'cuda:1']
        >>> parmap.worker()
        Worker(index=0, count=1)
    """
    if here.worker is None:
        raise RuntimeError(
            "this worker has no number, or none yet: parmap.worker() knows those of parmap's own workers, "
            "of a ThreadPoolExecutor and, on Linux, of a ProcessPoolExecutor or loky's"
        )
    return here.worker


def _entered(thing: Any) -> tuple[Any, Callable[[], object] | None]:
    """What a factory made, or what it gives when it is entered, and how it is left."""
    if type(thing) is GeneratorType:
        thing = contextmanager(lambda: thing)()
    if not isinstance(thing, AbstractContextManager):
        return thing, None
    stack = ExitStack()
    return stack.enter_context(thing), stack.close


def _begin_anew() -> None:
    """In a process made by `os.fork()`: what was made is the parent's, which closes it."""
    Keeper.inherited.append((Here.keeper, vars(here).pop("keeper", None)))
    Here.keeper = Keeper()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


# --- tokens that travel ---------------------------------------------------------------------------------------------


def arrive(token: bytes, load: Callable[[], Any]) -> None:
    """A factory has come; *load* gives how it is found."""
    found = _find(token)
    if found.__wrapped__ is None and found.load is None:
        found.load = load
        _arrived[token] = found


def forget(token: bytes) -> None:
    """The program has dropped a token."""
    here.keeper.close(token)
    _arrived.pop(token, None)


def _find(token: bytes) -> PerWorker[Any]:
    known = _known.get(token)
    return known if known is not None else _known.setdefault(token, PerWorker(None, token))
