"""The SQLite file of a journal: found fit, laid out, locked; `keeping` reads and writes its rows.

Other programs may read and write the same at any time.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from parmap.errors import JournalError

APPLICATION = 0x7061726D  # SQLite has a place in the head of a file for the number of whose it is
VERSION = 1
DONE, FAILED = 1, 2
"""How an item ended."""

_WAIT = 60.0  # seconds that another program may take to write
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\w*|9p|afs|ceph|gfs2?|lustre|gpfs|beegfs|fuse\.(sshfs|s3fs|gluster\w*|rclone|ceph\S*)"
)

_TABLES = f"""
    create table runs (
        id integer primary key, function text, given blob, version text, code text, about text, items integer,
        unique (function, given, version)
    );
    create table items (
        run integer, key blob, nth integer, state integer, value blob, item text, seconds real, attempts integer,
        primary key (run, key, nth)
    );
    pragma application_id = {APPLICATION};
    pragma user_version = {VERSION};
"""


def connect(path: str, *, make: bool = True) -> sqlite3.Connection:
    """Open a journal; with *make*, one that is not there is made.

    Raises:
        JournalError: it can't be one, or may not lie there.
    """
    _refuse_network(path)
    is_new = not os.path.exists(path) or os.path.getsize(path) == 0
    if is_new and not make:
        raise JournalError(f"there is no journal {path}")
    if not os.path.isdir(folder := os.path.dirname(os.path.abspath(path))) or os.path.isdir(path):
        why = "it is a folder" if os.path.isdir(path) else f"there is no folder {folder}"
        raise JournalError(f"the journal {path} can't be used: {why}")
    with telling(path):
        if not is_new:
            _look(path)
        connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        try:
            _set_up(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def telling(path: str) -> Generator[None]:
    """Tell the errors of SQLite as those of a journal.

    Raises:
        JournalError: instead of those.
    """
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.DataError, OverflowError) as error:  # the last two: too large a result
        raise JournalError(f"the journal {path} can't be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise JournalError(
            f"{path} is not a journal of parmap, or is damaged: {error}. It was left as it is: choose another path, or "
            "move it away to begin a new one"
        ) from error


def _look(path: str) -> None:
    """See whether a file is a journal, before anything of ours is written to it.

    What a killed program has half written SQLite undoes as it reads, which it can't where it may only read.
    """
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT)) as probe:
        is_made = probe.execute("select count(*) from sqlite_master").fetchone()[0]  # or somebody makes it just now
        if is_made and probe.execute("pragma application_id").fetchone()[0] != APPLICATION:
            raise JournalError(f"{path} is a database of another program, and was left as it is: choose another path")


def _set_up(connection: sqlite3.Connection, path: str) -> None:
    if _mode_of(connection) != "wal":
        raise JournalError(f"the journal {path} can't be written ahead of itself there: choose a path on a local disk")
    connection.execute("pragma synchronous = full")
    if connection.execute("pragma user_version").fetchone()[0] == 0:
        with writing(connection):
            if connection.execute("pragma user_version").fetchone()[0] == 0:  # nobody was faster
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
    version = connection.execute("pragma user_version").fetchone()[0]
    if version > VERSION:
        raise JournalError(
            f"the journal {path} was made by a newer parmap (format {version}): use that one, or another path"
        )


def _mode_of(connection: sqlite3.Connection) -> Any:
    """Let the journal be written ahead; for that no other program may use it, which SQLite doesn't wait for."""
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            return connection.execute("pragma journal_mode = wal").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def writing(connection: sqlite3.Connection) -> sqlite3.Connection:
    """All or nothing, while no other program writes: for `with`, whose end connections know themselves."""
    connection.execute("begin immediate")
    return connection


def _refuse_network(path: str) -> None:
    kind = file_system(os.path.dirname(os.path.abspath(path)))
    if _NETWORK.fullmatch(kind):
        raise JournalError(
            f"the journal {path} would lie on a network file system ({kind}), where SQLite can't keep two programs "
            "apart, nor a file whole: choose a path on a local disk"
        )


def file_system(folder: str, table: str = "/proc/self/mountinfo") -> str:
    """The kind of the file system that a folder lies in; empty if nobody can tell."""
    folder = os.path.realpath(folder)
    found, kind = -1, ""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            mounts = [line.partition(" - ") for line in lines]
    except OSError:  # not Linux
        return ""
    for before, _, after in mounts:
        place = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        if len(place) >= found and (folder + "/").startswith(place.rstrip("/") + "/"):
            found, kind = len(place), after.split()[0]
    return kind
