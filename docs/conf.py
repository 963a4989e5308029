"""How the documentation is built: Sphinx, MyST and Furo."""

import inspect
import re
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]  # its types are a package of their own
from sphinx.application import Sphinx

import parmap

project = "parmap"
author = "parmap contributors"
copyright = "2026, parmap contributors"
version = release = parmap.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "parmap"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

# A public name is documented where users import it from, not in the module that holds it.
for _name in vars(parmap)["__all__"]:  # type checkers know the names by their imports
    _object = getattr(parmap, _name)
    if getattr(_object, "__module__", "").startswith("parmap."):
        _object.__module__ = "parmap"

# The standard library's documentation is not fetched, so that the build needs no network: names
# from outside the package, and those of its modules that users don't import from, are text.
nitpick_ignore_regex = [
    ("py:.*", r"(?!parmap\b).*"),
    ("py:.*", r"parmap\.(_|backends\._|joblib\._|pool\.|executor\.).*"),
]


def label_cells(_app: Sphinx, page: nodes.document, _name: str) -> None:
    """Put the head of its column into each cell of a table: shown on a phone, where a row becomes a list."""
    for table in page.findall(nodes.tgroup):
        head = next(table.findall(nodes.thead), None)
        titles = [entry.astext() for row in head.findall(nodes.row) for entry in row.children] if head else []
        if len(titles) < _MANY or not any(titles[1:]):
            continue
        table.parent["classes"] += ["rows-as-lists", f"of-{len(titles)}-columns"]
        for row in next(table.findall(nodes.tbody)).children:
            for title, entry in zip(titles[1:], row.children[1:], strict=False):
                entry.insert(0, nodes.container("", nodes.Text(title), classes=["column"]))


_MANY = 3
"""From so many columns on, a table is too wide for a phone; the cells of two wrap."""


_RESULTS = {
    "__call__": "R",
    "imap": "ResultStream[R]",
    "imap_unordered": "ResultStream[R]",
    "map": "list[R]",
    "map_async": "Future[list[R]]",
    "options": "ParallelFunction[P, R]",
    "outcomes": "ResultStream[Outcome[R]]",
    "partial": "ParallelFunction[..., R]",
    "starmap": "list[R]",
    "starmap_async": "Future[list[R]]",
    "submit": "Future[R]",
}
"""What the methods of a parallel function return, where no error takes the place of a result."""
_MADE_BY_PARMAP = {"ParallelFunction", "Future", "AsyncResult", "ResultStream", "Outcome", "Broadcast", "PerWorker"}


def shorten(
    _app: Sphinx, what: str, name: str, thing: Any, _options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Show how a thing is called: names and defaults, without the types that its page or its options tell."""
    room, _, short = name.rpartition(".")
    if what == "class" and short in _MADE_BY_PARMAP:
        return "", None
    if room == "parmap.ParallelFunction" and arguments:
        signature = inspect.signature(thing)
        bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
        shown = signature.replace(parameters=bare[1:], return_annotation=inspect.Signature.empty)
        return str(shown).replace("(/, ", "("), _RESULTS.get(short, result)
    return arguments and arguments.replace("R_co", "R"), result and result.replace("R_co", "R").replace("T_co", "T")


_HIDDEN = re.compile(r"parmap\.(.*\.)?_|typing\.")


def only_public(_app: Sphinx, _name: str, _thing: Any, _options: Any, bases: list[Any]) -> None:
    """Leave out base classes that are private, and what only type checkers ask for."""
    names = [f"{getattr(base, '__module__', '')}.{getattr(base, '__name__', '')}" for base in bases]
    bases[:] = [base for base, name in zip(bases, names, strict=True) if not _HIDDEN.match(name)] or [object]


def setup(app: Sphinx) -> None:
    """Prepare tables for small screens, and signatures."""
    app.connect("doctree-resolved", label_cells)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-bases", only_public)
