"""Texts in errors: of a call, shortened; of why something can't be pickled; and the lines of code in a traceback.

A call is told by what is safe to look at, and never by more than is shown. No `__repr__` of the user's is called: it
may be large, slow, secret, or never return.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import traceback
    from types import TracebackType

_MOST = 200  # characters of a value
_PART = 80  # characters of a string or a name in it
_FEW, _DEPTH = 4, 3  # elements of a container, and containers in containers, that are shown
_BITS = 400  # of a number that is shown
_BYTES = 1000  # of an object whose own text is short
_OUTERMOST = 10  # frames of a traceback that is too long

_PLAIN = frozenset({type(None), bool, float, complex, range, type(...), type(NotImplemented)})
_BRACES: dict[Any, str] = {list: "[]", tuple: "()", dict: "{}", set: "{}", frozenset: "{}"}
_VALUES = frozenset({"datetime", "decimal", "pathlib", "uuid"})  # modules whose classes write short texts

# Past metaclasses, which may be the user's.
_name: Callable[[type], str] = type.__dict__["__name__"].__get__
_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
_members: Callable[[type], Any] = type.__dict__["__dict__"].__get__


def shorten(value: Any) -> str:
    """A short text that says what *value* is: at no cost, whatever it is, and without an error."""
    return cut(_text(value, _DEPTH))


def describe(function: Any, mode: str, args: Any) -> str:
    """The call that failed, shortened: `score('a.txt')`."""
    given, keywords = (function.args, function.keywords) if isinstance(function, partial) else ((), {})
    parts = _some(given, shorten)
    if mode == "call":
        parts += _some(args[0], shorten)
        keywords = {**keywords, **args[1]}
    elif mode == "star" and type(args) in {tuple, list}:
        parts += _some(args, shorten)
    else:
        parts.append(("*" if mode == "star" else "") + shorten(args))
    parts += _some(keywords.items(), lambda pair: f"{pair[0]}={shorten(pair[1])}")
    return f"{cut(called(function))}({', '.join(parts)})"


def innermost(function: Any) -> Any:
    """The function under partials."""
    while isinstance(function, partial):
        function = function.func
    return function


def wrapped_by(thing: Any) -> Any:
    """What *thing* wraps, as `functools.wraps` notes it; None if nothing. Its own `__getattr__` isn't asked."""
    try:
        return None if issubclass(type(thing), type) else object.__getattribute__(thing, "__dict__").get("__wrapped__")
    except AttributeError:
        return None


def called(function: Any) -> str:
    """What a function is called, or the class of what is none."""
    function = innermost(function)
    name = getattr(function, "__qualname__", None)
    return name if type(name) is str and name else _name(type(function))


def cut(text: str, most: int = _MOST) -> str:
    """A text, or as much of it as is shown."""
    return text if len(text) <= most else text[:most] + "…"


def _some(values: Iterable[Any], text: Callable[[Any], str], most: int = 2 * _FEW) -> list[str]:
    """The texts of the first few, and a sign that there are more."""
    texts = [text(value) for value in islice(values, most + 1)]
    return texts if len(texts) <= most else [*texts[:most], "..."]


def _text(value: Any, depth: int) -> str:
    try:
        text = _of_builtin(value, type(value), depth) or _of_library(value, type(value)) or _of_class(value, depth)
    except Exception as error:  # noqa: BLE001 - a list that another thread changes, a place that was never filled
        from parmap._travel.failure import pass_on

        pass_on(error)
        text = None
    return text or f"<{cut(_name(type(value)), _PART)}>"


def _of_builtin(value: Any, kind: type, depth: int) -> str | None:
    if kind in _PLAIN:
        return repr(value)
    if kind is int:
        return repr(value) if value.bit_length() < _BITS else f"<int of {value.bit_length()} bits>"
    if kind is str or kind is bytes or kind is bytearray:
        return repr(value) if len(value) <= _PART else f"{value[: _PART // 2]!r}…{value[-_PART // 4 :]!r}"
    if kind in _BRACES:
        return _of_container(value, kind, depth - 1)
    if kind is FunctionType or kind is BuiltinFunctionType:
        return f"<function {cut(value.__qualname__, _PART)}>"
    return f"<class {cut(_name(value), _PART)}>" if issubclass(kind, type) else None


