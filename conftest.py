"""Runs every example of README.md, of the documentation and of the docstrings as a test."""

import os
import subprocess
import sys
from collections.abc import Iterable
from doctest import ELLIPSIS
from importlib.util import find_spec
from pathlib import Path
from shlex import split
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.document import PythonDocStringDocument
from sybil.integration.pytest import SybilItem
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser
from sybil.parsers.myst.lexers import DirectiveLexer
from sybil.parsers.rest import DocTestParser

ROOT = Path(__file__).resolve().parent


class Docstrings(PythonDocStringDocument):
    """The docstrings of a module, without its names: an example imports what it uses, as a user does."""

    def __init__(self, text: str, path: str) -> None:
        """Leave out the import of the module."""
        Document.__init__(self, text, path)


def blocks(document: Document) -> Iterable[Region]:
    """Find the blocks of Python that run in the page's own process, one after the other."""
    for region in PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)(document):
        if "caption" not in region.lexemes.get("options", {}):
            yield region


def files(document: Document) -> Iterable[Region]:
    """Find the blocks with a caption: each is a file of that name, which the page's programs find in their folder."""
    for region in DirectiveLexer("code-block")(document):
        if "caption" in region.lexemes["options"]:
            yield Region(region.start, region.end, region.lexemes, write)


def write(example: Example) -> None:
    """Write the file that a block shows."""
    lexemes = example.parsed
    file = Path(example.namespace["page_folder"], lexemes["options"]["caption"].strip("`"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(lexemes["source"], encoding="utf-8")


def as_script(namespace: dict[str, Any]) -> None:
    """Let the examples be what they are to a reader: a script, of which workers know nothing."""
    namespace["__name__"] = "__main__"


def as_page(namespace: dict[str, Any]) -> None:
    """As a script in the page's folder; its examples can run commands there, and skip where a library is missing."""
    as_script(namespace)
    folder, before = mkdtemp(prefix="parmap-page-"), Path.cwd()
    os.chdir(folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    here = os.pathsep.join([folder, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

    def start(command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            split(command),
            cwd=folder,
            env={**environment, "PATH": path, "PYTHONPATH": here},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(command: str) -> str:
        with start(command) as process:
            output = process.communicate(timeout=100)[0]
        assert process.returncode == 0, output  # noqa: S101 - this is a test
        return output

    def missing(*libraries: str) -> bool:
        return any(find_spec(library) is None for library in libraries)

    namespace.update(page_folder=folder, folder_before=before, start=start, run=run, missing=missing)
    namespace["is_linux"] = sys.platform == "linux"


def end_of_page(namespace: dict[str, Any]) -> None:
    """Leave the page's folder, and remove it."""
    os.chdir(namespace["folder_before"])
    rmtree(namespace["page_folder"])


def traceback_of(item: SybilItem, info: pytest.ExceptionInfo[BaseException]) -> Any:
    """Return what to show of an error; all of it, if no line of the page is in it, as in that of a worker's cause."""
    try:
        return _cut(item, info)
    except IndexError:  # it would end the whole run
        return info.traceback


_cut = SybilItem._traceback_filter  # noqa: SLF001 - see above
SybilItem._traceback_filter = traceback_of  # type: ignore[assignment,method-assign]  # noqa: SLF001

# Each page is one program, and so is each module: its examples share their names, in order.
_pages = Sybil(
    name="page",
    parsers=[blocks, files, SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=as_page,
    teardown=end_of_page,
)
_docstrings = Sybil(
    name="docstring",
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    patterns=["parmap/*.py", "parmap/*/*.py", "parmap/*/*/*.py", "parmap/*/*/*/*.py"],
    document_types={".py": Docstrings},
    setup=as_script,
)
pytest_collect_file = (_pages + _docstrings).pytest()
