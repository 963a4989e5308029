"""Which cluster, as a backend among the options; what its machines must have, and modules that are sent to them."""

from __future__ import annotations

import io
import logging
import os
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from importlib import import_module
from math import inf
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parmap._work.cpus import cpu_count
from parmap.backends import ALL
from parmap.errors import BackendUnavailableError, PoolClosedError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from parmap._calls.options import Options
    from parmap.backends._base import Backend

NEEDED = "parmap", "cloudpickle"
"""What must be there on each machine of a cluster."""

_last: dict[type[Site], str] = {}
"""Which cluster the program had last: after it, no other is started."""


class Site(ABC):
    """A cluster as a value: two that say the same are equal, and share a pool."""

    kills = True
    """Whether running tasks can be stopped."""
    module: str
    """The name of the library."""
    unit: str
    """What is counted in a cluster."""
    gone: str
    """What to say where there was a cluster before."""

    def __init__(self, resources: Mapping[str, float] | None = None, ship: Iterable[str] = ()) -> None:
        if isinstance(ship, str):
            raise TypeError(f"ship must be a list of names of modules, such as [{ship!r}]")
        self.resources: dict[str, float] = dict(resources or {})
        for name, need in self.resources.items():
            if type(name) is not str or not name:
                raise ValueError(f"resources: {name!r} is no name of something")
            if not isinstance(need, Real) or not 0 <= need < inf:
                raise ValueError(f"resources: {name!r} must be a number, 0 or more; got {need!r}")
        self.ship: tuple[str, ...] = tuple(ship)
        for name in self.ship:
            _spec_of(name)

    @abstractmethod
    def target(self) -> Hashable:
        """Which cluster that is now, for this caller; `None`: there is none."""

    @abstractmethod
    def start(self, count: int) -> Any:
        """Start a cluster of that size on this machine; returns what it stops by."""

    @property
    def is_named(self) -> bool:
        """Whether the environment names a cluster: then `start` connects to that one."""
        return False

    @abstractmethod
    def pool(self, options: Options, target: Any, own: Any) -> Backend:
        """Make a pool on a cluster; *own*: what `start` returned, if it was started for this."""

    def library(self) -> Any:
        """The library.

        Raises:
            BackendUnavailableError: it is not there.
        """
        try:
            return import_module(self.module)
        except ImportError as error:
            name = type(self).__name__.lower()
            raise BackendUnavailableError(
                f"the backend {name!r} needs the library {self.module}", extra=name
            ) from error

    def open(self, options: Options, target: Any) -> Backend:
        """Make a pool on that cluster; if there is none and never was one, on one of its own.

        Raises:
            PoolClosedError: there was one.
        """
        self.library()
        if target is not None:
            _last[type(self)] = str(getattr(getattr(target, "scheduler", None), "address", target))
            return self.pool(options, target, None)
        if type(self) in _last:
            raise PoolClosedError(self.gone.format(_last[type(self)]))
        count = min(options.workers, cpu_count())
        if not self.is_named:
            what = f"no {type(self).__name__} cluster: one of %d {self.unit} is started on this machine"
            logging.getLogger("parmap").warning(what, count)
        return self.pool(options, None, self.start(count))

    def _said(self) -> tuple[Any, ...]:
        return type(self), tuple(sorted(self.resources.items())), self.ship

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())

    def __repr__(self) -> str:
        said = {"resources": self.resources, "ship": self.ship}
        told = ", ".join(f"{name}={value!r}" for name, value in said.items() if value)
        return f"parmap.backends.{type(self).__name__}({told})"


_CONNECTIONS = 100  # that are remembered, the latest
_pids: dict[str, int] = {}  # of the first process that used a connection


def check_process(what: str, name: str) -> None:
    """Refuse a connection that came with a fork: its threads are not here, and whoever asks it waits for ever.

    Raises:
        PoolClosedError: it is another process's.
    """
    if _pids.setdefault(name, os.getpid()) != os.getpid():
        raise PoolClosedError(f"{what} belongs to the parent process: one that was forked needs its own")
    while len(_pids) > _CONNECTIONS:
        del _pids[next(iter(_pids))]


def facts(needed: Iterable[str]) -> tuple[tuple[int, int], list[str]]:
    """What matters of this process: the version of Python, and what it lacks of the modules that are needed."""
    from importlib.util import find_spec

    return sys.version_info[:2], [name for name in needed if find_spec(name) is None]


facts.__module__ = "__main__"  # so that it travels by value, to where there may be no parmap


def fitting(offered: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many workers that need so much find room where so much is offered: any number, if they need nothing."""
    return min((int(offered.get(name, 0) // need) for name, need in needs.items() if need), default=ALL)


def check(where: str, found: tuple[tuple[int, int], list[str]]) -> None:
    """Refuse a worker that can't run anything, in one sentence; *found*: what `facts` says there.

    Raises:
        BackendUnavailableError: what it lacks.
    """
    version, lacking = found
    if lacking:
        raise BackendUnavailableError(f"{where} lacks {' and '.join(lacking)}")
    if version != sys.version_info[:2]:
        there, here = (".".join(map(str, each)) for each in (version, sys.version_info[:2]))
        raise BackendUnavailableError(f"{where} runs Python {there}, this program {here}")


def _spec_of(name: str) -> ModuleSpec:
    """What is known of a module that is to be sent.

    Raises:
        ModuleNotFoundError: there is no such module here, or it has no file.
    """
    from importlib.util import find_spec

    spec = find_spec(name.partition(".")[0])
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise ModuleNotFoundError(f"ship: there is no module {name!r} here that could be sent", name=name)
    return spec


def zipped(modules: Iterable[str]) -> bytes:
    """The files of modules, as a zip file from which they can be imported."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in modules:
            spec = _spec_of(name)
            for root in map(Path, spec.submodule_search_locations or ()):
                for path in root.rglob("*"):
                    if path.suffix != ".pyc":
                        archive.write(path, path.relative_to(root.parent))
            if not spec.submodule_search_locations and spec.origin:
                archive.write(spec.origin, os.path.basename(spec.origin))
    return file.getvalue()
