"""The options of a call: where each is from, what goes together, defaults of this machine, and names that are none.

The order, strongest first: ``f.options()``, ``override``, environment, decorator, default. It is settled at each call,
because the environment and the context may have changed; `Settings.resolve` makes that cheap. Defaults of this machine
are how many workers, and which start method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self, Unpack

from parmap._calls.checks import DEFAULTS, OPTIONS
from parmap._calls.environment import read, snapshot
from parmap._travel.failure import pass_on
from parmap._work import place as _place
from parmap._work.cpus import cpu_count
from parmap.backends import ALL, is_executor, site_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from parmap._calls.typed import BackendLike, BackendName, OptionsDict, Progress, StartMethod
    from parmap._work.surroundings import Context
    from parmap.backends._clusters.site import Site


class Options:
    """All options of one call, settled. Nobody writes to them: `replace` makes others."""

    workers: int
    backend: BackendName | Executor | BackendLike
    timeout: float | None
    deadline: float | None
    retries: int
    retry_on: tuple[type[BaseException], ...]
    retry_delay: float
    chunksize: int | None
    start_method: StartMethod
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    preload: tuple[str, ...] | Literal["auto"]
    env: Mapping[str, str] | None
    idle_timeout: float | None
    progress: Progress
    traceback_locals: bool
    seed: int | None
    pool_key: tuple[Any, ...]
    """What decides which pool is shared: hashable, whatever the options are."""
    site: Site | None
    """The cluster that the backend is, if it is one."""
    owner: object
    """Stands for the function that they are the options of: no other has the same."""

    def __init__(self, values: Mapping[str, Any], owner: object = None) -> None:
        vars(self).update(values)
        self._values = values
        self.owner = owner
        self.site = site_of(self.backend)
        self.pool_key = tuple(_key(values[name]) for name, option in OPTIONS.items() if option.is_of_pool)

    def replace(self, **changes: Unpack[OptionsDict]) -> Options:
        """Return the same options with *changes*, which are checked."""
        return _settle({**self._values, **check(changes, "replace")}, self.owner)

    def __repr__(self) -> str:
        return f"Options({describe(self._values)})"


def describe(options: Mapping[str, Any]) -> str:
    """Return *options* as they are written in a call, those that have their default left out."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if value != DEFAULTS[name])


def _key(value: object) -> object:
    if type(value) is tuple:
        return tuple(map(_key, value))
    try:
        hash(value)
    except Exception as error:  # noqa: BLE001 - a TypeError, as a rule; a view of bytes that may change raises another
        pass_on(error)
        return id(value)  # of nothing else meanwhile: whoever has the key has the options, and an engine does
    return type(value), value  # 1, 1.0 and True are equal, but not the same to an initializer


