"""How far a batch has come: a bar of tqdm's, or a call of the user's function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from operator import length_hint
from typing import TYPE_CHECKING, Any

from parmap._travel.failure import pass_on
from parmap._work import place as _place
from parmap.errors import BackendUnavailableError

if TYPE_CHECKING:
    from parmap._calls.typed import Progress

_LOG_SECONDS = 10.0  # between the lines of a log file


class Meter:
    """Counts the items that have their final outcome, and tells."""

    def __init__(self, total: int | None, tell: Callable[[int, int | None, int], object]) -> None:
        self.total = total
        self.done: int = 0
        self.failed: int = 0
        self._tell = tell

    def count(self, done: int, failed: int) -> None:
        """So many more items have ended, so many of these by an error."""
        if done:
            self.done += done
            self.failed += failed
            self._tell(self.done, self.total, self.failed)

    def close(self) -> None:
        """The batch is over; safe to call again."""


class _Bar(Meter):
    def __init__(self, total: int | None, description: str) -> None:
        super().__init__(total, self._show)
        self._bar = _tqdm(total, description)
        self._shown = 0

    def _show(self, done: int, _: int | None, failed: int) -> None:
        if failed != self._shown:
            self._shown = failed
            self._bar.set_postfix(failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if not self._bar.disable:
            # It comes to rest above the others, which are drawn anew: else they would leave traces where they stood.
            with self._bar.external_write_mode(file=getattr(self._bar, "fp", None)):
                self._bar.close()


def meter(progress: Progress, iterables: tuple[Iterable[Any], ...], name: str) -> Meter | None:
    """What the option `progress` asks for; `None` in a worker: there, the batch is part of one task.

    Raises:
        BackendUnavailableError: a bar is wanted, and there is no tqdm.
    """
    if _place.in_worker:
        return None
    total = min((size for each in iterables if (size := _hint(each)) >= 0), default=None)
    if callable(progress):
        return Meter(total, progress)
    return _Bar(total, progress if isinstance(progress, str) and progress else name)


def _hint(iterable: Any) -> int:
    try:
        return length_hint(iterable, -1)
    except Exception as error:  # noqa: BLE001 - more than an int of C holds, or what a method of the user's raises
        pass_on(error)
        return -1


def _tqdm(total: int | None, description: str) -> Any:
    try:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without widgets gets the bar for terminals, and no lecture
            from tqdm.auto import tqdm
    except ImportError as error:
        raise BackendUnavailableError("a progress bar needs tqdm", extra="progress") from error
    options: dict[str, Any] = {"total": total, "desc": description, "unit": " items"}
    has_widgets = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    if not (has_widgets or _is_terminal(sys.stderr)):
        # All on one line, so to speak: further down is where control characters lead.
        options |= {"file": _Lines(), "position": 0, "ncols": 80}
        options |= {"mininterval": _LOG_SECONDS, "maxinterval": 2 * _LOG_SECONDS}
    return tqdm(**options)


def _is_terminal(stream: Any) -> bool:
    """Whether what is written can be overwritten: in a terminal, and below the cell of a notebook."""
    if any(kind.__module__.startswith("ipykernel.") for kind in type(stream).__mro__):
        return True
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError) as error:  # no stream, or a closed one
        pass_on(error)
        return False


def _do(write: Callable[..., object], *text: str) -> None:
    try:
        write(*text)
    except (OSError, ValueError) as error:  # nobody reads it any more, the disk is full, or it is closed
        pass_on(error)


class _Lines:
    """A log file: each state of the bar is a line of plain text."""

    encoding = "ascii"

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        text = text.strip()
        if text and text != self._last and sys.stderr is not None:
            self._last = text
            _do(sys.stderr.write, text + "\n")

    def flush(self) -> None:
        if sys.stderr is not None:
            _do(sys.stderr.flush)
