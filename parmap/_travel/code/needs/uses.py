"""How code uses a global, a captured variable or a parameter: it fills what that is, sets it, or reads it.

The instructions of CPython tell, which are there when the text isn't. What is not understood counts as being read.
"""

from __future__ import annotations

import dis
import re
import sys
from collections.abc import Collection, Iterator
from types import CodeType
from typing import Any, NamedTuple

_FILLS = {"append", "appendleft", "extend", "extendleft", "insert", "add", "update", "put", "put_nowait", "set"}
_ORDERS = {"sort", "reverse", "remove", "discard", "fill"}
_PLACES = {"loc", "iloc", "at", "iat"}  # of a table
_CONTAINER, _AND_KEY = 1, 2  # deep is the stack with these on it
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_IN_CLASS = {"LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}  # a global, or what is the class's
_CAPTURED = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"}
_ENTERS = {"BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL"}  # a `with` statement
_GIVES = {"RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE"}
_STORES = {"STORE_ATTR": "", "STORE_GLOBAL": "", "STORE_SUBSCR": "[]", "STORE_SLICE": "[]"}
_HIDDEN = {"NOP", "EXTENDED_ARG", "RESUME", "CACHE", "NOT_TAKEN"}

CHANGES = frozenset({"fills", "fills inside", "sets", "sums"})
"""Ways to use something that nobody notices who doesn't read it."""

LOOKS_ROUND = frozenset(
    {"globals", "locals", "vars", "dir", "eval", "exec", "getattr", "attrgetter", "__dict__", "asdict", "query", "sql"}
    | {"modules", "import_module", "__import__", "__main__", "_getframe", "currentframe", "stack", "breakpoint"}
    | {"evaluate"}
)
"""Names in code that may read what it does not name."""


_TO_CALL = 1 if sys.version_info >= (3, 13) else -1  # from what is called to the mark of that


class Use(NamedTuple):
    """How a line uses a name, such as ``self.total``: it is one of `CHANGES`, "takes" (a lock), "asks" or "reads".

    Or it "stores" something by that name, of whatever, or by "[]" in whatever; or "calls" what it is given, by "()".
    """

    name: str
    how: str
    line: int


class Change(NamedTuple):
    """A line that changes a parameter, or an attribute of that."""

    line: int
    attribute: str
    how: str


class _Step(NamedTuple):
    """An instruction; one that stands for two is taken apart."""

    op: str
    arg: Any
    text: str
    number: int | None
    line: int
    effect: int
    jumps: bool
    offset: int


def _steps_of(code: CodeType) -> list[_Step]:
    return [part for step in dis.get_instructions(code) if step.opname not in _HIDDEN for part in _parts(step, code)]


def _parts(step: dis.Instruction, code: CodeType) -> Iterator[_Step]:
    line = (step.positions and step.positions.lineno) or code.co_firstlineno
    if type(step.argval) is tuple and "_FAST" in step.opname:
        for verb, name in zip(re.findall("LOAD|STORE", step.opname), step.argval, strict=True):
            yield _Step(f"{verb}_FAST", name, name, None, line, 1 if verb == "LOAD" else -1, False, step.offset)
    else:
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        yield _Step(step.opname, step.argval, step.argrepr, step.arg, line, effect, step.opcode in _JUMPS, step.offset)


def uses_of(code: CodeType, captured: Collection[str], me: str | None) -> list[Use]:
    """How *code* uses globals, the variables that are *captured*, what it calls *me*, and the attributes of these.

    One of what it calls *me* is told as ``self.total``, one of what else there is as ``.total``.
    """
    steps = _steps_of(code)
    found: list[Use] = []
    known = set[int]()
    for place, step in enumerate(steps):
        name, how = str(step.arg), ""
        is_mine = me is not None and _is_about(step, me)
        if is_mine or step.op == "LOAD_GLOBAL" or (step.op in _CAPTURED and name in captured):
            name, how = "self" if is_mine else name, _use(steps, place)
            attribute, way, at = _use_of_attribute(steps, place)
            if how == "reads" and attribute:
                found.append(Use(f"{name}.{attribute}", way, step.line))
                known.add(at)
                how = "asks"
        elif step.op in _IN_CLASS:
            how = "reads"
        elif step.op == "STORE_GLOBAL" or (step.op == "STORE_DEREF" and name in captured):
            how = "sets"
        elif step.op in _ATTRIBUTE and place not in known:
            name, how = f".{name}", "reads"
        if how:
            found.append(Use(name, how, step.line))
        if step.op in _STORES:
            found.append(Use(_STORES[step.op] or step.arg, "stores", step.line))
        if step.op.startswith("LOAD_FAST") and step.arg in code.co_varnames[: code.co_argcount]:
            beside = steps[place + _TO_CALL].op
            found += [Use("()", "calls", step.line)] if beside == "PUSH_NULL" else []
    return [*found, Use("[]", "stores", code.co_firstlineno)] if {*_FILLS, "setdefault"} & {*code.co_names} else found


def _is_about(step: _Step, name: str) -> bool:
    """Whether an instruction has to do with a local variable."""
    return step.arg == name and ("_FAST" in step.op or step.op in {*_CAPTURED, "STORE_DEREF"})


def _use_of_attribute(steps: list[_Step], place: int) -> tuple[str, str, int]:
    """Which attribute of a variable is used, in which way, and where that is loaded; or that the whole is read."""
    after = steps[place + 1]
    if not steps[place].op.startswith("LOAD"):
        return "", "reads", place
    if after.op in _ATTRIBUTE:
        return after.arg, _use(steps, place + 1), place + 1
    if after.op == "STORE_ATTR":
        return after.arg, "sets", place
    if after.op == "COPY" and steps[place + 2].op == "LOAD_ATTR":  # its sum with something is set
        return steps[place + 2].arg, "sums", place + 2
    return "", "reads", place


def changes_in(code: CodeType, parameters: Collection[str]) -> dict[str, list[Change]]:
    """The parameters that a function only changes: it reads nothing of them afterwards, and gives nothing back."""
    steps = _steps_of(code)
    for before, step in zip([steps[0], *steps], steps, strict=False):
        if step.op in _GIVES and (before if step.op == "RETURN_VALUE" else step).text != "None":
            return {}
    if LOOKS_ROUND & {*code.co_names}:
        return {}
    begins = [step.arg for step in steps if "BACKWARD" in step.op]
    loop = sum(step.offset < min(begins, default=len(code.co_code)) for step in steps)
    changes = {name: _change_in(steps, name, loop) for name in parameters if name not in code.co_cellvars}
    return {name: found for name, found in changes.items() if found}


def _change_in(steps: list[_Step], name: str, loop: int) -> list[Change]:
    """The changes of a parameter, if nothing reads that after it: what is behind the first *loop* runs again."""
    changes: list[Change] = []
    changed = 0  # the place of the last one
    lines_read: list[int] = []
    for place, step in enumerate(steps):
        if not _is_about(step, name) or _is_kept(steps, place):
            continue
        how = _use(steps, place)
        attribute, how = ("", how) if how != "reads" else _use_of_attribute(steps, place)[:2]
        if how in CHANGES:
            changes.append(Change(step.line, attribute, how))
            changed = place
            continue
        is_after = bool(changes) and (step.line != changes[-1].line or any(map(_may_end, steps[changed:place])))
        if is_after or (how == "reads" and not attribute):
            return []
        lines_read += [step.line] if place >= loop else []
    return changes if {*lines_read} <= {change.line for change in changes} else []


def _may_end(step: _Step) -> bool:
    """Whether something else may be behind an instruction, on the same line."""
    return step.jumps or step.op == "POP_TOP" or step.op.startswith("STORE")


def _use(steps: list[_Step], place: int) -> str:
    """What code does with the value that an instruction has put on the stack: see `Use`."""
    depth, use, has_default = _CONTAINER, "reads", False
    for at in range(place + 1, len(steps)):
        step = steps[at]
        after = depth + step.effect
        named = step.arg if depth == _CONTAINER and step.op in _ATTRIBUTE else None
        is_item_set = step.op in {"STORE_SUBSCR", "STORE_SLICE"} and after == -1
        is_item_changed = step.op == "COPY" and step.number == depth >= _AND_KEY
        if named in _FILLS | _ORDERS or is_item_set or is_item_changed:
            return "fills" if use == "reads" else "fills inside"
        if named == "acquire" or step.op in _ENTERS:
            return "takes"
        if named in _PLACES:
            continue
        if step.op == "BINARY_OP" and step.text != "[]" and after <= _CONTAINER:
            if _is_kept(steps, at + 1) and steps[at + 1].arg == steps[place].arg:
                return "fills"
            return "sums" if _is_set_again(steps, place, at) else "asks"
        if step.op in {"PRECALL", "CALL"} and at == place + 1 and step.number == 1 and steps[place - 1].arg == "len":
            return "asks"
        has_default |= named == "setdefault"
        is_item = step.op == "BINARY_SUBSCR" or step.text == "[]"
        is_left = after >= _AND_KEY or (after == _CONTAINER and (is_item or (step.op == "CALL" and has_default)))
        if step.jumps or not is_left:
            break
        use = "asks" if after == _CONTAINER else use
        depth = after
    return use


def _is_kept(steps: list[_Step], place: int) -> bool:
    """Whether a local variable is set to what it was, which was changed in place, as by ``row /= 2``."""
    before = steps[place - 1]
    return steps[place].op == "STORE_FAST" and before.op == "BINARY_OP" and before.text.endswith("=")


def _is_set_again(steps: list[_Step], place: int, at: int) -> bool:
    """Whether the variable, or the attribute, that was loaded at a place is set to what there is *at* another."""
    name, after, then = steps[place].arg, steps[at + 1], steps[min(at + 2, len(steps) - 1)]
    is_attribute = steps[place].op in _ATTRIBUTE
    store = then if is_attribute and after.op.startswith("LOAD") and after.arg == steps[place - 1].arg else after
    return store.arg == name and store.op in ({"STORE_ATTR"} if is_attribute else {"STORE_GLOBAL", "STORE_DEREF"})
