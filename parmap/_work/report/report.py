"""What the user has of it: `report()`, the `Report`, and `PARMAP_REPORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Self, TextIO

from parmap._travel.text import written
from parmap._work.report.advice import transport
from parmap._work.report.gather import Gathered
from parmap._work.report.pages import page, summary, trace
from parmap._work.report.watch import Open

_VARIABLE = "PARMAP_REPORT"
_KINDS = {".html": page, ".json": trace}


class Report:
    """Where the time of parallel calls went: of those that are made while it is open, to their ends.

    :func:`report` makes one. It can be read at any time, also while it is open, and holds no item and no function.

    Example:
        >>> import parmap
        >>> with parmap.report() as r:
        ...     parmap.parallel(abs, workers=2).map(range(-100, 0))[:3]
        [100, 99, 98]
        >>> "100 items" in str(r)
        True
    """

    def __init__(self) -> None:
        self._gathered = Gathered()

    def __enter__(self) -> Self:
        """Open it, beside others that are open."""
        Open.add(self._gathered)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, if it isn't open elsewhere, too: calls that are made from now on are not in it."""
        Open.remove(self._gathered)
        with self._gathered.held() as known:
            told = list(transport(known))
        for sentence in told:
            from logging import getLogger

            getLogger("parmap").info("%s", sentence)

    def __str__(self) -> str:
        """What `summary` prints."""
        with self._gathered.held() as known:
            return summary(known)

    __repr__ = __str__  # at a prompt, and under a cell

    def summary(self, file: TextIO | None = None) -> None:
        """Print it, for a terminal, to *file* or else the standard output."""
        print(written(str(self), file or sys.stdout), file=file)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file: ``.html`` is a page, ``.json`` a trace for Perfetto or Chrome's ``about:tracing``.

        Raises:
            ValueError: the name ends neither way.
            OSError: it can't be written.
        """
        target = _checked(path)
        with self._gathered.held() as known:
            content = _KINDS[target.suffix](known)
        _write(target, content)


def report() -> Report:
    """A report of the parallel calls that are made in its ``with`` block: where their time went.

    Any number may be open at a time, in any thread; each hears of all calls of the program.

    Example:
        >>> import parmap
        >>> with parmap.report() as r:
        ...     parmap.parallel(len, workers=2).map(["a", "bc"])
        [1, 2]
        >>> r.summary()  # doctest: +ELLIPSIS
        parmap report: 2 items in ...
        >>> r.save("report.html")  # doctest: +SKIP
    """
    return Report()


def _checked(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix not in _KINDS:
        raise ValueError(f"a report is saved as .html (a page) or .json (a trace), not as {target.name!r}")
    return target


def _write(target: Path, content: str | None) -> None:
    """Write a file, which others see whole or not at all; or only try whether it can be written."""
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target} can't be written: there is no folder {target.parent}")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(content or "", encoding="utf-8")
        if content is not None:
            beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def open_from_environment() -> None:
    """Open the report that ``PARMAP_REPORT`` asks for; it is saved when the program ends.

    Raises:
        ValueError, OSError: it could not be.
    """
    name = os.environ[_VARIABLE]
    try:
        target = _checked(name).absolute()  # the program may go elsewhere
        _write(target, None)
    except (ValueError, OSError) as error:
        raise type(error)(f"{_VARIABLE}={name}: {error}") from None
    opened = Report().__enter__()

    def save() -> None:
        opened.__exit__()
        try:
            opened.save(target)
        except OSError as error:
            print(f"{_VARIABLE}={name}: {error}", file=sys.stderr)  # noqa: T201 - nobody is left to catch it

    Open.at_exit = (save,)
