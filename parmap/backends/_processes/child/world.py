"""The context of a call, in a worker: working directory, environment and all else as in the program; initializers.

Save that there is no terminal for a debugger. Filters and log levels are in `output`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from parmap._work.imports import when_imported
from parmap._work.settings import libraries
from parmap._work.settings.arithmetic import USUAL, chosen, float_errors, made, told_errors
from parmap.backends._processes.line.descriptors import recv_fds
from parmap.backends._processes.line.sockets import pair

with suppress(ImportError):  # in the template already: C code uses what it sets, whoever has imported it
    import_module("_locale")

if TYPE_CHECKING:
    from parmap.backends._processes.child.output import Output
    from parmap.backends._processes.line.channel import Channel

_LONGEST = 60.0  # seconds that the program may take to answer


class World:
    """The surroundings of the tasks of this worker."""

    def __init__(self, output: Output, channel: Channel) -> None:
        self._output = output
        self._set_filters, self._set_levels = output.set_filters, output.set_levels
        self._channel = channel
        self._pid = os.getpid()
        self._cwd: str | None = None
        self._authkey = b""
        self._decimal: Any = None
        self._errors: dict[str, str] | None = None
        self._state: Any = None  # of numpy, when that was set
        self._libraries: dict[str, bytes] = {}
        self._states: dict[str, Any] = {}  # of libraries, when their settings were put
        self._own: set[str] = set()  # what the initializer has chosen, whatever the program says later
        sys.breakpointhook = _explain_breakpoint
        when_imported("multiprocessing.process", self._join_family)
        when_imported("multiprocessing.resource_tracker", self._share_tracker)
        when_imported("decimal", self._calculate)
        when_imported("numpy", self._take_errors)

    def change(self, changes: dict[str, Any]) -> None:
        """Take over what has changed in the program."""
        for name, value in changes.items():
            if name not in self._own:
                getattr(self, "_set_" + name)(value)
        self.enter()

    def initialize(self, initializer: Callable[[], None]) -> None:
        """Call it. The working directory, the arithmetic and the settings that it chooses are those of all tasks."""
        before, timeout = _cwd(), socket.getdefaulttimeout()
        self._states = {name: libraries.state_of(name) for name in libraries.LIBRARIES}
        initializer()
        self._own |= {name for name, state in self._states.items() if libraries.state_of(name) != state}
        if socket.getdefaulttimeout() != timeout:
            self._own.add("timeout")
        if _cwd() != before:
            self._cwd = _cwd()
            self._own.add("cwd")
        if (numbers := chosen(self._decimal)) is not None:
            self._decimal = numbers
            self._own.add("decimal")
        if float_errors() is not None and (errors := told_errors() or USUAL) != (self._errors or USUAL):
            self._errors = errors
            self._own.add("errors")

    def enter(self) -> None:
        """Begin a chunk: undo what tasks did to the working directory, and to the arithmetic of this thread."""
        if self._decimal is not None:
            self._calculate()
        if self._errors is not None:
            self._take_errors()
        if self._cwd is None:
            return
        try:
            if _cwd() != self._cwd:
                os.chdir(self._cwd)
        except OSError:  # it is gone: the task's own business
            pass

    def _set_cwd(self, cwd: str) -> None:
        self._cwd = cwd

    def _set_recorder(self, number: int) -> None:
        self._output.recorder = number

    def _set_path(self, path: list[str]) -> None:
        sys.path[:] = path

    def _set_argv(self, argv: list[str]) -> None:
        sys.argv[:] = argv

    def _set_environ(self, changes: dict[str, str | None]) -> None:
        for name, value in changes.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _set_recursion(self, limit: int) -> None:
        try:
            sys.setrecursionlimit(limit)
        except RecursionError:  # lower than what is in use here
            pass

    def _set_digits(self, limit: int) -> None:
        sys.set_int_max_str_digits(limit)

    def _set_timeout(self, seconds: float | None) -> None:
        socket.setdefaulttimeout(seconds)

    def _set_authkey(self, key: bytes) -> None:
        self._authkey = key
        if "multiprocessing.process" in sys.modules:
            self._join_family()

    def _set_decimal(self, told: tuple[Any, ...] | None) -> None:
        self._decimal = told

    def _set_errors(self, told: dict[str, str] | None) -> None:
        self._errors = told or (None if self._errors is None else USUAL)  # who never had another way has none set
        self._state = None

    def _set_libraries(self, told: dict[str, bytes]) -> None:
        for name, settings in told.items():
            before, self._libraries[name] = self._libraries.get(name), settings
            if before is None:
                when_imported(name, partial(self._put_settings, name))
            elif before != settings:
                self._put_settings(name)

    def _put_settings(self, name: str) -> None:
        if name not in self._own:
            libraries.put(name, self._libraries[name])
            self._states[name] = libraries.state_of(name)

    def _calculate(self) -> None:
        """Give this thread the caller's decimal arithmetic, once something has a use for it."""
        decimal: Any = sys.modules.get("decimal")
        if decimal is not None and self._decimal is not None:
            decimal.setcontext(made(self._decimal))

    def _take_errors(self) -> None:
        """Let numpy take errors of floats as the caller does."""
        if self._errors is not None and (now := float_errors()) is not None and now != self._state:
            sys.modules["numpy"].seterr(**self._errors)
            self._state = float_errors()

    def _join_family(self) -> None:
        """Be known to the managers of the parent, and of `multiprocessing`, as a process of the parent's."""
        if self._authkey:
            sys.modules["multiprocessing.process"].current_process().authkey = self._authkey

    # the tracker of shared memory and semaphores

    def _share_tracker(self) -> None:
        """Let the program's tracker see to what tasks make and use.

        One of this worker's own would, when the worker ends, destroy the shared memory that the program goes on to use.
        """
        module: Any = sys.modules["multiprocessing.resource_tracker"]
        tracker = module._resource_tracker  # noqa: SLF001 - there is no other way to it
        for name in ("ensure_running", "_ensure_running_and_write"):  # the second one from late releases of 3.14 on
            start = getattr(tracker, name, None)
            if start is not None:
                setattr(tracker, name, partial(self._start_tracker, tracker, start))
        module.ensure_running = tracker.ensure_running

    def _start_tracker(self, tracker: Any, start: Callable[..., Any], *args: Any) -> Any:
        if tracker._fd is None and os.getpid() == self._pid:  # noqa: SLF001 - there is no other way to it
            tracker._fd = self._ask_for_tracker()  # noqa: SLF001
        return start(*args)

    def _ask_for_tracker(self) -> int | None:
        """The descriptor of the program's tracker, over a line of its own: a task waits for it, in any thread."""
        is_macos = sys.platform == "darwin"
        ours, theirs = pair()
        with ours, theirs:
            ours.settimeout(_LONGEST if is_macos else None)
            self._channel.send("tracker", fds=(theirs.fileno(),))
            if not is_macos:  # where what only a message holds is garbage; else an end that was lost is heard to end
                theirs.close()
            with suppress(TimeoutError):
                _, fds = recv_fds(ours, 1)
                return fds[0] if fds else None
        return None


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it is gone
        return None


def _explain_breakpoint(*args: Any, **kwargs: Any) -> Any:
    """Stand for the debugger, which would read the empty standard input; not for one that the user has chosen."""
    if os.environ.get("PYTHONBREAKPOINT", "") not in {"", "pdb.set_trace"}:
        return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 - as Python does
    raise RuntimeError(
        'breakpoint() has no terminal in a worker: debug in your own process, `with parmap.override(backend="serial"):`'
    )
