"""Coroutines that run in workers, and what asyncio makes of errors: importable, so that they travel by name."""

from __future__ import annotations

import asyncio
from typing import Any

from parmap import parallel


async def is_first_on_its_loop(_: Any) -> bool:
    """A task that leaves a mark on its event loop."""
    loop = asyncio.get_running_loop()
    first = not hasattr(loop, "marked")
    loop.marked = True  # type: ignore[attr-defined]
    return first


async def sum_of_others(x: int) -> int:
    """A task that awaits others, and has some run in parallel."""
    doubled = parallel(double_later, workers=2)
    return sum(await asyncio.gather(double_later(x), double_later(x))) + sum(doubled.map([x])) + await doubled.submit(x)


async def double_later(x: int) -> int:
    """A task that lets others go first."""
    await asyncio.sleep(0)
    return 2 * x


def be_late(x: int) -> None:
    """A task with an error of which asyncio makes another one."""
    raise TimeoutError(x)


async def fail_later(x: int) -> int:
    """A task that raises."""
    raise ValueError(x)
