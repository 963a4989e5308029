"""Files without a name, in memory where the system has such: what several processes map."""

from __future__ import annotations

import os
from collections.abc import Callable


def _has_memory_files() -> bool:
    try:
        os.close(os.memfd_create("parmap", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except (AttributeError, OSError):  # not Linux; or the container refuses them
        return False
    return True


HAS_MEMORY_FILES = _has_memory_files()

if HAS_MEMORY_FILES:

    def _made(name: str) -> int:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

else:
    import tempfile  # now: a process that is forked in the middle of it would wait for that module for ever

    def _made(name: str) -> int:  # noqa: ARG001 - nobody sees it
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def anonymous_file(name: str, fill: Callable[[int], object], *, grows: bool = False, changes: bool = True) -> int:
    """A file that no other process finds, once *fill* was called with its descriptor; *name* is for people.

    From then on no process can make it shorter, nor longer unless it *grows*, nor, unless it *changes*, write to it:
    whoever has it mapped would be killed by the system when it reads what was cut off.

    Raises:
        OSError: there is no space, or no descriptor.
    """
    fd = _made(name)
    try:
        fill(fd)
        if HAS_MEMORY_FILES:
            import fcntl

            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            seals |= (0 if grows else fcntl.F_SEAL_GROW) | (0 if changes else fcntl.F_SEAL_WRITE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd
