"""All options in one table. The check of each returns the value in its settled form, or says what is allowed."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

from parmap.backends import is_dask_client, is_executor


class _Environ(dict[str, str]):
    """Environment variables with a hash. Nothing in parmap writes to it."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict says None
        return hash(frozenset(self.items()))


def _refuse(name: str, value: object, allowed: str, kind: type[Exception] = ValueError) -> NoReturn:
    raise kind(f"{name} must be {allowed}; got {value!r}")


def _number(
    convert: Callable[[Any], Any], by: str, fits: Callable[[Any], bool], allowed: str, none: str
) -> Callable[[str, Any], Any]:
    """The check of what has the method *by*; *none*: what None means, if it may be that."""
    allowed += f", or None ({none})" if none else ""

    def check_number(name: str, value: Any) -> Any:
        if none and value is None:
            return None
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, by):
            _refuse(name, value, allowed, TypeError)
        number = convert(value)
        return number if fits(number) else _refuse(name, value, allowed)

    return check_number


def _integer(least: float, *, none: str = "") -> Callable[[str, Any], Any]:
    allowed = "an int" + (f" of at least {least}" if math.isfinite(least) else "")
    return _number(operator.index, "__index__", lambda number: bool(number >= least), allowed, none)  # numpy's, too


def _seconds(*, zero: bool, none: str = "") -> Callable[[str, Any], Any]:
    def fits(number: float) -> bool:
        return math.isfinite(number) and (number > 0 or (zero and number == 0))

    return _number(float, "__float__", fits, f"seconds, {'not negative' if zero else 'more than 0'}", none)


def _such(fits: Callable[[Any], bool], allowed: str) -> Callable[[str, Any], Any]:
    return lambda name, value: value if fits(value) else _refuse(name, value, allowed, TypeError)


def _one_of(*names: str, none: bool = False) -> Callable[[str, Any], Any]:
    allowed = ", ".join(map(repr, names)) + (" or None" if none else "")

    def check_name(name: str, value: Any) -> Any:
        if value is None and none:
            return None
        if not isinstance(value, str):
            _refuse(name, value, allowed, TypeError)
        # The plain name: what is given may be a member of an enumeration.
        return names[names.index(value)] if value in names else _refuse(name, value, allowed)

    return check_name


_check_backend_name = _one_of("processes", "threads", "serial", "dask", "ray")


def _check_backend(name: str, value: Any) -> Any:
    if isinstance(value, type):
        _refuse(name, value, "an instance of a backend or executor, not its class", TypeError)
    if is_executor(value) or hasattr(value, "kills"):
        return value
    if is_dask_client(value):
        from parmap.backends._dask import Dask

        return Dask(value)
    if not isinstance(value, str):
        allowed = "'processes', 'threads', 'serial', 'dask', 'ray', a Backend, an Executor or a distributed.Client"
        _refuse(name, value, allowed, TypeError)
    return _check_backend_name(name, value)


def _check_start_method(name: str, value: Any) -> Any:
    if value == "forkserver" and not hasattr(os, "fork"):
        _refuse(name, value, "'spawn' or None on this system, which can't fork")
    return _one_of("forkserver", "spawn", none=True)(name, value)


def _check_retry_on(name: str, value: Any) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        _refuse(name, value, "an exception class or a tuple of them", TypeError)
    return kinds


def _check_memory(name: str, value: Any) -> Any:
    if value is not None and not os.path.exists("/proc/self/statm"):
        _refuse(name, value, "None on this system, which has no /proc to tell how large a worker is")
    return _integer(1, none="no limit")(name, value)


def _check_tuple(name: str, value: Any, allowed: str = "a tuple of arguments for the initializer") -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        _refuse(name, value, allowed, TypeError)
    return tuple(value)


def _check_preload(name: str, value: Any) -> tuple[str, ...] | str:
    allowed = "a tuple of module names, such as ('numpy',), or 'auto'"
    if isinstance(value, str) and value == "auto":
        return value
    modules = _check_tuple(name, value, allowed)
    if not all(isinstance(module, str) for module in modules):
        _refuse(name, value, allowed, TypeError)
    if not all(part.isidentifier() for module in modules for part in module.split(".")):
        _refuse(name, value, allowed)
    return tuple(map(str, modules))  # which may be numpy's


def _check_env(name: str, value: Any) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for item in value.items() for part in item):
        _refuse(name, value, "a mapping of str to str, or None", TypeError)
    if any(not key or "=" in key or "\0" in key + text for key, text in value.items()):
        _refuse(name, value, "a mapping whose names are not empty and hold no '=', with no null character anywhere")
    return _Environ(value)


_check_initializer = _such(lambda value: value is None or callable(value), "a callable or None")
check_flag = _such(lambda value: isinstance(value, bool), "True or False")
_check_progress = _such(
    lambda value: isinstance(value, (bool, str)) or callable(value),
    "True, False, a description or a callable(done, total, failed)",
)


# How the text of an environment variable reads; what it should be, the check says.


def _as_number(text: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _as_flag(text: str) -> bool | str:
    word = text.lower()
    return word in _YES if word in _YES | _NO else text


_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


def _as_modules(text: str) -> tuple[str, ...] | str:
    return text if text == "auto" else tuple(part.strip() for part in text.split(",") if part.strip())


class Option(NamedTuple):
    """An option of `parallel`."""

    default: Any
    check: Callable[[str, Any], Any]
    """Called with the name under which it was given, and the value."""
    read: Callable[[str], Any] | None = None
    """How the text of its environment variable reads, if not as None; `None`: it makes no sense as text."""
    is_of_pool: bool = False
    """Whether two functions must agree on it to share a pool."""


OPTIONS: dict[str, Option] = {
    "workers": Option(None, _integer(1, none="all usable CPUs"), _as_number, is_of_pool=True),
    "backend": Option("processes", _check_backend, str, is_of_pool=True),
    "timeout": Option(None, _seconds(zero=False, none="no limit"), _as_number),
    "deadline": Option(None, _seconds(zero=False, none="no limit"), _as_number),
    "retries": Option(0, _integer(0), _as_number),
    "retry_on": Option((Exception,), _check_retry_on),
    "retry_delay": Option(0.0, _seconds(zero=True), _as_number),
    "chunksize": Option(None, _integer(1, none="adaptive"), _as_number),
    "start_method": Option(None, _check_start_method, str, is_of_pool=True),
    "initializer": Option(None, _check_initializer, is_of_pool=True),
    "initargs": Option((), _check_tuple, is_of_pool=True),
    "max_tasks_per_child": Option(None, _integer(1, none="no limit"), _as_number, is_of_pool=True),
    "max_memory_per_child": Option(None, _check_memory, _as_number, is_of_pool=True),
    "preload": Option("auto", _check_preload, _as_modules, is_of_pool=True),
    "env": Option(None, _check_env, is_of_pool=True),
    "idle_timeout": Option(60.0, _seconds(zero=True, none="never"), _as_number, is_of_pool=True),
    "progress": Option(False, _check_progress, _as_flag),
    "traceback_locals": Option(False, check_flag, _as_flag),
    "seed": Option(None, _integer(-math.inf, none="not seeded"), _as_number),
}

DEFAULTS: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}

check_buffersize: Callable[[Any], int | None] = partial(_integer(1, none="no limit of your own"), "buffersize")
"""The check of how far a stream may read ahead; with 0 it would never begin."""
