"""Which cluster, and what is asked of it: what stands for a backend among the options."""

from __future__ import annotations

import io
import os
import zipfile
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from parmap._calls.options import Options
    from parmap.backends._base import Backend


class Site(ABC):
    """A cluster as a value: two that say the same are equal, and share a pool."""

    kills = True
    """Whether running tasks can be stopped."""
    name: str

    def __init__(self, resources: Mapping[str, float] | None, ship: Iterable[str]) -> None:
        if isinstance(ship, str):
            message = f"ship must be a list of names of modules, such as [{ship!r}]"
            raise TypeError(message)
        self.resources: dict[str, float] = dict(resources or {})
        self.ship: tuple[str, ...] = tuple(ship)

    @abstractmethod
    def target(self) -> Hashable:
        """Which cluster that is now, for this caller; `None`: there is none."""

    @abstractmethod
    def open(self, options: Options, target: Any) -> Backend:
        """Make a pool on that cluster; if there is none and never was one, on one of its own."""

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


def zipped(modules: Iterable[str]) -> bytes:
    """The files of modules, as a zip file from which they can be imported.

    Raises:
        ModuleNotFoundError: there is no such module here, or it has no file.
    """
    from importlib.util import find_spec

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in modules:
            spec = find_spec(name.partition(".")[0])
            if spec is None or not (spec.origin or spec.submodule_search_locations):
                message = f"ship: there is no module {name!r} here that could be sent"
                raise ModuleNotFoundError(message, name=name)
            for root in spec.submodule_search_locations or ():
                for folder, _, files in os.walk(root):
                    for each in files:
                        path = os.path.join(folder, each)
                        if not each.endswith(".pyc"):
                            archive.write(path, os.path.relpath(path, os.path.dirname(root)))
            if not spec.submodule_search_locations and spec.origin:
                archive.write(spec.origin, os.path.basename(spec.origin))
    return file.getvalue()
