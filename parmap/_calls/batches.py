"""The batch methods of a decorated function, with the types of their many forms."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from parmap._calls.options import BatchOptions, Options, OptionsDict, Progress, Settings

if TYPE_CHECKING:
    import os
    from types import ModuleType
    from typing import Required, TypeAlias, Unpack

    from parmap._calls.journal.keeping import Journal, Keeping
    from parmap._results.futures import Future
    from parmap._results.outcomes import Outcome
    from parmap._results.streams import ResultStream

__all__ = ["Batches", "engine"]

P = ParamSpec("P")
Rest = ParamSpec("Rest")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")
Many = Iterable[Any]

if TYPE_CHECKING:
    JournalLike: TypeAlias = str | os.PathLike[str] | Journal | None

    # The keyword arguments, for the overloads: errors are raised, or kept in the place of results.

    class Raise(BatchOptions, total=False):
        return_exceptions: Literal[False]

    class Keep(BatchOptions, total=False):
        return_exceptions: Required[bool]

    # Those that can wait for nothing later take a journal, too.

    class RaiseNow(Raise, total=False):
        journal: JournalLike

    class KeepNow(Keep, total=False):
        journal: JournalLike

    class RaiseStream(RaiseNow, total=False):
        buffersize: int | None

    class KeepStream(KeepNow, total=False):
        buffersize: int | None

    class Told(BatchOptions, total=False):
        ordered: bool
        buffersize: int | None
        journal: JournalLike


_engine: ModuleType | None = None


def engine() -> Any:
    """Return the module that runs calls, imported when first needed."""
    # Kept, because an import statement costs half a microsecond each time, a good part of what submit() may cost.
    global _engine  # noqa: PLW0603 - a cache
    if _engine is None:
        from parmap._engine import pools as _pools

        _engine = _pools
    return _engine


class Batches(Generic[P, R_co]):
    """The batch methods. One and two iterables have their elements checked; three and more are taken as they are."""

    __wrapped__: Callable[P, R_co]
    _settings: Settings

    def _options_for(self, chunksize: int | None, progress: Progress | None) -> Options:
        options = self._settings.resolve()
        changes: OptionsDict = {}
        if chunksize is not None:
            changes["chunksize"] = chunksize
        if progress is not None:
            changes["progress"] = progress
        return options.replace(**changes) if changes else options

    def _keeping(self, journal: JournalLike, options: Options, *, star: bool) -> Keeping | None:
        if journal is None:
            return None
        from parmap._calls.journal.keeping import Keeping

        return Keeping(journal, self.__wrapped__, star, options.seed)

    def _stream(
        self, iterables: tuple[Any, ...], chunksize: int | None, progress: Progress | None, journal: Any, how: Any
    ) -> Any:
        options = self._options_for(chunksize, progress)
        keeping = self._keeping(journal, options, star=len(iterables) > 1)
        return engine().stream(self.__wrapped__, iterables, options, keeping=keeping, **how)

    # --- at once ----------------------------------------------------------------------------------------------------

    @overload
    def map(self: Batches[Concatenate[A, Rest], R], a: Iterable[A], /, **batch: Unpack[RaiseNow]) -> list[R]: ...
    @overload
    def map(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A], /, **batch: Unpack[KeepNow]
    ) -> list[R | Exception]: ...
    @overload
    def map(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[RaiseNow]
    ) -> list[R]: ...
    @overload
    def map(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[KeepNow]
    ) -> list[R | Exception]: ...
    @overload
    def map(self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[RaiseNow]) -> list[R_co]: ...
    @overload
    def map(self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[KeepNow]) -> list[R_co | Exception]: ...
    def map(
        self,
        iterable: Many,
        /,
        *iterables: Many,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        journal: JournalLike = None,
    ) -> Any:
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
        options = self._options_for(chunksize, progress)
        keeping = self._keeping(journal, options, star=len(iterables) > 0)
        return engine().map(
            self.__wrapped__, (iterable, *iterables), options, return_exceptions=return_exceptions, keeping=keeping
        )

    @overload
    def starmap(self, iterable: Iterable[Iterable[Any]], /, **batch: Unpack[RaiseNow]) -> list[R_co]: ...
    @overload
    def starmap(self, iterable: Iterable[Iterable[Any]], /, **batch: Unpack[KeepNow]) -> list[R_co | Exception]: ...
    def starmap(
        self,
        iterable: Iterable[Iterable[Any]],
        /,
        *,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
        journal: JournalLike = None,
    ) -> Any:
        """Return the results in order, where each item is a tuple of arguments. Otherwise as :meth:`map`.

        Example:
            >>> from parmap import parallel
            >>> parallel(pow, workers=2).starmap([(2, 3), (3, 2)])
            [8, 9]
        """
        options = self._options_for(chunksize, progress)
        keeping = self._keeping(journal, options, star=True)
        return engine().map(
            self.__wrapped__, (iterable,), options, star=True, return_exceptions=return_exceptions, keeping=keeping
        )

    # --- as a stream ------------------------------------------------------------------------------------------------

    @overload
    def imap(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A] | AsyncIterable[A], /, **batch: Unpack[RaiseStream]
    ) -> ResultStream[R]: ...
    @overload
    def imap(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A] | AsyncIterable[A], /, **batch: Unpack[KeepStream]
    ) -> ResultStream[R | Exception]: ...
    @overload
    def imap(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[RaiseStream]
    ) -> ResultStream[R]: ...
    @overload
    def imap(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[KeepStream]
    ) -> ResultStream[R | Exception]: ...
    @overload
    def imap(self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[RaiseStream]) -> ResultStream[R_co]: ...
    @overload
    def imap(
        self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[KeepStream]
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
    ) -> Any:
        """Return a stream of the results, in order, as they come.

        The input is read only *buffersize* items ahead of what was taken from the stream, so that endless input and
        a slow consumer run in constant memory; ``None`` is as many as keep the workers busy, at most 100,000 and
        about 64 MB of results. It may be asynchronous: then so must be the reading, by ``async for``. Closing the
        stream, or leaving its ``with``, cancels the rest.

        Example:
            >>> from itertools import count
            >>> from parmap import parallel
            >>> with parallel(abs, workers=2).imap(count()) as stream:
            ...     [next(stream) for _ in range(3)]
            [0, 1, 2]
        """
        how = {"ordered": True, "buffersize": buffersize, "return_exceptions": return_exceptions}
        return self._stream((iterable, *iterables), chunksize, progress, journal, how)

    @overload
    def imap_unordered(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A] | AsyncIterable[A], /, **batch: Unpack[RaiseStream]
    ) -> ResultStream[R]: ...
    @overload
    def imap_unordered(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A] | AsyncIterable[A], /, **batch: Unpack[KeepStream]
    ) -> ResultStream[R | Exception]: ...
    @overload
    def imap_unordered(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[RaiseStream]
    ) -> ResultStream[R]: ...
    @overload
    def imap_unordered(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[KeepStream]
    ) -> ResultStream[R | Exception]: ...
    @overload
    def imap_unordered(
        self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[RaiseStream]
    ) -> ResultStream[R_co]: ...
    @overload
    def imap_unordered(
        self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[KeepStream]
    ) -> ResultStream[R_co | Exception]: ...
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
    ) -> Any:
        """Return a stream of the results as they are completed. Otherwise as :meth:`imap`.

        Example:
            >>> from parmap import parallel
            >>> sorted(parallel(abs, workers=2).imap_unordered([-1, 2, -3]))
            [1, 2, 3]
        """
        how = {"ordered": False, "buffersize": buffersize, "return_exceptions": return_exceptions}
        return self._stream((iterable, *iterables), chunksize, progress, journal, how)

    @overload
    def outcomes(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A] | AsyncIterable[A], /, **batch: Unpack[Told]
    ) -> ResultStream[Outcome[R]]: ...
    @overload
    def outcomes(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[Told]
    ) -> ResultStream[Outcome[R]]: ...
    @overload
    def outcomes(
        self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[Told]
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
    ) -> Any:
        """Return a stream that tells what became of each item, an :class:`Outcome` each; nothing stops it.

        An error is an outcome, and so are the death of a worker and a timeout. In order, or with ``ordered=False`` as
        they are completed; otherwise as :meth:`imap`.

        Example:
            >>> from parmap import parallel
            >>> items = ["1", "2", "three"]
            >>> [outcome.item for outcome in parallel(int, workers=2).outcomes(items) if not outcome.ok]
            ['three']
        """
        how = {"ordered": ordered, "buffersize": buffersize, "accounts": True}
        return self._stream((iterable, *iterables), chunksize, progress, journal, how)

    # --- later ------------------------------------------------------------------------------------------------------

    @overload
    def map_async(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A], /, **batch: Unpack[Raise]
    ) -> Future[list[R]]: ...
    @overload
    def map_async(
        self: Batches[Concatenate[A, Rest], R], a: Iterable[A], /, **batch: Unpack[Keep]
    ) -> Future[list[R | Exception]]: ...
    @overload
    def map_async(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[Raise]
    ) -> Future[list[R]]: ...
    @overload
    def map_async(
        self: Batches[Concatenate[A, B, Rest], R], a: Iterable[A], b: Iterable[B], /, **batch: Unpack[Keep]
    ) -> Future[list[R | Exception]]: ...
    @overload
    def map_async(self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[Raise]) -> Future[list[R_co]]: ...
    @overload
    def map_async(
        self, a: Many, b: Many, c: Many, /, *more: Many, **batch: Unpack[Keep]
    ) -> Future[list[R_co | Exception]]: ...
    def map_async(
        self,
        iterable: Many,
        /,
        *iterables: Many,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Start :meth:`map`, and return the future of its list.

        Example:
            >>> from parmap import parallel
            >>> parallel(abs, workers=2).map_async([-1, 2]).result()
            [1, 2]
        """
        options = self._options_for(chunksize, progress)
        return engine().map_async(
            self.__wrapped__, (iterable, *iterables), options, return_exceptions=return_exceptions
        )

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
        *,
        return_exceptions: bool = False,
        chunksize: int | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Start :meth:`starmap`, and return the future of its list.

        Example:
            >>> from parmap import parallel
            >>> parallel(pow, workers=2).starmap_async([(2, 3)]).result()
            [8]
        """
        options = self._options_for(chunksize, progress)
        return engine().map_async(
            self.__wrapped__, (iterable,), options, star=True, return_exceptions=return_exceptions
        )
