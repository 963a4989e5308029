"""The options of functions and of calls as type checkers see them; at run time nothing of this is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Executor
    from typing import Any, Generic, Literal, Never, Protocol, Required, TypeAlias, TypedDict, TypeVar

    from typing_extensions import TypeVar as TypeVarWithDefault

    from parmap._calls.journal.keeping import Journal

    StartMethod: TypeAlias = Literal["forkserver", "spawn"]
    BackendName: TypeAlias = Literal["processes", "threads", "serial", "dask", "ray"]
    Progress: TypeAlias = bool | str | Callable[[int, int | None, int], object]

    Other = TypeVarWithDefault("Other", default=Never)
    Other_co = TypeVar("Other_co", covariant=True)

    class BackendLike(Protocol):
        """What makes an object a backend for the checks made here: it says whether it can kill a running task."""

        @property
        def kills(self) -> bool: ...

    class OwnOptions(TypedDict, Generic[Other], total=False):
        """The options of `parallel` that `Pool` and `Executor` take as well, besides arguments of their own."""

        backend: BackendName | Executor | BackendLike | Other
        timeout: float | Other | None
        deadline: float | Other | None
        retries: int | Other
        retry_on: type[BaseException] | tuple[type[BaseException], ...] | Other
        retry_delay: float | Other
        chunksize: int | Other | None
        start_method: StartMethod | Other | None
        max_memory_per_child: int | Other | None
        preload: Iterable[str] | Literal["auto"] | Other
        env: Mapping[str, str] | Other | None
        idle_timeout: float | Other | None
        progress: Progress | Other
        traceback_locals: bool | Other
        seed: int | Other | None

    class OptionsDict(OwnOptions[Other], Generic[Other], total=False):
        """The options of `parallel`."""

        workers: int | Other | None
        initializer: Callable[..., object] | Other | None
        initargs: Iterable[Any] | Other
        max_tasks_per_child: int | Other | None

    class Misfit(Protocol[Other_co]):
        """Nothing; but to mypy, when it looks for the overload that was meant, any object.

        So it says which value is wrong, where it would print all overloads with all their options.
        """

        def __sizeof__(self) -> Other_co: ...  # type: ignore[override]

    ToldOptions: TypeAlias = OptionsDict[Misfit[Never]]

    class BatchOptions(TypedDict, total=False):
        """The options that one batch call may give: None leaves the function's own."""

        chunksize: int | None
        progress: Progress | None

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
