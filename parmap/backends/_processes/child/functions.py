"""The functions that a worker knows, under the numbers that the parent gives them, and the parts they are made of.

A function is made when it comes, from its stream and its parts; each function from parts of its own, so that what a
task does to them is seen by no other function, and by no later version of the same.
"""

from __future__ import annotations

import functools
import gc
import io
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

from parmap._travel.code.by_name import explain
from parmap._travel.code.classes import Filling, arrived, fillings
from parmap._travel.failure import note
from parmap._travel.text import called, innermost
from parmap._work.outcome import Loading
from parmap._work.run import Callee, Rules
from parmap.backends._processes.line import segments as _segments
from parmap.backends._processes.line.channel import Message, not_received

_MUCH = 32 << 20  # bytes of functions that may wait for the next garbage collection


class _File:
    """A segment that parts lie in; each function has a private copy."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size

    def load(self) -> memoryview:
        """The copy, for one function."""
        return memoryview(_segments.attach(os.dup(self._fd), self._size, private=True))

    def close(self) -> None:
        """Give the descriptor back; the copies stay."""
        os.close(self._fd)
        self._fd = -1


class _Part:
    """The bytes of a part: in a file, or here."""

    def __init__(self, kind: str, size: int, file: _File | None, start: int, content: bytes) -> None:
        self.kind = kind
        self.size = size
        self._file = file
        self._start = start
        self._content = content

    def load(self, files: dict[_File, memoryview]) -> Any:
        """The object that it makes, for one function, which has copies of these *files*."""
        if self._file is None:
            view = memoryview(bytearray(self._content))
        else:
            if self._file not in files:
                files[self._file] = self._file.load()
            view = files[self._file][self._start : self._start + self.size]
        if self.kind == "table":
            return pickle.loads(view)
        if self.kind == "readonly":
            return view.toreadonly()
        return view


class _Class:
    """A class that came by itself; it is made by the first item that has it, and if that fails, that item does."""

    def __init__(self, load: Callable[[], type]) -> None:
        self._load: Callable[[], type] | None = load
        self._cls: type | None = None
        self._fillings: list[Filling] = []

    def __call__(self) -> type:
        if self._cls is None or sum(filling.apply() for filling in self._fillings):
            Functions.active = None  # what the function that runs has given to the same classes must be given anew
        if self._cls is None:
            assert self._load is not None  # noqa: S101 - until it was loaded
            begin = time.monotonic_ns()
            try:
                with fillings() as self._fillings:
                    self._cls = self._load()
            finally:
                Loading.nanoseconds += time.monotonic_ns() - begin
            self._load = None
        return self._cls


class Functions:
    """What `backends._processes.functions` has told."""

    active: int | None = None
    """The function whose classes are as they came with it."""

    def __init__(self) -> None:
        self._fillings: dict[int, list[Filling]] = {}
        self.callees: dict[int, Callee] = {}
        self._files: dict[int, _File] = {}
        self._parts: dict[int, _Part] = {}
        self._sizes: dict[int, int] = {}
        self._tokens: dict[int, Callable[[], object]] = {}  # how those are forgotten that have come
        self._dropped = 0
        self.initializer: Callable[[], tuple[Any, ...]] | None = None
        """What loads it: how it is found, and its arguments."""

    def take_file(self, message: Message) -> None:
        """A file has come, unless its descriptor was lost: then the parts in it are missing to those who need them."""
        number, size = message.fields
        if message.fds:
            self._files[number] = _File(message.fds[0], size)

    def take_part(self, message: Message, content: bytes | None) -> None:
        """A part has come."""
        number, kind, size, file, start = message.fields
        if file in self._files or content is not None:
            self._parts[number] = _Part(kind, size, self._files.get(file), start, content or b"")

    def take(self, message: Message, content: bytes | None) -> None:
        """A function, class, factory or initializer has come, after its parts."""
        number, numbers, *token = message.fields
        parts = [self._parts[part] for part in numbers if part in self._parts]
        self._sizes[number] = sum(part.size for part in parts)

        def load() -> Any:
            if content is None or len(parts) < len(numbers):
                raise not_received(f"a large {message.kind}")
            return _Unpickler(content, parts).load()

        if message.kind == "class":
            arrived[number] = _Class(load)
            return
        if message.kind == "initializer":
            self.initializer = load
            return
        if token:
            name, makes = token
            if makes:
                from parmap._work import per_worker as home
            else:
                from parmap._travel import broadcast as home  # type: ignore[no-redef]
            self._tokens[number] = functools.partial(home.forget, name)
            home.arrive(name, load)
            return
        try:
            with fillings() as self._fillings[number]:
                find, args, rules = load()
                self.callees[number] = callee = Callee(find(*args), rules)
            Functions.active = number
        except BaseException as error:  # noqa: BLE001 - importing and unpickling run the user's code
            self.callees[number] = Callee(None, Rules(()))
            self.callees[number].problem = explain(error)
            note(
                error,
                "parmap: a worker can't load the function of this call, or what that refers to; what its module needs"
                " is set up by initializer=, as by initializer=django.setup; what does not survive being pickled can"
                " be made in the task, or once in each worker by parmap.per_worker",
            )
        else:
            if rules.expected:
                callee.problem = _compare(callee)

    def get(self, number: int) -> Callee:
        """The function to be run now: its classes are made what they were when it was sent."""
        if Functions.active != number:
            Functions.active = number
            for filling in self._fillings.get(number, ()):
                filling.apply()
        return self.callees[number]

    def forget(self, numbers: list[int]) -> None:
        """Drop what the parent has dropped."""
        for number in numbers:
            self.callees.pop(number, None)
            self._fillings.pop(number, None)
            arrived.pop(number, None)
            if number in self._tokens:
                self._tokens.pop(number)()
            self._dropped += self._sizes.pop(number, 0)
            self._parts.pop(number, None)
            file = self._files.pop(number, None)
            if file is not None:
                file.close()

    def collect(self) -> None:
        """Functions, and classes always, refer to themselves: where they were large, do not wait with the memory."""
        if self._dropped >= _MUCH:
            self._dropped = 0
            gc.collect()


def _compare(callee: Callee) -> Warning | None:
    """Warn if a function finds here, where its modules have just been imported, what it doesn't find in the program.

    Returns the warning if the program's filters make it an error.
    """
    from parmap._travel.code.needs.readings import others_than  # few functions read such things

    if others := ", ".join(others_than(callee.rules.expected)):
        import warnings

        code = getattr(getattr(innermost(callee.function), "__func__", innermost(callee.function)), "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code else (__file__, 1)
        way_out = "they import these modules as the files are: give it as an argument, or set it in an initializer"
        text = f"{called(callee.function)} reads what is not the same in workers: {others}; {way_out}"
        # Other workers find the same: `output` looks here for whether it is to be shown once.
        globals()["__warningregistry__"] = {(text, RuntimeWarning, line): False}
        try:
            warnings.warn_explicit(text, RuntimeWarning, file, line)
        except Warning as error:
            return error
    return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: bytes, parts: list[_Part]) -> None:
        files: dict[_File, memoryview] = {}
        super().__init__(io.BytesIO(stream), buffers=(part.load(files) for part in parts if part.kind != "table"))
        tables = [part for part in parts if part.kind == "table"]
        # Of each there is one.
        self.persistent_load: Any = functools.cache(lambda number: tables[number].load(files))
