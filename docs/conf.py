"""How the documentation is built: Sphinx, MyST and Furo."""

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
for _name in parmap.__all__:
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


def setup(app: Sphinx) -> None:
    """Prepare tables for small screens."""
    app.connect("doctree-resolved", label_cells)
