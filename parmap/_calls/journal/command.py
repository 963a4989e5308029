"""`python -m parmap journal FILE`: what is in a journal; nothing is unpickled."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from parmap._calls.journal.file import connect, telling, writing
from parmap._travel.text import written
from parmap.errors import JournalError

_RUNS = """
    select id, function, version, about, items, coalesce(sum(state = 1), 0), coalesce(sum(state = 2), 0)
    from runs left join items on run = id where ? in ('', function, id) group by id order by id
"""
_FAILED = "select item, value, attempts from items where run = ? and state = 2 order by rowid"
_FEW = 5  # failed items that are shown unless more are asked for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m parmap")
    journal = parser.add_subparsers(dest="command", required=True).add_parser(
        "journal", help="show what is in a journal", description="Show what is in a journal: done, failed, missing."
    )
    journal.add_argument("file")
    which = "of a function, or of one run of it, by its number"
    journal.add_argument("--failed", action="store_true", help="list all items that failed, with their errors")
    journal.add_argument("--accept", metavar="RUN", help=f"take the results {which}, though its code has changed")
    journal.add_argument("--drop", metavar="RUN", help=f"drop the results {which}")
    journal.add_argument("--compact", action="store_true", help="give the room of what was dropped back")
    chosen = parser.parse_args(arguments)
    try:
        with closing(connect(chosen.file, make=False)) as file, telling(chosen.file):
            _change(file, chosen)
            for run in file.execute(_RUNS, ("",)).fetchall():
                for line in _told(file, run, every=chosen.failed):
                    print(written(line, sys.stdout))  # noqa: T201 - it is the command's output
            sys.stdout.flush()
    except BrokenPipeError:  # as under `| head`, which has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python is going to flush once more
        return 1
    except JournalError as error:
        parser.exit(1, f"{error}\n")
    return 0


def _change(file: sqlite3.Connection, chosen: Any) -> None:
    with writing(file):
        for name in filter(None, (chosen.accept, chosen.drop)):
            runs = [run[0] for run in file.execute(_RUNS, (int(name) if name.isdecimal() else name,))]
            if not runs:
                raise JournalError(f"there is nothing of {name!r} in {chosen.file}")
            for run in runs:
                if name == chosen.accept:
                    file.execute("update runs set code = null where id = ?", (run,))
                else:
                    file.execute("delete from items where run = ?", (run,))
                    file.execute("delete from runs where id = ?", (run,))
    if chosen.compact:
        file.execute("vacuum")
        file.execute("pragma wal_checkpoint(truncate)")


def _told(file: sqlite3.Connection, row: tuple[Any, ...], *, every: bool) -> Iterator[str]:
    run, function, version, about, items, done, failed = row
    facts = ", ".join(filter(None, (f"version {version}" if version else "", about)))
    yield f"{run}: {function} ({facts})" if facts else f"{run}: {function}"
    yield f"   {done} done, {failed} failed, {max(0, items - done - failed)} missing"
    for item, error, attempts in file.execute(_FAILED, (run,)).fetchmany(failed if every else _FEW):
        tries = f" (attempts: {attempts})" if attempts > 1 else ""
        yield f"   failed: {item}: {(error if every else error.splitlines()[0]).rstrip()}{tries}"
    if failed > _FEW and not every:
        yield f"   … and {failed - _FEW} more: --failed lists them all"
