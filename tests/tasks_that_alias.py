"""Tasks whose arguments and results are, or could be, one object: importable, so that they travel by name."""

from __future__ import annotations


def append_to(items: list[int]) -> list[int]:
    items.append(1)
    return items


_held: list[int] = []


def the_same(_: int) -> list[int]:
    return _held


def shared_pair(x: int) -> tuple[list[int], list[int]]:
    one = [x]
    return one, one


_memory: list[int] = []


def remember(x: int) -> list[int]:
    _memory.append(x)
    return _memory