def _of_container(value: Any, kind: type, depth: int) -> str:
    def inner(element: Any) -> str:
        return _text(element, depth)

    def pair(entry: tuple[Any, Any]) -> str:
        return ": ".join(map(inner, entry))

    parts = ["..."]
    if depth >= 0:
        parts = _some(value.items(), pair, _FEW) if kind is dict else _some(value, inner, _FEW)
    if kind is set or kind is frozenset:
        parts.sort()
    comma = "," if kind is tuple and len(value) == 1 else ""
    text = f"{_BRACES[kind][0]}{', '.join(parts)}{comma}{_BRACES[kind][1]}"
    return f"{_name(kind)}({text if parts else ''})" if kind is frozenset or (kind is set and not parts) else text


def _of_library(value: Any, kind: type) -> str | None:
    """Of a class that is known, which no other can pretend to be."""
    module = _module(kind)
    home = module.partition(".")[0] if type(module) is str else ""
    if getattr(sys.modules.get(home), _name(kind), None) is not kind:
        return None
    if home in _VALUES and _module(type(getattr(value, "tzinfo", None))) in {"builtins", "datetime", "zoneinfo"}:
        return repr(value) if sys.getsizeof(value) <= _BYTES else None
    if home == "numpy" and hasattr(value, "dtype"):
        is_number = value.shape == () and value.dtype.kind in "biufcmM"
        return repr(value) if is_number else f"<{_name(kind)} {value.dtype.name} {value.shape}>"
    if home == "pandas" and hasattr(value, "shape"):
        return f"<{_name(kind)} {value.shape}>"
    return None


def _of_class(value: Any, depth: int) -> str | None:
    """Of a class of the user's whose text is not their own: a member of an enumeration, a record."""
    kind = type(value)
    members = _members(kind)
    if is_enumeration(kind):
        return f"{_name(kind)}.{cut(object.__getattribute__(value, '_name_'), _PART)}"
    writes = members.get("__repr__")
    if "_fields" in members and getattr(writes, "__module__", "") == "collections":
        pairs: Iterable[tuple[str, Any]] = zip(members["_fields"], tuple.__iter__(value), strict=True)
    elif "__dataclass_fields__" in members and hasattr(writes, "__wrapped__"):
        shown = [name for name, field in members["__dataclass_fields__"].items() if field.repr]
        pairs = ((name, _field(value, members.get(name), name)) for name in shown)
    else:
        return None
    texts = _some(pairs, lambda pair: f"{pair[0]}={_text(pair[1], depth - 1)}", _FEW) if depth > 0 else ["..."]
    return f"{_name(kind)}({', '.join(texts)})"


def is_enumeration(kind: type) -> bool:
    """Whether the instances of a class are members of an enumeration."""
    enum = sys.modules.get("enum")
    return enum is not None and issubclass(kind, enum.Enum)


def _field(value: Any, place: Any, name: str) -> Any:
    is_slot = type(place) is MemberDescriptorType
    return place.__get__(value) if is_slot else object.__getattribute__(value, "__dict__")[name]


def written(text: str, stream: Any) -> str:
    """The text with escapes for what *stream* can't write, as that of an old terminal."""
    encoding = getattr(stream, "encoding", None)
    known = encoding if isinstance(encoding, str) else "utf-8"
    return text.encode(known, "backslashreplace").decode(known)


def reason_of(error: BaseException, otherwise: str = "") -> str:
    """Why something can't be pickled, and a way out: *otherwise*, if none is known."""
    told = f"{type(error).__name__}: {error}"
    if "created in a fork context" in told:  # so it says of a lock that has no name
        told, otherwise = (
            told.partition(".")[0],
            'make it with multiprocessing.get_context("forkserver"), and it can be sent',
        )
    elif "between processes through inheritance" in told:  # what multiprocessing says of its locks, queues and values
        otherwise = "take one of a multiprocessing.Manager(), which can be sent"
    elif told.endswith("an end of a pipe"):
        otherwise = "take a Queue of a multiprocessing.Manager(), which can be sent"
    elif told.endswith("'mmap.mmap' object"):  # which a RawArray of multiprocessing has
        otherwise = "map the file in the task, or take a SharedMemory of multiprocessing, which can be sent"
    elif not otherwise and re.search(r"'_thread\.R?[Ll]ock' object$", told):  # which all that waits for another has
        otherwise = "make it in the task; a Lock, a Queue or an Event of a multiprocessing.Manager() can be sent"
    elif told.endswith("generator' object"):
        otherwise = f"make a list of it, or {otherwise}" if otherwise else "make a list of it"
    return f"{told}; {otherwise}" if otherwise else told


