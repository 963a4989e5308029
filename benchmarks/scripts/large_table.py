"""A script with a table of 300,000 entries, which its tasks read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = {f"article {number}": number for number in range(300_000)}
held: Any = None


def keys(count: int) -> list[str]:
    """What to look up."""
    return [f"article {number * 7919 % 300_000}" for number in range(count)]


def look_up(key: str) -> int:
    """Read the table as it stands in the script."""
    return TABLE[key]


def look_up_held(key: str) -> int:
    """Read the table that was sent once."""
    found: int = held.value[key]
    return found


def for_broadcast(name: str) -> Callable[[str], int]:
    """The task as users of each library write it if the table never changes."""
    global held  # noqa: PLW0603 - a script's variable
    if name != "parmap":
        return look_up
    import parmap
    from contestants import CannotError

    if not hasattr(parmap, "broadcast"):
        raise CannotError("this parmap has no broadcast")
    held = parmap.broadcast(TABLE)
    return look_up_held


if __name__ == "__main__":
    from cell import main

    main(sys.modules[__name__])
