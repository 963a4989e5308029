"""parallel(): makes a function run on all cores."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, Unpack, final, overload

from parmap._calls.checks import DEFAULTS
from parmap._calls.function import ParallelFunction
from parmap._calls.methods import watch_class_body
from parmap._calls.options import Settings, check

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from parmap._calls.typed import BackendLike, BackendName, OptionsDict, Progress, StartMethod, ToldOptions

P = ParamSpec("P")
R = TypeVar("R")
MYPY = False  # to mypy it is true


@final
class Nothing:
    """Nobody returns one: it stands for a result of `Any`, or of a type variable, which fits everything.

    Such a function is not to be taken for a coroutine function, which it fits too. If it is generic, all but pyright
    would put this class in the place of its variable, so that its parameters are given up.
    """


class Decorator(Protocol):
    """What ``parallel(**options)`` returns: it may decorate many functions."""

    if not MYPY:

        @overload
        def __call__(self, function: Callable[P, Nothing], /) -> ParallelFunction[P, Any]: ...

    @overload
    def __call__(self, function: Callable[..., Nothing], /) -> ParallelFunction[..., Any]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> ParallelFunction[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> ParallelFunction[P, R]: ...


if not MYPY:

    @overload
    def parallel(function: Callable[P, Nothing], /, **options: Unpack[OptionsDict]) -> ParallelFunction[P, Any]: ...


@overload
def parallel(function: Callable[..., Nothing], /, **options: Unpack[OptionsDict]) -> ParallelFunction[..., Any]: ...
@overload
def parallel(
    function: Callable[P, Coroutine[Any, Any, R]], /, **options: Unpack[OptionsDict]
) -> ParallelFunction[P, R, Coroutine[Any, Any, R]]: ...
@overload
def parallel(function: Callable[P, R], /, **options: Unpack[ToldOptions]) -> ParallelFunction[P, R]: ...
@overload
def parallel(**options: Unpack[ToldOptions]) -> Decorator: ...
def parallel(  # type: ignore[misc]  # noqa: D417 - no misfit, and nothing unknown, is accepted
    function: Callable[..., Any] | None = None,
    /,
    *,
    workers: int | None = None,
    backend: BackendName | Executor | BackendLike = "processes",
    timeout: float | None = None,
    deadline: float | None = None,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    retry_delay: float = 0.0,
    chunksize: int | None = None,
    start_method: StartMethod | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    max_tasks_per_child: int | None = None,
    max_memory_per_child: int | None = None,
    preload: Iterable[str] | Literal["auto"] = "auto",
    env: Mapping[str, str] | None = None,
    idle_timeout: float | None = 60.0,
    progress: Progress = False,
    traceback_locals: bool = False,
    seed: int | None = None,
    **unknown: Any,
) -> Any:
    """Make *function* run in parallel: it gets ``map``, ``submit`` and the other methods of :class:`ParallelFunction`.

    Use it bare (``@parallel``), with options (``@parallel(workers=4)``), or as a function (``parallel(fn, workers=4)``)
    on any callable: a lambda, a builtin, a partial, a bound method, a class. Decorating has no side effects: workers
    start when first needed, and are shared by all functions that want the same. ``@staticmethod`` and
    ``@classmethod`` go above it.

    Stronger than these options are, in this order: those given to ``f.options()``, those of :func:`override`, and the
    environment variables ``PARMAP_WORKERS``, ``PARMAP_BACKEND`` and so on, for each option that makes sense as text.

    Args:
        function: what to decorate; left out, a decorator is returned.
        workers: number of workers, at least 1; None: :func:`cpu_count`, or as many as in a `ThreadPoolExecutor`
            where they are threads.
        backend: ``"processes"``, ``"threads"``, ``"serial"``, ``"dask"``, ``"ray"``, a backend of your own, or a
            ``concurrent.futures.Executor``.
        timeout: seconds that one item may run; then its worker is killed, and it fails with `TaskTimeoutError`.
        deadline: seconds that a whole call of ``map`` or its like may take; what has no outcome then fails with
            `TaskTimeoutError`, and what runs is stopped, where that can be.
        retries: further attempts for an item that failed.
        retry_on: the errors worth another attempt; `WorkerDiedError` and `TaskTimeoutError` may be among them.
            `OSError` alone does not mean timeouts.
        retry_delay: seconds before the first retry; doubles each time, with jitter.
        chunksize: items that travel together; None: adapted to their measured time.
        start_method: ``"forkserver"`` (workers are forked from a clean template; default on Linux) or ``"spawn"``
            (workers are fresh interpreters; default elsewhere).
        initializer: called once in each worker before its first task.
        initargs: arguments of the initializer.
        max_tasks_per_child: tasks after which a worker is replaced; None: never.
        max_memory_per_child: bytes of resident memory beyond which a worker is replaced, when a chunk has ended; None:
            no limit. On Linux.
        preload: names of modules that are imported once and shared by all workers, such as ``("numpy",)``; "auto":
            those that the first functions need, of the standard library and of installed distributions.
        env: environment variables of the workers, on top of those of this process.
        idle_timeout: seconds after which an unused pool stops its workers; None: never.
        progress: True or a description for a progress bar (needs the extra ``progress``), or a
            ``callable(done, total, failed)``.
        traceback_locals: whether the tracebacks of tasks show local variables, shortened. They may hold secrets.
        seed: gives each item of a batch its own reproducible state of ``random`` and of numpy's global generator, and
            own generators where it calls ``numpy.random.default_rng()``, whatever the workers and chunks. Tasks of
            ``submit`` have no number, and are not seeded.

    Returns:
        The decorated function; without *function*, a decorator.

    Raises:
        TypeError: an unknown option, or a value of the wrong type.
        ValueError: a value that is not allowed, or a *timeout* with a backend that can't kill a running task.

    Example:
        >>> from parmap import parallel
        >>> @parallel(workers=2)
        ... def square(x: int) -> int:
        ...     return x * x
        >>> square.map(range(5))
        [0, 1, 4, 9, 16]
    """
    given = locals()
    settings = Settings(check({name: given[name] for name in DEFAULTS} | unknown, "parallel"))

    def decorate(function: Callable[..., Any], /) -> ParallelFunction[..., Any]:
        watch_class_body(sys._getframe(1))  # noqa: SLF001 - there is no other way to know where it stands
        return _decorate(function, settings)

    if function is None:
        return decorate
    watch_class_body(sys._getframe(1))  # noqa: SLF001 - as above
    return _decorate(function, settings)


def _decorate(function: Any, settings: Settings) -> ParallelFunction[..., Any]:
    if isinstance(function, (classmethod, staticmethod, property, functools.cached_property)):
        raise TypeError(f"put @{type(function).__name__} above @parallel, not under it")
    if not callable(function):
        raise TypeError(f"parallel() takes a function, and options by keyword (workers=4); got {function!r}")
    if isinstance(function, ParallelFunction):
        function = function.__wrapped__
    return ParallelFunction(function, settings)
