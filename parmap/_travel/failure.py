"""Exceptions on their way from a task to the caller: as themselves, with their story told.

The error classes and `traceback` are imported only when something failed: they would double the time a worker takes
to start. A failure is encoded where it happens and decoded by whoever asks for it. Encoding is tried three ways:
pickled as it is, if it also unpickles; rebuilt from its class, arguments and attributes, without calling a constructor
that wants something else; and as a `RemoteError` that carries its text.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from itertools import pairwise
from types import FrameType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, TypeAlias

from parmap._travel.text import cut, frames_of, in_full, shorten, with_source

if TYPE_CHECKING:
    from parmap._travel.tie import Tie

Voice: TypeAlias = Callable[[BaseException], BaseException]
"""Gives an error the form in which whoever waits for the task gets it."""

IN_INITIALIZER = "parmap: in the initializer"
_FRAMES = 100  # of a traceback that are shown, the innermost; to format one takes as long as many short tasks
_CHAIN = 8  # causes of causes that travel as objects; the text of the traceback has them all


class RemoteTraceback(Exception):  # noqa: N818 - not an error of its own: the cause that shows where one came from
    """The traceback of a task, as text: the `__cause__` of an exception that came from a worker."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{with_source(self.text)}"


class LoadError(Exception):
    """Raised around the error of an argument that can't be unpickled, to tell it from an error of the task."""


class Failure:
    """What one item ended with instead of a result: an exception, or the bytes of one.

    `retry` says whether `retry_on` covers it; `earlier` lists the failures of the attempts before; `own`: not a task
    raised it, but parmap, which has cancelled it; `tie`: the item that it is of; `account`: for how many seconds
    it had run in which worker, if that can't tell any more; `begun`: whether a worker had it.
    """

    __slots__ = ("_error", "_told", "account", "begun", "earlier", "encoded", "notes", "own", "retry", "tie")

    def __init__(
        self, error: BaseException | None = None, encoded: Any = None, *, retry: bool = False, own: bool = False
    ) -> None:
        self._error = error
        self._told: tuple[Voice, BaseException] | None = None
        self.encoded: Any = encoded
        self.retry: bool = retry
        self.own: bool = own
        self.notes: tuple[str, ...] = ()
        self.earlier: tuple[Failure, ...] = ()
        self.tie: Tie | None = None
        self.account: tuple[float | None, int | None] = (None, None)
        self.begun: bool = True

    def exception(self) -> BaseException:
        """The exception as it was raised, decoded when first asked for."""
        encoded = self.encoded  # read first: another thread, or a signal handler, may decode it meanwhile
        if self._error is None:
            error = _decode(encoded)
            if self._error is None:
                self._error = error
        self.encoded = None
        if self.notes or self.earlier:
            note(self._error, *self.notes, *([_attempts(self.earlier)] if self.earlier else []))
            self.notes, self.earlier = (), ()
        if self.tie is not None:
            self.tie.bind(self._error)
        return self._error

    def told(self, voice: Voice) -> BaseException:
        """The exception as *voice* gives it: the same one each time."""
        error, told = self.exception(), self._told
        if self.own:
            return error
        if told is None or told[0] is not voice:
            told = self._told = voice, voice(error)
            if self.tie is not None:
                self.tie.bind(told[1])
        return told[1]


def guarded(error: BaseException) -> BaseException:
    """The voice of parallel functions: what means an end to a loop, a generator or a coroutine has another form.

    Else a task's `StopIteration` would end the loop over a stream in silence, and its `CancelledError` the coroutine
    that awaits it.
    """
    is_end = issubclass(type(error), _ends())
    return _in_place_of(error, RuntimeError(f"the call raised {line_of(error)}")) if is_end else error


def _in_place_of(error: BaseException, told: BaseException, cause: BaseException | None = None) -> BaseException:
    """Let *told* stand for an error: it has its notes, and is caused by it if by no other *cause*."""
    told.__cause__ = cause or error
    note(told, *notes_of(error))
    return told


