"""How the documentation is built: Sphinx, MyST and Furo."""

import parmap

project = "parmap"
author = "parmap contributors"
copyright = "2026, parmap contributors"
version = release = parmap.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "parmap"

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
nitpick_ignore_regex = [("py:.*", r"(?!parmap\b).*"), ("py:.*", r"parmap\.(_|joblib\._|pool\.|executor\.).*")]
