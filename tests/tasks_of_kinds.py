"""Callables of every kind: those that travel by name, and those that no worker could import."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from parmap import parallel


def local_functions() -> dict[str, Callable[[int], Any]]:
    """Functions that no worker could import."""
    offset = 100

    def closure(x: int) -> int:
        return x + offset

    def recursive(n: int) -> int:
        return 1 if n <= 1 else n * recursive(n - 1)

    def even(n: int) -> bool:
        return True if n == 0 else odd(n - 1)

    def odd(n: int) -> bool:
        return False if n == 0 else even(n - 1)

    @functools.wraps(closure)
    def wrapper(x: int) -> int:
        return -closure(x)

    @contextlib.contextmanager
    def context(number: int) -> Iterator[None]:
        yield

    return {
        "lambda": lambda x: x * 3,
        "in-a-context": context(5)(closure),
        "closure": closure,
        "recursive": recursive,
        "mutually-recursive": even,
        "wrapped": wrapper,
        "cached": functools.lru_cache(lambda x: x + 1),
        "composed": functools.partial(map_twice, lambda x: x + 1),
    }


def map_twice(function: Callable[[int], int], x: int) -> int:
    return function(function(x))


class Scale:
    """A class with every kind of method, and instances that can be called."""

    factor = 10

    def __init__(self, by: int = 1) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return x * self.by

    def method(self, x: int) -> int:
        return x + self.by

    @classmethod
    def of_class(cls, x: int) -> int:
        return x * cls.factor

    @staticmethod
    def static(x: int) -> int:
        return -x

    class Inner:
        """A nested one."""

        def __init__(self, x: int) -> None:
            self.x = x

        @staticmethod
        def deep(x: int) -> int:
            return x - 1


class Bigger(Scale):
    factor = 1000


@parallel(workers=2)
def fibonacci(n: int) -> int:
    """A decorated function that calls itself in parallel."""
    return n if n < 2 else sum(fibonacci.map([n - 1, n - 2]))


async def double_later(x: int) -> int:
    return 2 * x


@parallel
@functools.lru_cache
def fibonacci_cached(n: int) -> int:
    """A function under two decorators."""
    return n if n < 2 else fibonacci_cached(n - 1) + fibonacci_cached(n - 2)


class cython_function_or_method:  # noqa: N801 - as Cython calls it
    """Like a function that Cython has compiled: of a class of its own, and pickled by its name alone."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.run = function
        self.__name__, self.__qualname__, self.__code__ = function.__name__, function.__qualname__, function.__code__

    def __call__(self, x: int) -> Any:
        return self.run(x)

    def __reduce__(self) -> str:
        return self.__qualname__


@parallel(workers=2)
@cython_function_or_method
def compiled(x: int) -> int:
    """A decorated function of a compiled module."""
    return x * 3


class Nameless(type):
    """A metaclass whose classes tell nobody their name."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Unhashable(type):
    """A metaclass whose classes can't be in a set."""

    __hash__ = None  # type: ignore[assignment]


class AddsTwo(metaclass=Nameless):
    def __call__(self, x: int) -> int:
        return x + 2


class AddsThree(metaclass=Unhashable):
    def __call__(self, x: int) -> int:
        return x + 3


class LikeACoroutine(Coroutine[Any, Any, int]):
    """What an `async def` of Cython gives, which is not of Python's class."""

    def __init__(self, inner: Coroutine[Any, Any, int]) -> None:
        self.send, self.throw, self.close = inner.send, inner.throw, inner.close  # type: ignore[method-assign]

    def __await__(self) -> Any:
        return self

    def send(self, value: Any) -> Any: ...

    def throw(self, *error: Any) -> Any: ...


async def _triple_later(x: int) -> int:
    return 3 * x


@cython_function_or_method
def compiled_later(x: int) -> Any:
    return LikeACoroutine(_triple_later(x))


compiled_later.__code__ = _triple_later.__code__


class Holder:
    """Has something that can't travel."""

    def __init__(self) -> None:
        self.rest = (number for number in range(3))

    def work(self, x: int) -> int:
        """A task."""
        return x

    def __call__(self, x: int) -> int:
        """One, too."""
        return x


def plain(x: int, key: Any = None) -> int:
    """A task."""
    return x


class Plain:
    """What users write."""

    def __init__(self, *values: Any) -> None:
        self.first, self.others = values[:1], list(values[1:])
