"""ParallelFunction: what a decorated function is. The plain function, with methods that run it in parallel."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType, MethodType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from parmap._calls import batches as _batches
from parmap._calls.batches import Batches, C_co, P, R_co
from parmap._calls.options import Settings
from parmap._calls.wrapping import copy_metadata, found_by_name, name_of, portable

if TYPE_CHECKING:
    from parmap._calls.typed import OptionsDict
    from parmap._results.futures import Future

Rest = ParamSpec("Rest")
Owner = TypeVar("Owner")

if TYPE_CHECKING:
    # What a method is bound to: its first parameter.
    Method = Callable[Concatenate[Owner, Rest], Any]
    ClassMethod = Callable[Concatenate[type[Owner], Rest], Any]


class ParallelFunction(Batches[P, R_co, C_co]):
    """A function that can also run in parallel: what :func:`parallel` returns.

    Called, it is the plain function, here and now. Its methods run it on the workers of a pool, which is started when
    first needed and shared by all functions that want the same workers.

    All batch methods take, by keyword: *chunksize* and *progress*, which stand for those of :func:`parallel` for this
    call; and all but `outcomes`: *return_exceptions*, to get an error in the place of its result instead of having it
    raised.

    Example:
        >>> from parmap import parallel
        >>> @parallel(workers=2)
        ... def add(x: int, y: int = 1) -> int:
        ...     return x + y
        >>> add(1)
        2
        >>> add.map([1, 2, 3])
        [2, 3, 4]
        >>> add.map([1, 2], [10, 20])
        [11, 22]
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, C_co], settings: Settings) -> None:
        copy_metadata(self, function)
        self.__wrapped__: Callable[P, C_co] = function
        self._settings = settings

    # To type checkers, what is under @classmethod and @staticmethod is bound by its type, as if they were not there.
    # mypy does not see that the first parameter may be any type.
    @overload
    def __get__(  # type: ignore[misc]
        self: ClassMethod[Owner, Rest], instance: None, owner: type[Owner], /
    ) -> ParallelFunction[Rest, R_co, C_co]: ...
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self: Method[Owner, Rest], instance: Owner, owner: type[Any] | None = None, /
    ) -> ParallelFunction[Rest, R_co, C_co]: ...
    @overload
    def __get__(  # type: ignore[misc]
        self: ClassMethod[Owner, Rest], instance: Owner, owner: type[Any] | None = None, /
    ) -> ParallelFunction[Rest, R_co, C_co]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Self: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        bind = getattr(self.__wrapped__, "__get__", None)
        if instance is None or bind is None:  # a builtin or a class does not bind either
            return self
        return self._with(bind(instance, owner))

    def __eq__(self, other: object) -> bool:
        # Bound to the same object it is the same method each time, as with plain functions.
        if not isinstance(other, ParallelFunction) or type(self.__wrapped__) is not MethodType:
            return self is other
        return self._settings is other._settings and self.__wrapped__ == other.__wrapped__

    def __hash__(self) -> int:
        return hash(self._settings)

    def _with(self, function: Callable[..., Any], settings: Settings | None = None) -> Any:
        """Return a copy for *function*: the shared object is never written to."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        copy.__wrapped__ = function
        copy._settings = settings or self._settings
        return copy

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R_co]:
        """Start one call, and return its future.

        Warns:
            RuntimeWarning: the function has a ``seed`` or a ``deadline``, which are for batches.

        Example:
            >>> from parmap import parallel
            >>> parallel(pow, workers=2).submit(2, 5).result()
            32
        """
        pools = _batches.pools
        context = pools.current()
        options = self._settings.resolve(context)
        if options.seed is not None or options.deadline is not None:
            import warnings

            lost = "deadline: timeout= says how long it may run" if options.seed is None else "number to be seeded by"
            warnings.warn(f"seed= and deadline= are for batches: a task of submit has no {lost}", RuntimeWarning, 2)
        return pools.submit(self.__wrapped__, args, kwargs, options, context=context)

    # --- variants ---------------------------------------------------------------------------------------------------

    def partial(self, /, *args: Any, **kwargs: Any) -> ParallelFunction[..., R_co, C_co]:
        """Return the function with some arguments given, as :func:`functools.partial`; they travel once per worker.

        Example:
            >>> from parmap import parallel
            >>> parallel(pow, workers=2).partial(2).map([1, 2, 3])
            [2, 4, 8]
        """
        given: ParallelFunction[..., R_co, C_co] = self._with(functools.partial(self.__wrapped__, *args, **kwargs))
        return given

    def options(self, **options: Unpack[OptionsDict]) -> Self:
        """Return the same function with other options. These win over all others, those of ``override`` included.

        Args:
            **options: those of :func:`parallel`.

        Raises:
            TypeError: an unknown option, or a value of the wrong type.
            ValueError: a value that is not allowed.

        Example:
            >>> from parmap import parallel
            >>> parallel(abs, workers=2).options(backend="threads").map([-1])
            [1]
        """
        same: Self = self._with(self.__wrapped__, self._settings.with_options(options))
        return same

    def warm_up(self) -> None:
        """Start the workers of this function in the background, so that its first call finds them.

        They import what the function needs, and run the initializer, while the program goes on: reads its input, say.

        Example:
            >>> from parmap import parallel
            >>> area = parallel(lambda r: 3 * r * r, workers=2)
            >>> area.warm_up()
            >>> area.map([1, 2])
            [3, 12]
        """
        _batches.pools.warm_up(self.__wrapped__, self._settings.resolve())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Finish what was submitted, and stop the pool of this function.

        It starts anew when it is used again, by whichever function shares it.

        Args:
            wait: whether to return only when its workers have ended.
            cancel_futures: cancel what no worker has begun of this function's; what others have submitted is finished.
        """
        from parmap._engine.registry import shutdown

        shutdown(self._settings.resolve(), wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        options = self._settings.describe()
        return f"<parmap.{type(self).__name__} {name_of(self.__wrapped__)}{f' ({options})' if options else ''}>"

    def _repr_html_(self) -> str:
        from parmap._results.screen.display import card, head_of

        options = self._settings.resolve()
        about = (self.__wrapped__.__doc__ or "").strip().partition("\n")[0]
        facts: list[tuple[str, object]] = [("", about)] if about else []
        facts += [("workers", options.workers), ("backend", options.backend), ("options", self._settings.describe())]
        return card(f"parmap.{type(self).__name__}", head_of(self.__wrapped__, name_of(self.__wrapped__)), facts)

    def __copy__(self) -> Self:
        return self  # immutable, and a copy of a function is the function

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        from copy import deepcopy

        function = deepcopy(self.__wrapped__, memo)  # another one for a bound method or a partial only
        copy: Self = self if function is self.__wrapped__ else self._with(function)
        return copy

    def _parmap_inside(self) -> list[Any]:
        """All that travels of it, for whoever looks whether it is as it was: it would be pickled each time."""
        own = {name: value for name, value in vars(self).items() if name != "_settings"}
        return [own, *self._settings.travelling()]

    def __reduce__(self) -> str | tuple[Any, ...]:
        # Where functions of __main__ go by value, so does this one, and else by name, as they do: in a program's own
        # files, and to the processes of multiprocessing.
        main = not _goes_by_value(sys._getframe(1))  # noqa: SLF001
        if found_by_name(self, main=main) is self:
            return str(self.__qualname__)
        function = portable(self.__wrapped__, ParallelFunction, main=main)
        inner = self.__wrapped__
        own = {name: value for name, value in vars(self).items() if getattr(inner, name, self) is not value}
        own = {name: value for name, value in own.items() if not name.startswith("__") and name != "_settings"}
        return _rebuild, (function, *self._settings.travelling()), own or None


def _goes_by_value(caller: FrameType | None) -> bool:
    """Whether a pickler sends functions of `__main__` by value. One in C is not seen, but who called it."""
    while caller is not None and caller.f_globals.get("__name__") == "pickle":  # one in Python, which others extend
        caller = caller.f_back
    name = str(caller and caller.f_globals.get("__name__"))
    return "cloudpickle" in name or name.startswith(("parmap.", "dill."))


def _rebuild(function: Any, decorated: dict[str, Any], chosen: dict[str, Any]) -> ParallelFunction[..., Any]:
    while isinstance(function, ParallelFunction):  # it was pickled in the place of the function under it
        function = function.__wrapped__
    return ParallelFunction(function, Settings(decorated, chosen))