def short_type(item: Any) -> str:
    """Of what type an object is."""
    kind = type(item)
    return f"an object of type {kind.__module__}.{kind.__qualname__}"


# --- the lines of code in a traceback ------------------------------------------------------------------


def with_source(text: str) -> str:
    """Add to a traceback the lines of code that only this process knows: those of a notebook's cells, or of `-c`."""
    lines = text.split("\n")
    told = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        told.append(line)
        # A frame of a traceback, maybe in the box of a group of exceptions; faulthandler writes no second comma.
        frame = re.match(r'([ |]*)  File "(.+)", line (\d+),? in (.+)', line)
        code = frame and _line_of_code(frame[2], int(frame[3]), frame[4])
        if frame and code and not _is_code(following.removeprefix(frame[1]), code):
            told.append(f"{frame[1]}    {code}")
    return "\n".join(told)


def _is_code(line: str, code: str) -> bool:
    """Whether a line under a frame is its code already; it may be the first of its local variables."""
    return line.startswith("    ") and (line.strip() == code or not re.match(r"    \w+ = ", line))


_ESCAPED = r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}))"


def _line_of_code(file: str, number: int, function: str) -> str:
    import linecache

    main = getattr(sys.modules.get("__main__"), "__dict__", {})
    # faulthandler escapes what is not ASCII.
    plain = re.sub(_ESCAPED, lambda code: chr(int(code[code.lastindex or 0], 16)), file)
    for name in dict.fromkeys((file, plain)):
        # The script may lie in an archive: its loader knows the lines.
        if line := linecache.getline(name, number, main if main.get("__file__") == name else None).strip():
            return line
    # From 3.13 on, what is given by -c or typed at the prompt is kept apart: by file, function and its first line.
    known = [
        (key[2], entry[2])
        for key, entry in list(getattr(linecache, "_interactive_cache", {}).items())
        if key[0] == file and key[1].rpartition(".")[2] == function and key[2] <= number <= len(entry[2])
    ]
    return str(max(known)[1][number - 1]).strip() if known else ""


def call_note(function: Any, mode: str, args: Any, item: int | None) -> str:
    """The note that says which call it was, number *item* of its batch; without *mode*, its arguments are not known."""
    try:
        call = describe(function, mode, args) if mode else f"{called(function)}(…)"
    except Exception as problem:  # noqa: BLE001 - the user's objects: they must not hide the error
        from parmap._travel.failure import pass_on

        pass_on(problem)
        call = "a task"
    return "parmap: " + ("" if item is None else f"item {item}: ") + call


def in_full(error: BaseException, most: int, *, with_locals: bool) -> str:
    """The traceback of an error, and of its causes, with the innermost frames of each; it asks the user's classes.

    Of a recursion these are all the same, so the outermost frames of the error tell who began it.
    """
    import traceback

    told = traceback.TracebackException.from_exception(error, limit=-most)
    if with_locals:
        _add_locals(told, error)
    beyond = sum(1 for _ in traceback.walk_tb(error.__traceback__)) - most
    if beyond > 0:
        told.stack[:0] = traceback.extract_tb(error.__traceback__, min(beyond, _OUTERMOST))
    return "".join(told.format())


def frames_of(trace: TracebackType | None, most: int) -> str:
    """The innermost frames of a traceback, which asks nobody."""
    import traceback

    return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(trace, -most)])


def _add_locals(told: traceback.TracebackException, error: BaseException) -> None:
    """Show local variables, each shortened: the standard library would show all of a list of a million."""
    import traceback

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for summary, frame in zip(told.stack, frames[-len(told.stack) :], strict=False):
        summary.locals = {name: shorten(value) for name, value in frame.f_locals.items()}
    for cause in ("__cause__", "__context__"):
        below, reason = getattr(told, cause), getattr(error, cause)
        if below is not None and reason is not None:
            _add_locals(below, reason)
