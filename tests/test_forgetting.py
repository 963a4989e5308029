"""Nothing is kept: what functions captured goes when they go, here and in workers; so do the objects of methods."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from inspection import known_to_workers
from tasks_that_go import Model, closure_over, partial_of

from conftest import wait_until
from parmap import Executor, Pool, parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Script


METHODS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "map": lambda function, options: parallel(function, **options).map([1, 2]),
    "starmap": lambda function, options: parallel(function, **options).starmap([(1,), (2,)]),
    "submit": lambda function, options: parallel(function, **options).submit(1).result(60),
    "imap": lambda function, options: list(parallel(function, **options).imap([1, 2])),
    "imap_unordered": lambda function, options: list(parallel(function, **options).imap_unordered(iter([1, 2]))),
    "map_async": lambda function, options: parallel(function, **options).map_async([1, 2]).result(60),
    "partial": lambda function, options: parallel(function, **options).partial(1).submit().result(60),
}


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "method": lambda model: model.run,
    "object": lambda model: model,
    "closure": closure_over,
    "partial": partial_of,
}


def is_let_go(thing: weakref.ref[Any]) -> Callable[[], bool]:
    """What tells whether *thing* is gone, cycles included."""

    def is_gone() -> bool:
        gc.collect()
        return thing() is None

    return is_gone


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_a_function_has_is_let_go(backend: dict[str, Any], kind: str) -> None:
    """After a call of any method nothing holds the object of a method, or what a closure or a partial has."""
    for call in METHODS.values():
        model = Model()
        gone = is_let_go(weakref.ref(model))
        call(FUNCTIONS[kind](model), backend)
        del model

        wait_until(gone)


def test_the_object_of_a_decorated_method_is_let_go(backend: dict[str, Any]) -> None:
    """So it is where the method was decorated in its class."""
    for call in METHODS.values():
        model = Model()
        gone = is_let_go(weakref.ref(model))
        call(model.decorated.options(**backend), {})
        del model

        wait_until(gone)


@pytest.mark.parametrize("make", ["Executor.submit", "Executor.map", "Pool.apply", "Pool.map"])
def test_drop_ins_let_go(make: str) -> None:
    """So do the stand-ins for the standard pools, while they are open."""
    pool: Any = Executor(1) if make.startswith("Executor") else Pool(1)
    with pool:
        for kind in FUNCTIONS.values():
            model = Model()
            gone = is_let_go(weakref.ref(model))
            function = kind(model)
            if make == "Executor.submit":
                pool.submit(function, 1).result(60)
            elif make == "Pool.apply":
                pool.apply(function, (1,))
            else:
                list(pool.map(function, [1]))
            del model, function

            wait_until(gone)


@pytest.mark.parametrize("options", [{}, {"retries": 1}, {"timeout": 60}], ids=["plain", "retries", "timeout"])
def test_a_failure_lets_go(options: dict[str, Any]) -> None:
    """A task that fails keeps nothing, once its error was dropped."""
    for method in ("starmap", "submit"):
        model = Model()
        gone = is_let_go(weakref.ref(model))
        function = parallel(closure_over(model), workers=2, **options)
        with pytest.raises(TypeError):
            _ = function.starmap([()]) if method == "starmap" else function.submit().result(60)
        del model, function

        wait_until(gone)


def test_workers_forget(processes: dict[str, Any]) -> None:
    """Functions that nobody has any more are dropped by workers; those that somebody has are not sent again."""
    kept = closure_over(1)
    function = parallel(kept, **{**processes, "workers": 1})
    for number in range(400):
        data = bytes([number % 256]) * 200_000
        assert parallel(closure_over(data), **{**processes, "workers": 1}).map([number]) == [number]

    assert known_to_workers(function) < 600  # of 1,200: each has a part, and that a file
    assert function.map([1, 2]) == [1, 2]


def test_workers_forget_what_is_like_another(processes: dict[str, Any]) -> None:
    """Of objects that are equal, each is dropped with its program's."""
    options = {**processes, "workers": 1}
    function = parallel(closure_over(1), **options)
    known = known_to_workers(function)
    for _ in range(100):
        assert parallel(closure_over([1]), **options).map([2]) == [2]

    assert known_to_workers(function) < known + 50


@pytest.mark.parametrize("method", ["map", "submit"])
def test_changing_data_keeps_nothing(script: Script, method: str) -> None:
    """A loop over closures whose large array changes needs no more memory and descriptors in the end than at first."""
    pytest.importorskip("numpy")
    done = script.run(f"""
        import gc, os, psutil
        import numpy as np
        from parmap import parallel

        def held():
            me = psutil.Process()
            every = [me, *me.children(recursive=True)]
            files = {{}}
            for process in every:
                for fd in os.listdir(f"/proc/{{process.pid}}/fd"):
                    try:
                        if "memfd" in os.readlink(f"/proc/{{process.pid}}/fd/{{fd}}"):
                            found = os.stat(f"/proc/{{process.pid}}/fd/{{fd}}")
                            files[found.st_ino] = found.st_blocks * 512
                    except OSError:
                        pass
            memory = sum(process.memory_full_info().pss for process in every) + sum(files.values())
            return memory / 1e6, sum(process.num_fds() for process in every)

        def once(number):
            data = np.full(1_000_000, number)
            function = parallel(lambda i: data[i] + number, workers=2)
            return function.map([1, 2]) if {method!r} == "map" else function.submit(1).result()

        for number in range(12):
            once(number)
        before, fds = held()
        for number in range(100):
            once(number)
        gc.collect()
        after, more = held()
        print(after - before < 80, more - fds < 10, after - before, more - fds)
    """)

    assert done.stdout.startswith("True True"), done.stdout + done.stderr
