"""Use of pools while the interpreter ends: from threads, from atexit, from `__del__`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script


def test_exit_from_a_thread_that_still_maps(script: Script) -> None:
    """A daemon thread that is in the middle of a map when the interpreter ends makes no noise."""
    done = script.run("""
        import threading, time
        import parmap

        f = parmap.parallel(lambda x: time.sleep(0.005) or x, workers=2)
        started = threading.Event()

        def work():
            while True:
                f.map(range(20))
                started.set()

        threading.Thread(target=work, daemon=True).start()
        started.wait()
    """)

    assert (done.returncode, done.stderr) == (0, "")


def test_non_daemon_thread_maps_while_main_has_ended(script: Script) -> None:
    """A thread that outlives the main thread goes on to use the pool, and the script waits for it."""
    done = script.run("""
        import threading, time
        import parmap

        f = parmap.parallel(lambda x: x + 1, workers=2)

        def work():
            threading.main_thread().join()
            print(sum(f.map(range(100))), flush=True)

        threading.Thread(target=work).start()
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "5050\n", "")


@pytest.mark.parametrize(
    ("call", "result"), [("f.map([1, 2])", "[2, 3]"), ("f.submit(3).result()", "4"), ("list(f.imap([4]))", "[5]")]
)
def test_the_first_use_from_atexit(script: Script, call: str, result: str) -> None:
    """A callback of atexit may be the first that uses parmap, though no thread can be started any more."""
    done = script.run(f"""
        import atexit
        from parmap import parallel
        f = parallel(lambda x: x + 1, workers=2)
        atexit.register(lambda: print({call}))
    """)

    assert (done.stdout.strip(), done.stderr) == (result, "")


def test_use_from_atexit(script: Script) -> None:
    """A callback of atexit may map, whether it was registered before or after the first use."""
    done = script.run("""
        import atexit
        import parmap

        f = parmap.parallel(lambda x: x + 1, workers=2)
        atexit.register(lambda: print("late", f.map([1]), flush=True))
        print(f.map([0]))
        atexit.register(lambda: print("later", f.map([2]), flush=True))
    """)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[1]\nlater [3]\nlate [2]\n"


def test_use_from_del_at_the_end(script: Script) -> None:
    """An object that uses the pool in its `__del__` at interpreter exit gets an answer or an error, never a hang."""
    done = script.run("""
        import parmap

        f = parmap.parallel(abs, workers=2)

        class Late:
            def __del__(self):
                try:
                    f.map([-1])
                except Exception:
                    pass

        late = Late()
        f.map([-1])
    """)

    assert done.returncode == 0
