"""Tracebacks and stacks of functions that travel by value show file, line and code, each line once."""

from __future__ import annotations

import linecache
import logging
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from parmap import TaskTimeoutError, WorkerDiedError, parallel

if TYPE_CHECKING:
    from conftest import Script

CELL = "<cell \N{GREEK SMALL LETTER PI}>"
"""A file that is on no disk, and not of ASCII letters alone."""

SOURCE = """\
import ctypes, logging, time
def fail(x):
    return [1 / y for y in (x,)]  # failed here
def deep(x):
    return (lambda: fail(x))()  # by way of here
class Row:
    def divide(self):
        return fail(0)  # in a method
def divide(x):
    return Row().divide()
def hang(x):
    time.sleep(600)  # stuck here
def crash(x):
    ctypes.string_at(0)  # died here
def log(x):
    try:
        fail(x)
    except ZeroDivisionError:
        logging.exception("logged")
def fail_together(x):
    try:
        fail(x)
    except ZeroDivisionError as error:
        raise ExceptionGroup("several", [error])
"""


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The functions of `SOURCE`, as if it had been typed in here: workers can't read it."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SOURCE, CELL, "exec"), space)
    monkeypatch.setitem(linecache.cache, CELL, (len(SOURCE), None, SOURCE.splitlines(keepends=True), CELL))
    return space


def told(function: Any, options: dict[str, Any], **more: Any) -> str:
    """The traceback of a task, as the caller sees it."""
    with pytest.raises(ArithmeticError) as caught:
        parallel(function, **options, **more).map([0])
    return str(caught.value.__cause__)


@pytest.mark.parametrize("name", ["fail", "deep", "divide"])
def test_cells(processes: dict[str, Any], typed: dict[str, Any], name: str) -> None:
    """What was typed in is known here alone; each function names its cell, and so do those inside it."""
    text = told(typed[name], processes)

    assert f'  File "{CELL}", line 3, in fail\n    return [1 / y for y in (x,)]  # failed here\n' in text
    assert text.count("# failed here") == text.count(f'"{CELL}", line 3')
    assert ("# by way of here" in text, "# in a method" in text) == (name == "deep", name == "divide")


def test_local_variables_stand_below_the_code(processes: dict[str, Any], typed: dict[str, Any]) -> None:
    """They are not taken for it."""
    text = told(typed["fail"], processes, traceback_locals=True)

    assert "# failed here\n    x = 0\n" in text


def test_members_of_groups(processes: dict[str, Any], typed: dict[str, Any]) -> None:
    """Code inside the box of a group stays inside."""
    with pytest.raises(ExceptionGroup) as caught:
        parallel(typed["fail_together"], **processes).map([0])

    text = str(caught.value.__cause__)
    assert '  |     raise ExceptionGroup("several", [error])\n' in text
    assert "    |     return [1 / y for y in (x,)]  # failed here\n" in text


def test_timeouts(processes: dict[str, Any], typed: dict[str, Any]) -> None:
    """The stack of a task that was stuck shows the line it was stuck in."""
    with pytest.raises(TaskTimeoutError) as caught:
        parallel(typed["hang"], timeout=0.5, **processes).map([0])

    assert "line 12 in hang\n    time.sleep(600)  # stuck here" in caught.value.stack


def test_crashes(processes: dict[str, Any], typed: dict[str, Any]) -> None:
    """The stack of a worker that crashed shows the line it crashed in."""
    with pytest.raises(WorkerDiedError) as caught:
        parallel(typed["crash"], **processes).map([0])

    assert "line 14 in crash\n    ctypes.string_at(0)  # died here" in caught.value.stack


def test_records(processes: dict[str, Any], typed: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """So does the traceback of an exception that a task logs."""
    with caplog.at_level(logging.ERROR):
        parallel(typed["log"], **processes).map([0])

    assert "    fail(x)\n" in caplog.text
    assert "# failed here\n" in caplog.text


PROGRAM = """
from parmap import parallel, TaskTimeoutError, WorkerDiedError
{source}
def show(text):
    for line in str(text).splitlines():
        if "File" in line or "  # " in line:
            print(line.strip())
for name in ("deep", "divide"):
    try:
        parallel(globals()[name], workers=1).map([0])
    except ZeroDivisionError as error:
        show(error.__cause__)
for function, limit in ((crash, None), (hang, 0.5)):
    try:
        parallel(function, workers=1, timeout=limit).map([0])
    except (TaskTimeoutError, WorkerDiedError) as error:
        show(error)
"""


def shown(output: str, file: str) -> dict[int, str]:
    """The code that `PROGRAM` has shown, by line of `SOURCE`."""
    lines = output.splitlines()
    code = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(f'File "{file}", line '):
            code[int(line.split()[3].strip(",")) - 2] = following
        else:
            assert following.startswith("File") or not following, "a line is shown twice"
    return {number: line.partition("  # ")[2] for number, line in code.items() if "#" in line}


PLACES = {3: "failed here", 5: "by way of here", 8: "in a method", 12: "stuck here", 14: "died here"}


def test_scripts(script: Script) -> None:
    """A worker that can read the script shows its lines; they are not shown a second time here."""
    done = script.run(PROGRAM.format(source=SOURCE))

    assert done.returncode == 0, done.stderr
    assert shown(done.stdout, f"{script.folder}/script.py") == PLACES


@pytest.mark.skipif(sys.version_info < (3, 13), reason="older Pythons don't keep what is given by -c")
def test_command_lines(script: Script) -> None:
    """What is given by `python -c` is known here alone, and shown."""
    command = [sys.executable, "-c", PROGRAM.format(source=SOURCE)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=script.environment)

    assert done.returncode == 0, done.stderr
    assert shown(done.stdout, "<string>") == PLACES


def test_archives(script: Script) -> None:
    """The lines of a script in an archive, which only its loader can read."""
    archive = f"{script.folder}/app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", PROGRAM.format(source=SOURCE))

    done = subprocess.run(
        [sys.executable, archive], capture_output=True, text=True, check=False, timeout=60, env=script.environment
    )

    assert done.returncode == 0, done.stderr
    assert shown(done.stdout, f"{archive}/__main__.py") == PLACES
