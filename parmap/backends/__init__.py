"""Ways to run chunks: one file each, behind the contract of `base`.

A backend decides nothing: it starts a chunk, stops it, and says how it ended.
The door is `base.Backend`.
"""

from __future__ import annotations

import sys


def is_executor(backend: object) -> bool:
    """Tell whether *backend* is a ``concurrent.futures.Executor``, without importing that module."""
    module = sys.modules.get("concurrent.futures._base")
    return module is not None and isinstance(backend, module.Executor)
