"""Noticing that a module is imported, so that nobody has to import it beforehand; and doing so as a whole.

And noticing that one is imported again, since processes that have imported it before have another one.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from parmap._travel.code.by_name import is_registered
from parmap._travel.failure import pass_on

whole = RLock()
"""Held while a call imports much: a process that is forked meanwhile would have half of it, for ever."""

_LONGEST = 5.0  # seconds that a fork waits: hooks of others that came before it may hold what an import needs


def let_forks_wait() -> None:
    """Have forks wait for `whole`, before all that prepares for them already."""
    if hasattr(os, "register_at_fork"):
        take = partial(whole.acquire, timeout=_LONGEST)
        wait = partial(
            os.register_at_fork, before=take, after_in_parent=_go_on, after_in_child=partial(_go_on, in_child=True)
        )
        wait()  # for logging, too, as long as that is imported
        with whole:
            import_module("logging")
        wait()  # a fork takes its lock after ours, now that it is known before


def _go_on(*, in_child: bool = False) -> None:
    lock: Any = whole
    if lock._is_owned():  # noqa: SLF001 - Condition uses it too
        lock.release()
    elif in_child:  # whoever holds it is not there
        lock._at_fork_reinit()  # noqa: SLF001 - so does Condition


def when_imported(name: str, callback: Callable[[], object]) -> None:
    """Call *callback* once, when module *name* has been imported; at once if it has been."""
    if name in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Watcher(name, callback))


class _Watcher:
    """A finder of modules that finds nothing by itself, and steps aside when the module has been imported."""

    def __init__(self, name: str, callback: Callable[[], object]) -> None:
        self._name = name
        self._callback = callback

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            # The loader may load other modules, too, and this one be looked for more than once before it is loaded.
            if module.__name__ == self._name and self in sys.meta_path:
                sys.meta_path.remove(self)
                self._callback()

        loader.exec_module = exec_module


class _Reloads:
    """A finder of modules that finds nothing: it counts how often one was to be executed again."""

    def __init__(self) -> None:
        self.count = 0
        self._known: set[str] = set()  # names of modules that were there when workers were to import them
        self._cell: int | None = None
        self._times: dict[str, float] = {}  # of the files that IPython has loaded

    def notice(self) -> None:
        self._known = {*sys.modules.copy()}
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002 - how finders are asked
        is_reloaded, was_removed = target is not None, name in self._known and name not in sys.modules
        if (is_reloaded or was_removed) and not is_registered(name):
            self._known.discard(name)  # what can't be imported, and is tried again and again, counts once
            self.count += 1

    def look_at_notebook(self) -> None:
        """Count what IPython has reloaded before this cell: where it can, it imports nothing, but changes functions."""
        try:
            shell = sys.modules["IPython"].get_ipython()
            if shell.execution_count != self._cell:
                before, self._cell = self._times, shell.execution_count
                reloader = shell.magics_manager.registry["AutoreloadMagics"]._reloader  # noqa: SLF001 - all that tells
                now = self._times = reloader.modules_mtimes.copy()
                changed = [name for name, time in before.items() if now.get(name) != time]
                self.count += not before or not all(map(is_registered, changed))
        except Exception as error:  # noqa: BLE001 - another IPython, or none
            pass_on(error)


_AUTORELOAD = "IPython.extensions.autoreload"
_reloads = _Reloads()


def notice_reloads() -> int:
    """Have `edition` tell from now on what becomes of the modules that are there; returns it."""
    _reloads.notice()
    return edition()


def edition() -> int:
    """A number that changes when modules are executed again: who has imported them before has other ones."""
    if _AUTORELOAD in sys.modules:
        _reloads.look_at_notebook()
    return _reloads.count