def as_raised(error: BaseException) -> BaseException:
    """The voice of what stands in for a class of the standard library: as that class does it."""
    return error


def _ends() -> tuple[type[BaseException], ...]:
    """The exceptions that whoever iterates or awaits takes for the end of it."""
    import sys
    from concurrent.futures import CancelledError

    asynchronous = getattr(sys.modules.get("asyncio"), "CancelledError", CancelledError)
    return StopIteration, StopAsyncIteration, GeneratorExit, CancelledError, asynchronous


def is_foreign(error: BaseException) -> bool:
    """Whether an exception that came up in the user's code, called here, belongs to the program and must go on to it.

    It does if a signal handler raised it, which may interrupt anything: Ctrl-C is the one that everybody knows.
    """
    if not issubclass(type(error), Exception) and not issubclass(type(error), _ends()):
        return True
    trace = told_by(error, "__traceback__")
    while trace is not None and (above := trace.tb_next) is not None:
        if _is_handler(above.tb_frame, trace.tb_frame):
            return True
        trace = above
    return False


def pass_on(error: BaseException) -> None:
    """Raise it again if a signal handler has raised it, which any `try` may meet: see `is_foreign`."""
    if is_foreign(error):
        raise error


def _is_handler(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether a frame has what signal handlers are called with: a number, and the frame that was interrupted."""
    values = [*frame.f_locals.values()] if frame.f_code.co_flags & 1 else []  # `eval` may have anything for variables
    rows = [values, *(value for value in values if type(value) is tuple)]
    return any(one is interrupted and issubclass(type(number), int) for row in rows for number, one in pairwise(row))


def note(error: BaseException, *texts: str) -> None:
    """Add notes that are not there yet, past what the class of the error may refuse."""
    notes = notes_of(error)
    if new := [text for text in texts if text not in notes]:
        put(error, "__notes__", [*notes, *new])


def notes_of(error: BaseException) -> tuple[str, ...]:
    """The notes of an error, which travel beside it: what its class does to be pickled may drop them."""
    notes = told_by(error, "__dict__").get("__notes__", ())
    return tuple(text for text in notes if type(text) is str) if isinstance(notes, (list, tuple)) else ()


def _attempts(earlier: tuple[Failure, ...]) -> str:
    lines = [cut(line_of(failure.exception()).partition("\n")[0]) for failure in earlier]
    return "\n".join(["earlier attempts of this item:", *(f"attempt {n}: {line}" for n, line in enumerate(lines, 1))])


def line_of(error: BaseException) -> str:
    """What an exception says, in a line."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException as problem:  # noqa: BLE001 - a `__str__` that raises must not hide the error
        pass_on(problem)
        return type(error).__name__


def _lines(error: BaseException) -> list[Any]:
    """What an exception, and those in a group, say."""
    members = told_by(error, "exceptions", BaseExceptionGroup) if issubclass(type(error), BaseExceptionGroup) else ()
    return [line_of(error), *map(_lines, members)]


def translate(error: BaseException, item: int | None = None) -> BaseException:
    """Give the errors of the machinery around task number *item* their public form."""
    if issubclass(type(error), SystemExit):
        from parmap.errors import WorkerDiedError

        given = told_by(error, "code", SystemExit)
        code = given if isinstance(given, int) else 0 if given is None else 1
        message = f"the task called sys.exit({shorten(given)})"
        return _in_place_of(error, WorkerDiedError(message, item=item, exitcode=code, pid=os.getpid()))
    if issubclass(type(error), LoadError):
        from parmap.errors import SerializationError

        cause = told_by(error, "__cause__")
        message = f"an argument can't be unpickled in the worker: {line_of(cause)}"
        return _in_place_of(error, SerializationError(message, item=item), cause)
    return error


def unloadable(error: BaseException, item: int | None = None) -> BaseException:
    """The error of a result that can't be unpickled here.

    Raises:
        BaseException: *error*, if it is not about the result: see `is_foreign`.
    """
    from parmap.errors import SerializationError

    pass_on(error)
    if type(unframed(error)) is SerializationError:  # that of an item, where the result is that of a whole batch
        return error
    return _in_place_of(error, SerializationError(f"the result can't be unpickled: {line_of(error)}", item=item))


def unframed(error: BaseException) -> BaseException:
    """The error, with its traceback as text: frames lead to whoever called, who has the error, and so hold it."""
    chain = [error]
    for each in chain:
        found = {id(it): it for name in ("__cause__", "__context__") if (it := told_by(each, name)) is not None}
        chain += [below for key, below in found.items() if key not in map(id, chain)]
    if type(chain[-1]) is not RemoteTraceback:
        put(chain[-1], "__cause__", RemoteTraceback(_story(chain[:2][-1])))
    for each in chain:
        put(each, "__traceback__", None)
    return error


def encode(error: BaseException, *, with_locals: bool = False) -> tuple[Any, ...]:
    """Encode an exception so that it can be sent: a tuple of strings, bytes and tuples."""
    try:
        text = _story(error, with_locals=with_locals)
    except BaseException:  # noqa: BLE001 - here, in a worker, it is the user's
        text = f"{type(error).__name__}: <its text could not be made>"
    return (text, _encode_chain(error, 0))


def _story(error: BaseException, *, with_locals: bool = False) -> str:
    """The traceback of an error, as text."""
    try:
        return in_full(error, _FRAMES, with_locals=with_locals)
    except BaseException as problem:  # noqa: BLE001 - it asks the user's classes, and what `eval` has for variables
        pass_on(problem)
        return frames_of(told_by(error, "__traceback__"), _FRAMES) + line_of(error)


def _encode_chain(error: BaseException, depth: int) -> tuple[Any, ...]:
    cause = told_by(error, "__cause__")
    below = _encode_chain(cause, depth + 1) if cause is not None and depth < _CHAIN else None
    return (*_encode_one(error), notes_of(error), told_by(error, "__suppress_context__"), below)


def _encode_one(error: BaseException) -> tuple[str, bytes]:
    from parmap._travel.payload import dump_whole  # only now: it knows this module, as all who call the user's code

    found: tuple[str, bytes] | None = None
    for form in ("pickle", "parts", "rest", "none"):
        try:
            stream = dump_whole(error if form == "pickle" else parts_of_error(error, form), fresh=form != "pickle")
            made = _revive(form, stream)
            if type(made) is type(error):
                # A constructor that makes its text from its argument has now made one from that text.
                if _lines(made) == _lines(error):
                    return form, stream
                str(made)  # which may need what was left out
                found = found or (form, stream)
        except BaseException:  # noqa: BLE001, S112 - user code; whatever it raises, the next form is tried
            continue
    if issubclass(type(error), BaseExceptionGroup):  # one member that can't travel must not hide the others
        message, members = (told_by(error, name, BaseExceptionGroup) for name in ("message", "exceptions"))
        try:
            return "group", dump_whole((type(error), message, [_encode_chain(member, 1) for member in members]))
        except Exception:  # noqa: BLE001, S110 - a class of the user's that can't travel
            pass
    if found is not None:  # it tells of addresses, maybe
        return found
    kind = type(error)
    try:
        line = line_of(error)
    except BaseException:  # noqa: BLE001 - here, in a worker, it is the user's, too
        line = kind.__name__
    return "text", pickle.dumps((f"{kind.__module__}.{kind.__qualname__}", line), 5)


def _revive(form: str, stream: bytes) -> BaseException:
    value = pickle.loads(stream)
    if form == "pickle":
        if not isinstance(value, BaseException):
            raise TypeError("not an exception")
        return value
    if form == "group":
        kind, message, members = value
        error: BaseException = kind(message, [_decode_chain(member, "") for member in members])
        return error
    kind, args, state = value
    return fill_error(bare_error(kind, args), state)


def bare_error(kind: Any, args: tuple[Any, ...]) -> BaseException:
    """An error as Python's own class makes it, of which errno, filename, msg, code are: no constructor is asked."""
    maker = kind
    while type(vars(maker).get("__new__")) is not type(len):  # past the user's, to what C code makes: lxml's own, say
        maker = maker.__base__
    error: BaseException = maker.__new__(kind, *args)
    _builtin(kind).__init__(error, *args)
    return error


def fill_error(error: BaseException, state: dict[str, Any]) -> BaseException:
    """Give it what else it held, past what its class may refuse."""
    kind = type(error)
    for name, attribute in state.items():
        is_slot = type(getattr(kind, name, None)) is MemberDescriptorType
        put(error, name, attribute, kind if is_slot else _builtin(kind))
    return error


def parts_of_error(error: BaseException, form: str = "parts") -> tuple[Any, ...]:
    """The class of an error, its arguments and what else it holds; what can't travel may be left out, or `None`."""
    builtin = _builtin(type(error))
    kind, args, *states = builtin.__reduce__(error)
    own: Any = object.__getstate__(error)
    held = {**(states[0] if states else {}), **(own[1] if type(own) is tuple else {})}  # what is in slots, too
    if issubclass(builtin, SyntaxError):  # where in a text it is, which parsers set beside the arguments
        held = {name: told_by(error, name, SyntaxError) for name in _PLACE} | held
    if form != "parts":
        every = held | {f"args[{n}]": value for n, value in enumerate(args)}
        left_out = dict.fromkeys(name for name, value in every.items() if not _travels(value))
        told = [f"parmap: without its attribute {name!r}, which can't be pickled" for name in left_out]
        args = tuple(left_out.get(f"args[{n}]", value) for n, value in enumerate(args))  # `None` in its place
        held = {name: left_out.get(name, held[name]) for name in held if form == "none" or name not in left_out}
        held["__notes__"] = [*notes_of(error), *told]
    return kind, args, held


_PLACE = ("filename", "lineno", "offset", "end_lineno", "end_offset")


def _travels(value: Any) -> bool:
    from parmap._travel.payload import dump_whole  # as above

    try:
        pickle.loads(dump_whole(value, fresh=True))
    except Exception:  # noqa: BLE001 - the user's code
        return False
    return True


def _builtin(kind: type[BaseException]) -> Any:
    """The class of Python's own that a class of errors is made of."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _decode(encoded: tuple[Any, ...]) -> BaseException:
    text, chain = encoded
    last = error = _decode_chain(chain, text)
    while (cause := told_by(last, "__cause__")) is not None and not isinstance(cause, RemoteTraceback):
        last = cause
    put(last, "__cause__", RemoteTraceback(text))
    return error


def _decode_chain(chain: tuple[Any, ...], text: str) -> BaseException:
    from parmap.errors import RemoteError

    form, stream, notes, suppress, below = chain
    if form == "text":
        name, line = pickle.loads(stream)
        error: BaseException = RemoteError(line, type_name=name, traceback=with_source(text))
    else:
        try:
            error = _revive(form, stream)
        except BaseException as problem:  # noqa: BLE001 - the user's code
            pass_on(problem)
            said = f"an exception of the task could not be unpickled here ({line_of(problem)})"
            error = RemoteError(said, traceback=with_source(text))
    if below is not None:
        put(error, "__cause__", _decode_chain(below, text))
    put(error, "__suppress_context__", suppress)
    note(error, *notes)
    return error


def told_by(error: BaseException, name: str, kind: type = BaseException) -> Any:
    """An attribute that all errors of that *kind* have, past what the class of this one has by its name."""
    return vars(kind)[name].__get__(error)


def put(error: BaseException, name: str, value: Any, kind: Any = BaseException) -> None:
    """Set an attribute in the same way."""
    place: Any = getattr(kind, name, None)
    if hasattr(place, "__set__"):
        place.__set__(error, value)
    else:
        told_by(error, "__dict__")[name] = value
