"""Runs every example of README.md, of the documentation and of the docstrings as a test."""

from doctest import ELLIPSIS
from importlib.util import find_spec
from typing import Any

from sybil import Document, Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


class Docstrings(PythonDocStringDocument):
    """The docstrings of a module, without its names: an example imports what it uses, as a user does."""

    def __init__(self, text: str, path: str) -> None:
        """Leave out the import of the module."""
        Document.__init__(self, text, path)


def as_script(namespace: dict[str, Any]) -> None:
    """Let the examples be what they are to a reader: a script, of which workers know nothing."""
    namespace["__name__"] = "__main__"


def as_page(namespace: dict[str, Any]) -> None:
    """As a script; its examples can ask for libraries that are not installed everywhere, and skip."""
    as_script(namespace)
    namespace["missing"] = lambda library: find_spec(library) is None


# Each page is one program, and so is each module: its examples share their names, in order.
_pages = Sybil(
    name="page",
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    setup=as_page,
)
_docstrings = Sybil(
    name="docstring",
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    patterns=["parmap/*.py", "parmap/*/*.py", "parmap/*/*/*.py", "parmap/*/*/*/*.py"],
    document_types={".py": Docstrings},
    setup=as_script,
)
pytest_collect_file = (_pages + _docstrings).pytest()
