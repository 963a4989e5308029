"""The batch methods of a decorated function, with the types of their many forms."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from parmap._calls.checks import check_buffersize, check_flag
from parmap._calls.first import load
from parmap._calls.options import Options, Settings, refuse_for_one_call

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    from parmap._calls.typed import (
        JournalLike,
        Keep,
        KeepNow,
        KeepStream,
        Progress,
        Raise,
        RaiseNow,
        RaiseStream,
        Told,
    )
    from parmap._engine import pools
    from parmap._results.futures import Future
    from parmap._results.outcomes import Outcome
    from parmap._results.streams import ResultStream

__all__ = ["Batches", "pools"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S")
A_contra = TypeVar("A_contra", contravariant=True)
Many = Iterable[Any]
_WAYS = ("__iter__", "__getitem__", "__aiter__")  # to go through something
MYPY = False  # to mypy it is true

if TYPE_CHECKING:
    # What a call returns where that is not the result of a task: the coroutine of an ``async def``.
    C_co = TypeVarWithDefault("C_co", covariant=True, default=R_co)

    # A function whose first arguments are taken from the iterables. It is what `self` is, seen as a callable: what a
    # parameter is called does not matter then.
    Of1 = Callable[Concatenate[A, ...], Any]
    Of2 = Callable[Concatenate[A, B, ...], Any]

    class Unsolved(Protocol[A_contra]):
        """Any iterable, where mypy can't tell the parameter of a generic function and takes it for `Never`.

        No other type is both a `str` and a `SupportsIndex`, as the methods of objects ask for.
        """

        def __iter__(self) -> Iterator[Any]: ...
        def __format__(self, spec: A_contra, /) -> str: ...  # type: ignore[override]
        def __reduce_ex__(self, protocol: A_contra, /) -> Any: ...  # type: ignore[override]

        if not MYPY:  # nothing has this

            def for_mypy_only(self) -> None: ...

    Items = Iterable[A] | Unsolved[A]
    Stream = Iterable[A] | AsyncIterable[A] | Unsolved[A]

else:
    C_co = TypeVar("C_co", covariant=True)


class _Unloaded:
    """Stands for the module that runs calls until its first use: no import statement is on the way of each call."""

    def current(self) -> None:
        """Leave it to the call to take its context."""

    def __getattr__(self, name: str) -> Any:
        return functools.partial(_first, name)


def _first(name: str, *args: Any, **how: Any) -> Any:
    global pools  # the module itself from now on
    early, pools = load(next(each for each in args if isinstance(each, Options)))
    with early:
        return getattr(pools, name)(*args, **how)


if not TYPE_CHECKING:
    pools = _Unloaded()


class Batches(Generic[P, R_co, C_co]):
    """The batch methods. The elements of the first two iterables are checked; further ones are taken as they are."""

    __wrapped__: Callable[P, C_co]
    _settings: Settings

    if not TYPE_CHECKING:  # a type variable can't have a default before Python 3.13: the third is the second then

        def __class_getitem__(cls, given: Any) -> Any:
            return super().__class_getitem__((*given, *given[1:])[:3] if type(given) is tuple else given)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> C_co:
        return self.__wrapped__(*args, **kwargs)

    def _begin(
        self, start: Callable[..., S], iterables: tuple[Any, ...], chunksize: int | None, progress: Any, *more: Any
    ) -> S:
        journal, how, unknown = more
        if unknown:
            refuse_for_one_call(unknown)
        for flag in ("return_exceptions", "ordered"):
            check_flag(flag, how.get(flag, False))
        for each in iterables:
            if not any(map(hasattr, repeat(type(each)), _WAYS)):  # a generator would swallow a Ctrl-C
                if callable(each):  # as the methods of pools take one
                    raise TypeError(f"give the items only, not {each!r}: the function is the decorated one")
                way_out = "give the items, what is the same for all by partial(), and options by keyword (chunksize=…)"
                raise TypeError(f"{each!r} is not iterable: {way_out}")
        if len(iterables) > 1 and "star" in how:
            raise TypeError("starmap takes one iterable, of tuples; map takes several iterables")
        options = self._settings.resolve()
        given: dict[str, Any] = {"chunksize": chunksize, "progress": progress}
        if changes := {name: value for name, value in given.items() if value is not None}:
            options = options.replace(**changes)
        if journal is not None:
            from parmap._calls.journal.keeping import Keeping

            how["keeping"] = Keeping(journal, self.__wrapped__, how.get("star", len(iterables) > 1), options.seed)
        return start(self.__wrapped__, iterables, options, **how)

    # --- at once ----------------------------------------------------------------------------------------------------

    @overload
    def map(self: Of1[A], a: Items[A], /, **batch: Unpack[RaiseNow]) -> list[R_co]: ...
    @overload
    def map(self: Of1[A], a: Items[A], /, **batch: Unpack[KeepNow]) -> list[R_co | Exception]: ...
    @overload
    def map(self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[RaiseNow]) -> list[R_co]: ...
    @overload
    def map(
        self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[KeepNow]
    ) -> list[R_co | Exception]: ...
    def map(
        self,
        iterable: Many,
        /,
        *iterables: Many,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        journal: JournalLike = None,
        **unknown: Any,
    ) -> list[Any]:
        """Return the results of the function over the items, in order, as ``list(map(f, ...))`` does.

        Several iterables are taken in step, until the shortest ends. The first error stops the rest and is raised at
        once; with *return_exceptions* all items are run, and an error takes the place of its result. With a *journal*,
        the path of a file or a :class:`Journal`, results are kept there as they come, and what it has is not run again.

        Raises:
            Exception: the first error of a task, unless *return_exceptions* is true.
            WorkerDiedError: a worker died in a task.
            TaskTimeoutError: a task ran longer than ``timeout``.

        Example:
            >>> from parmap import parallel
            >>> parallel(abs, workers=2).map([-1, 2, -3])
            [1, 2, 3]
        """
        how = {"return_exceptions": return_exceptions}
        return self._begin(pools.map, (iterable, *iterables), chunksize, progress, journal, how, unknown)

    @overload
    def starmap(self, iterable: Iterable[Iterable[Any]], /, **batch: Unpack[RaiseNow]) -> list[R_co]: ...
    @overload
    def starmap(self, iterable: Iterable[Iterable[Any]], /, **batch: Unpack[KeepNow]) -> list[R_co | Exception]: ...
    def starmap(
        self,
        iterable: Iterable[Iterable[Any]],
        /,
        *more: Any,  # is refused
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        journal: JournalLike = None,
        **unknown: Any,
    ) -> list[Any]:
        """Return the results in order, where each item is a tuple of arguments. Otherwise as :meth:`map`.

        Example:
            >>> from parmap import parallel
            >>> parallel(pow, workers=2).starmap([(2, 3), (3, 2)])
            [8, 9]
        """
        how = {"star": True, "return_exceptions": return_exceptions}
        return self._begin(pools.map, (iterable, *more), chunksize, progress, journal, how, unknown)

    # --- as a stream ------------------------------------------------------------------------------------------------

    @overload
    def imap(self: Of1[A], a: Stream[A], /, **batch: Unpack[RaiseStream]) -> ResultStream[R_co]: ...
    @overload
    def imap(self: Of1[A], a: Stream[A], /, **batch: Unpack[KeepStream]) -> ResultStream[R_co | Exception]: ...
    @overload
    def imap(
        self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[RaiseStream]
    ) -> ResultStream[R_co]: ...
    @overload
    def imap(
        self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[KeepStream]
    ) -> ResultStream[R_co | Exception]: ...
    def imap(
        self,
        iterable: Many | AsyncIterable[Any],
        /,
        *iterables: Many,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        journal: JournalLike = None,
        **unknown: Any,
    ) -> ResultStream[Any]:
        """Return a stream of the results, in order, as they come.

        The input is read only *buffersize* items ahead of what was taken from the stream, so that endless input and
        a slow consumer run in constant memory; ``None`` is as many as keep the workers busy, at most 100,000 and
        about 64 MB of results. It is read by whoever takes the results, so it must not wait for any of them. It may be
        asynchronous: then so must be the reading, by ``async for``. Closing the stream, or leaving its ``with``,
        cancels the rest. The first error is raised as soon as it happens; `outcomes` gives each in its turn.

        Example:
            >>> from itertools import count
            >>> from parmap import parallel
            >>> with parallel(abs, workers=2).imap(count()) as stream:
            ...     [next(stream) for _ in range(3)]
            [0, 1, 2]
        """
        how = {"ordered": True, "buffersize": check_buffersize(buffersize), "return_exceptions": return_exceptions}
        return self._begin(pools.stream, (iterable, *iterables), chunksize, progress, journal, how, unknown)

    if TYPE_CHECKING:
        imap_unordered = imap  # of the same types
    else:

        def imap_unordered(
            self,
            iterable: Many | AsyncIterable[Any],
            /,
            *iterables: Many,
            buffersize: int | None = None,
            return_exceptions: bool = False,
            chunksize: int | None = None,
            progress: Progress | None = None,
            journal: JournalLike = None,
            **unknown: Any,
        ) -> ResultStream[Any]:
            """Return a stream of the results as they are completed. Otherwise as :meth:`imap`.

            Example:
                >>> from parmap import parallel
                >>> sorted(parallel(abs, workers=2).imap_unordered([-1, 2, -3]))
                [1, 2, 3]
            """
            how = {"ordered": False, "buffersize": check_buffersize(buffersize), "return_exceptions": return_exceptions}
            return self._begin(pools.stream, (iterable, *iterables), chunksize, progress, journal, how, unknown)

    @overload
    def outcomes(self: Of1[A], a: Stream[A], /, **batch: Unpack[Told]) -> ResultStream[Outcome[R_co]]: ...
    @overload
    def outcomes(
        self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[Told]
    ) -> ResultStream[Outcome[R_co]]: ...
    def outcomes(
        self,
        iterable: Many | AsyncIterable[Any],
        /,
        *iterables: Many,
        ordered: bool = True,
        buffersize: int | None = None,
        chunksize: int | None = None,
        progress: Progress | None = None,
        journal: JournalLike = None,
        **unknown: Any,
    ) -> ResultStream[Any]:
        """Return a stream that tells what became of each item, an :class:`Outcome` each; nothing stops it.

        An error is an outcome, and so are the death of a worker and a timeout. In order, or with ``ordered=False`` as
        they are completed; otherwise as :meth:`imap`.

        Example:
            >>> from parmap import parallel
            >>> items = ["1", "2", "three"]
            >>> [outcome.item for outcome in parallel(int, workers=2).outcomes(items) if not outcome.ok]
            ['three']
        """
        how = {"ordered": ordered, "buffersize": check_buffersize(buffersize), "accounts": True}
        return self._begin(pools.stream, (iterable, *iterables), chunksize, progress, journal, how, unknown)

    # --- later ------------------------------------------------------------------------------------------------------

    @overload
    def map_async(self: Of1[A], a: Items[A], /, **batch: Unpack[Raise]) -> Future[list[R_co]]: ...
    @overload
    def map_async(self: Of1[A], a: Items[A], /, **batch: Unpack[Keep]) -> Future[list[R_co | Exception]]: ...
    @overload
    def map_async(
        self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[Raise]
    ) -> Future[list[R_co]]: ...
    @overload
    def map_async(
        self: Of2[A, B], a: Items[A], b: Items[B], /, *more: Many, **batch: Unpack[Keep]
    ) -> Future[list[R_co | Exception]]: ...
    def map_async(
        self,
        iterable: Many,
        /,
        *iterables: Many,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        **unknown: Any,
    ) -> Future[list[Any]]:
        """Start :meth:`map`, and return the future of its list.

        Example:
            >>> from parmap import parallel
            >>> parallel(abs, workers=2).map_async([-1, 2]).result()
            [1, 2]
        """
        how = {"return_exceptions": return_exceptions}
        return self._begin(pools.map_async, (iterable, *iterables), chunksize, progress, None, how, unknown)

    @overload
    def starmap_async(self, iterable: Iterable[Iterable[Any]], /, **batch: Unpack[Raise]) -> Future[list[R_co]]: ...
    @overload
    def starmap_async(
        self, iterable: Iterable[Iterable[Any]], /, **batch: Unpack[Keep]
    ) -> Future[list[R_co | Exception]]: ...
    def starmap_async(
        self,
        iterable: Iterable[Iterable[Any]],
        /,
        *more: Any,  # is refused
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        **unknown: Any,
    ) -> Future[list[Any]]:
        """Start :meth:`starmap`, and return the future of its list.

        Example:
            >>> from parmap import parallel
            >>> parallel(pow, workers=2).starmap_async([(2, 3)]).result()
            [8]
        """
        how = {"star": True, "return_exceptions": return_exceptions}
        return self._begin(pools.map_async, (iterable, *more), chunksize, progress, None, how, unknown)
