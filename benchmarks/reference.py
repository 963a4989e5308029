"""What the machine itself can do: the limits that no library can pass, and what everything ran on."""

from __future__ import annotations

import os
import pickle
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ARRAY = 32 << 20


def pipe_round_trip(count: int) -> float:
    """Seconds that a pickled number takes to another process and back, through two pipes; median."""
    there_out, there_in = os.pipe()
    back_out, back_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        while True:
            message = os.read(there_out, 4096)
            if message == b"end":
                os._exit(0)
            os.write(back_in, pickle.dumps(pickle.loads(message) + 1))
    times = []
    for number in range(count):
        begin = time.perf_counter()
        os.write(there_in, pickle.dumps(number))
        pickle.loads(os.read(back_out, 4096))
        times.append(time.perf_counter() - begin)
    os.write(there_in, b"end")
    os.waitpid(pid, 0)
    for fd in (there_out, there_in, back_out, back_in):
        os.close(fd)
    return statistics.median(times)


def memory_copy() -> float:
    """Bytes a second that one core copies between two pieces of memory it has used before."""
    source, target = memoryview(bytearray(ARRAY)), memoryview(bytearray(ARRAY))
    target[:] = source
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - begin)
    return ARRAY / statistics.median(times)


def import_times(statement: str, count: int, limit: float) -> list[float]:
    """Seconds by which an import makes the start of an interpreter longer; *limit* in seconds for all of it."""
    end = time.perf_counter() + limit
    bare: list[float] = []
    full: list[float] = []
    _start(statement)  # its bytecode is compiled and its files are read
    while not full or (len(full) < count and time.perf_counter() < end):
        bare.append(_start("pass"))
        full.append(_start(statement))
    usual = statistics.median(bare)
    return [seconds - usual for seconds in full]


def _start(statement: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - begin


def machine() -> dict[str, str]:
    """What everything ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
    }
