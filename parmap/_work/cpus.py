"""How many CPUs this process may use: affinity and container quota respected."""

from __future__ import annotations

import os
import sys


def cpu_count() -> int:
    """Return the number of CPUs that this process may use, at least 1.

    Counts what the scheduler allows this process (its affinity), then what a container allows it (the CPU quota of its
    cgroup, version 1 or 2, rounded up). From Python 3.13 on, ``PYTHON_CPU_COUNT`` and ``-X cpu_count`` count too.
    This is the number of workers where ``workers`` is not given.

    Example:
        >>> import parmap
        >>> parmap.cpu_count() >= 1
        True
    """
    allowed = _allowed()
    quota = cgroup_quota() if sys.platform == "linux" else None
    return allowed if quota is None else max(1, min(allowed, quota))


def _allowed() -> int:
    try:
        if sys.version_info >= (3, 13):
            return os.process_cpu_count() or 1
        if sys.platform == "linux":
            return len(os.sched_getaffinity(0)) or 1
    except OSError:  # a sandbox doesn't tell
        pass
    return os.cpu_count() or 1


def cgroup_quota(proc: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> int | None:
    """Return the CPUs that the quota of the control group of this process amounts to, or None if there is no quota."""
    quotas = [quota for group in _groups(_read(proc), mount) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _groups(table: str, mount: str) -> list[str]:
    """List the folders that may hold a quota: that of each group and of all its ancestors, whose limits bind it too."""
    found: list[str] = []
    for line in table.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree and names no controllers; version 1 has one tree for each set of them.
        for root in [f"{mount}/{controllers}", f"{mount}/cpu"] if controllers else [mount, f"{mount}/unified"]:
            parts = [part for part in path.split("/") if part not in {"", ".."}]
            found += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return found


def _quota_of(group: str) -> int | None:
    quota, _, period = _read(f"{group}/cpu.max").partition(" ")
    if not quota:
        quota, period = _read(f"{group}/cpu.cfs_quota_us"), _read(f"{group}/cpu.cfs_period_us")
    try:
        allowed, each = int(quota), int(period)
    except ValueError:  # no file, or "max"
        return None
    return max(1, -(-allowed // each)) if allowed > 0 and each > 0 else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
