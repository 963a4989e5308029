"""How code uses a global, a captured variable or a parameter: it fills what that is, sets it, or reads it.

The instructions of CPython tell, which are there when the text isn't. What is not understood counts as being read.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Collection
from types import CodeType
from typing import NamedTuple

_FILLS = {"append", "appendleft", "extend", "extendleft", "insert", "add", "update"}
_PLACES = {"loc", "iloc", "at", "iat"}  # of a table
_CONTAINER, _AND_KEY = 1, 2  # deep is the stack with these on it
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
_ENTERS = {"BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL"}  # a `with` statement


class Use(NamedTuple):
    """How a line uses a name, such as ``self.total``."""

    name: str
    how: str  # "fills", "takes" (a lock), "sets" (also to a sum with what it was), "asks" (for an item), "reads"
    code: CodeType
    line: int


def uses_of(code: CodeType, captured: Collection[str], me: str | None) -> list[Use]:
    """How *code* uses globals, and the variables that are *captured*; and attributes of what it calls *me*."""
    steps = _steps_of(code)
    found: list[Use] = []
    for place, step in enumerate(steps):
        name, how = str(step.argval), ""
        if me is not None and _is_about(step, me):
            name, how = _use_of_owner(steps, place, me)
        elif step.opname == "LOAD_GLOBAL" or (step.opname == "LOAD_DEREF" and name in captured):
            how = _use(steps, place)
        elif step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and name in captured):
            before = steps[place - 1]
            was_read = [each for each in found if each[:2] == (name, "reads")]
            is_sum = before.opname == "BINARY_OP" and before.argrepr.endswith("=") and was_read
            how = "sets"
            if is_sum:  # what it was read for
                found.remove(was_read[-1])
        if how:
            line = (step.positions and step.positions.lineno) or code.co_firstlineno
            found.append(Use(name, how, code, line))
    return found


def _is_about(step: dis.Instruction, name: str) -> bool:
    """Whether an instruction, maybe of two in one, has to do with a local variable."""
    names = step.argval if type(step.argval) is tuple else (step.argval,)
    return name in names and ("_FAST" in step.opname or step.opname in {"LOAD_DEREF", "STORE_DEREF"})


def _use_of_owner(steps: list[dis.Instruction], place: int, me: str) -> tuple[str, str]:
    step, after = steps[place], steps[place + 1]
    is_loaded = step.argval == me or step.argval[-1] == me
    if is_loaded and after.opname in _ATTRIBUTE:
        return f"self.{after.argval}", _use(steps, place + 1)
    if is_loaded and after.opname == "STORE_ATTR":
        return f"self.{after.argval}", "sets"
    if is_loaded and after.opname == "COPY" and steps[place + 2].opname == "LOAD_ATTR":  # its sum with something is set
        return f"self.{steps[place + 2].argval}", "sets"
    return "self", "reads"


def line_of_change(code: CodeType, name: str) -> int | None:
    """The line that changes what a parameter is, where nothing is done with that but to ask what is in it.

    None if no line does, if the function gives anything back, or calls another with it, or a method of it.
    """
    steps = _steps_of(code)
    lines: list[int] = []
    for place, step in enumerate(steps):
        gives = steps[place - 1] if step.opname == "RETURN_VALUE" else step
        if step.opname in {"RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE"} and gives.argrepr != "None":
            return None
        if not _is_about(step, name):
            continue
        attribute, how = _use_of_owner(steps, place, name)
        use = _use(steps, place)
        if use == "reads" and (attribute == "self" or _is_method(steps[place + 1])):
            return None
        if "fills" in {use, how} or how == "sets":
            lines.append((step.positions and step.positions.lineno) or code.co_firstlineno)
    return lines[0] if lines else None


def _is_method(step: dis.Instruction) -> bool:
    return step.opname == "LOAD_METHOD" or (sys.version_info >= (3, 12) and bool((step.arg or 0) & 1))


def _use(steps: list[dis.Instruction], place: int) -> str:
    """What code does with the value that an instruction has put on the stack: see `Use`."""
    depth, use, has_default = _CONTAINER, "reads", False
    for step in steps[place + 1 :]:
        after = depth + dis.stack_effect(step.opcode, step.arg, jump=False)
        named = step.argval if depth == _CONTAINER and step.opname in _ATTRIBUTE else None
        is_item_set = step.opname in {"STORE_SUBSCR", "STORE_SLICE"} and after == -1
        is_item_changed = step.opname == "COPY" and step.arg == depth >= _AND_KEY
        if named in _FILLS or is_item_set or is_item_changed:
            return "fills"
        if named == "acquire" or step.opname in _ENTERS:
            return "takes"
        if named in _PLACES:
            continue
        has_default |= named == "setdefault"
        is_item = step.opname == "BINARY_SUBSCR" or step.argrepr == "[]"
        is_left = after >= _AND_KEY or (after == _CONTAINER and (is_item or (step.opname == "CALL" and has_default)))
        if step.opcode in _JUMPS or not is_left:
            break
        use = "asks" if after == _CONTAINER else use
        depth = after
    return use


def _steps_of(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname not in {"NOP", "EXTENDED_ARG"}]
