"""Large results: they arrive in memory of the caller's own, which goes back to the system when they are dropped."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import pytest
import tasks_that_keep as keeping

from conftest import Script, wait_until
from parmap import parallel
from parmap.backends._processes.line.segments import Limits

MB = 1 << 20

pytestmark = pytest.mark.skipif(not Limits.enabled, reason="without memfd, nothing is copied out of shared memory")


def own_memory() -> int:
    """Bytes of this process that are nobody else's: segments, which are kept longer, are not among them."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) << 10


@pytest.mark.parametrize("how", ["map", "imap", "submit"])
def test_memory_goes_back_to_the_system(how: str) -> None:
    """Soon after results were dropped, the process is as small as before, though it does nothing else."""
    make = parallel(keeping.views, workers=2, backend="processes")
    make.map([1000, 2000])
    gc.collect()
    before = own_memory()
    results: Any = make.submit(64 * MB).result(60) if how == "submit" else list(getattr(make, how)([32 * MB] * 4))
    peak = own_memory()
    del results

    assert peak > before + 60 * MB
    wait_until(lambda: own_memory() < before + 10 * MB)


def test_results_for_which_there_is_no_memory(script: Script) -> None:
    """Where private memory is short, results stay in the memory in which they came, writable and each on its own."""
    done = script.run("""
        import pickle, resource
        from parmap import parallel

        class Views:
            def __init__(self, data):
                self.data = data

            def __reduce_ex__(self, protocol):
                return Views, (pickle.PickleBuffer(self.data),)

        make = parallel(lambda size: Views(bytearray(b"x" * size)), workers=1)
        make.map([100_000_000])  # from now on, the memory of the worker's segment is counted among what is used
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000, resource.RLIM_INFINITY))
        first, second = (make.submit(100_000_000).result().data for _ in range(2))
        second[:3] = b"abc"
        assert bytes(first[:3]) == b"xxx" and len(first) == len(second) == 100_000_000
        assert bytes(make.submit(1000).result().data[:3]) == b"xxx"
    """)

    assert (done.returncode, done.stderr) == (0, "")
