"""What a manager of multiprocessing shares, tasks share too: its proxies travel to workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Script

PROGRAM = """
import parmap

def put(shared, key):
    shared[key] = key * key
    return sorted(shared.keys())[0]

if __name__ == "__main__":
    f = parmap.parallel(put, workers=2, start_method={method!r})
    f.map([{{1: 1}}], [1])  # the workers are there before the manager
    import multiprocessing
    with multiprocessing.get_context("fork").Manager() as manager:
        shared, queue = manager.dict(), manager.Queue()
        f.map([shared] * 3, [2, 3, 4])
        assert f.submit(shared, 5).result() == 2
        with parmap.Pool(2) as pool:
            pool.map(queue.put, ["a", "b"])
            pool.starmap(put, [(shared, 6)])
        print(sorted(shared.items()), sorted([queue.get(), queue.get()]))
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_proxies(script: Script, method: str):
    """Proxies are arguments like any other, whenever the workers were started."""
    script.environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"  # of the manager's fork, since 3.12
    run = script.run(PROGRAM.format(method=method))

    assert (run.stdout, run.stderr) == ("[(2, 4), (3, 9), (4, 16), (5, 25), (6, 36)] ['a', 'b']\n", "")