def check(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return *options* checked and in settled form.

    Raises:
        TypeError: an unknown name, or a value of the wrong type.
        ValueError: a value that is not allowed.
    """
    refuse_unknown(options, f"{where}()", DEFAULTS)
    return {name: OPTIONS[name].check(name, value) for name, value in options.items()}


def refuse_unknown(names: Iterable[str], where: str, known: Iterable[str]) -> None:
    """Say which of *names* is none of the *known* options, and which of these was meant."""
    for name in names:
        if name not in known:
            close = _close(name, known)
            hint = f"did you mean {close}?" if close else f"it has {', '.join(sorted(known))}"
            raise TypeError(f"{where} has no option {name!r}; {hint}")


def refuse_for_one_call(given: Mapping[str, Any]) -> NoReturn:
    """Say why one call does not take these arguments."""
    name = next(iter(given))
    if name in DEFAULTS:
        raise TypeError(f"{name} is an option of the function, not of one call: use f.options({name}=…)")
    if name in _METHODS:
        raise TypeError(f"this call has no argument {name!r}, as {_METHODS[name]} has")
    if close := _close(name, [*_METHODS, *DEFAULTS]):
        raise TypeError(f"this call has no argument {name!r}; did you mean {close}?")
    raise TypeError(
        f"this call has no argument {name!r}; to give the function one, the same for all items: f.partial({name}=…)"
    )


# Arguments of a call that not all methods have, and one that has it.
_METHODS = {"return_exceptions": "map", "journal": "map", "buffersize": "imap", "ordered": "outcomes"}
_SAME = (  # what is called by several names, here and elsewhere
    ("workers", "max_workers", "processes", "n_jobs", "num_cpus", "n_workers"),
    ("max_tasks_per_child", "maxtasksperchild"),
    ("chunksize", "batch_size"),
    ("retries", "retry", "max_retries"),
)


def _close(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    same = next((names for names in _SAME if name in names), ())
    close = [each for each in same if each in known] or get_close_matches(name, known, n=2, cutoff=0.7)
    return " or ".join(map(repr, close))


def check_together(options: Mapping[str, Any]) -> None:
    """Refuse what the backend would have to ignore: a `timeout` that nothing can enforce, a `seed` that threads share.

    Raises:
        ValueError: the backend can't do what an option asks for.
    """
    timeout, backend = options.get("timeout"), options.get("backend", "processes")
    if options.get("seed") is not None and (backend == "threads" or is_executor(backend)):
        from parmap.backends._executor import SEED_REFUSED, shares_our_objects

        if backend == "threads" or shares_our_objects(backend):
            raise ValueError(SEED_REFUSED)
    kills = backend not in {"threads", "serial"} if isinstance(backend, str) else getattr(backend, "kills", False)
    if timeout is not None and not kills:
        raise ValueError(
            f"timeout={timeout!r} needs a backend that can kill a running task, such as 'processes'; "
            f"backend={backend!r} can't: set timeout=None, or use another backend"
        )
    ignored = _FOR_PROCESSES if backend in ("threads", "serial") else _FOR_OWN_WORKERS if is_executor(backend) else ()
    for name in ignored:
        if options.get(name) and options[name] != DEFAULTS[name]:
            raise ValueError(
                f"{name} can't be given with backend={backend!r}: it is for worker processes of parmap's own"
            )


_FOR_PROCESSES = ("env", "preload", "max_memory_per_child")
_FOR_OWN_WORKERS = (*_FOR_PROCESSES, "initializer", "max_tasks_per_child")


# --- override -------------------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """The options of all overrides that hold here, and the layer that holds again behind the innermost."""

    options: dict[str, Any]
    outer: _Layer | None


_NONE = _Layer({}, None)
_overrides: ContextVar[_Layer] = ContextVar("parmap_overrides", default=_NONE)


class Override:
    """What `override` returns: a context manager that may be entered again, nested, and by several threads."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def __enter__(self) -> Self:
        outer = _overrides.get()
        _overrides.set(_Layer({**outer.options, **self._options}, outer))
        return self

    def __exit__(self, *_: object) -> None:
        _overrides.set(_overrides.get().outer or _NONE)

    def __repr__(self) -> str:
        return f"parmap.override({describe(self._options)})"


def override(**options: Unpack[OptionsDict]) -> Override:
    """Return a context manager in which *options* win over those of decorators and of the environment.

    They hold for the calls made in this context (as :mod:`contextvars` has it: this thread, or this asyncio task and
    those it starts). An inner ``override`` wins over an outer one; ``f.options()`` wins over both.
    With ``backend="serial"``, a ``timeout`` of the decorator is not enforced.

    Args:
        **options: those of :func:`parallel`.

    Raises:
        TypeError: an unknown option, or a value of the wrong type.
        ValueError: a value that is not allowed.

    Example:
        >>> import parmap
        >>> @parmap.parallel(workers=4)
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> with parmap.override(backend="serial"):  # step through it in a debugger
        ...     double.map([1, 2, 3])
        [2, 4, 6]
    """
    return Override(check(options, "override"))


# --- all together ---------------------------------------------------------------------------------------------------


class Settings:
    """The options of one function: what its decorator says, and what ``options()`` says."""

    def __init__(self, decorated: dict[str, Any], chosen: dict[str, Any] | None = None) -> None:
        self.decorated: dict[str, Any] = decorated
        self.chosen: dict[str, Any] = chosen or {}
        self._cache: tuple[object, bool, Context | None, object, Options] | None = None
        self._owner = object()
        check_together({**self.decorated, **self.chosen})

    def with_options(self, options: Mapping[str, Any]) -> Settings:
        """Return these settings with *options*, not yet checked, as the strongest."""
        return Settings(self.decorated, {**self.chosen, **check(options, "options")})

    def travelling(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return both layers without what can't leave this process: an engine, and what draws the progress."""
        return _portable(self.decorated), _portable(self.chosen)

    def describe(self) -> str:
        """Return the options as they are written in a call."""
        return describe({**self.decorated, **self.chosen})

    def resolve(self, context: Context | None = None) -> Options:
        """Return the options that hold now.

        This is on the way of each ``submit``: as long as neither the environment nor what ``override`` says changed,
        the same object comes back. *context* holds now: the environment need not be looked at again if it did before.
        """
        overrides, in_worker = _overrides.get(), _place.in_worker
        cache = self._cache
        if cache is not None and not (cache[0] is overrides and cache[1] is in_worker):
            cache = None
        if cache is not None and context is not None and cache[2] is context:
            return cache[4]
        variables = snapshot()
        options = cache[4] if cache is not None and cache[3] == variables else self._merge(overrides.options)
        self._cache = (overrides, in_worker, context, variables, options)
        return options

    def _merge(self, overrides: dict[str, Any]) -> Options:
        outside = {**read(), **overrides}
        merged = {**DEFAULTS, **self.decorated, **outside, **self.chosen}
        if _place.in_worker:  # a nested call
            merged["backend"] = outside["backend"] = "serial"
        # Serial from outside is for debugging, or because workers don't start workers: no reason to refuse the call.
        if not (merged["backend"] == "serial" == outside.get("backend")):
            check_together(merged)
        return _settle(merged, self._owner)


def _portable(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if isinstance(value, str) or not (name == "backend" or (name == "progress" and callable(value)))
    }


def _settle(merged: dict[str, Any], owner: object) -> Options:
    if merged["workers"] is None:
        threads = merged["backend"] == "threads"  # which wait more than they work: as many as in ThreadPoolExecutor
        merged["workers"] = min(32, cpu_count() + 4) if threads else cpu_count()
        if site_of(merged["backend"]) is not None:
            merged["workers"] = ALL
        elif is_executor(merged["backend"]) and type(size := getattr(merged["backend"], "_max_workers", None)) is int:
            merged["workers"] = size  # whoever made it has said how many it has
    if merged["start_method"] is None:
        merged["start_method"] = "forkserver" if sys.platform == "linux" else "spawn"
    return Options(merged, owner)


def resolve(
    decorator_options: Mapping[str, Any] | None = None, call_options: Mapping[str, Any] | None = None
) -> Options:
    """Return the options that hold now, all settled.

    Args:
        decorator_options: the weaker layer, under the environment and ``override``.
        call_options: the stronger layer, over both.

    Raises:
        TypeError: an unknown option, or a value of the wrong type.
        ValueError: a value that is not allowed, in an environment variable too.
    """
    return Settings(check(decorator_options or {}, "parallel"), check(call_options or {}, "options")).resolve()
