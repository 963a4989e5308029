"""What picklers write into: a stream, and beside it what is large, uncopied: buffers, bytes, strings, tensors.

Of some objects only a name is pickled: whoever sends the stream must hold them until it was read.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import sys
from _thread import _local as local
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from parmap._travel.code.by_name import careful_pickler

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PROTOCOL = 5

OUT_OF_BAND = 16 * 1024
"""Buffers of at least so many bytes travel beside the pickle stream, uncopied; smaller ones cost less inside it."""

LARGE = 64 * 1024
"""Bytes from which on a pickler hands over bytes, bytearrays and strings as they are, instead of copying them."""

_HEAD_OF_FRAME = 9  # bytes: the code of a frame, and its length
_SHORT_HEADER, _LONG_HEADER = 5, 9  # bytes before something large: its code, and its length in four or eight bytes


def as_text(content: Any) -> str:
    """A large string of its *content*."""
    return str(content, "utf-8", "surrogatepass")


def _made_by(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode() + pickle.NEXT_BUFFER + pickle.TUPLE1 + pickle.REDUCE


_BYTES = _made_by("builtins", "bytes")  # which takes bytes as they are
_BYTEARRAY = _made_by("builtins", "bytearray")
_STR = _made_by(__name__, as_text.__name__)

# What stands in the stream for something large that is made of the next buffer.
_FROM_BUFFER = {
    pickle.BINBYTES: _BYTES,
    pickle.BINBYTES8: _BYTES,
    pickle.BYTEARRAY8: _BYTEARRAY,
    pickle.BINUNICODE: _STR,
    pickle.BINUNICODE8: _STR,
}


class Stream:
    """The file that a pickler writes its streams into, and what takes its buffers out of band."""

    __slots__ = ("parts", "write")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        """All that was written, and the buffers, in order. What is not large is one part for each object pickled."""
        self.write = self.parts.append

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Say whether a buffer goes in band; keep it if not: the `buffer_callback` of the pickler."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: pickle copies it
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.parts.append(raw)
        return False

    def take(self, start: int = 0) -> tuple[bytes, list[memoryview]]:
        """The stream and the buffers of what was pickled last; *start*: number of its first part."""
        parts = self.parts[start:]
        del self.parts[start:]
        return (parts[0], []) if len(parts) == 1 else _split(parts)


def _split(parts: list[Any]) -> tuple[bytes, list[memoryview]]:
    stream: list[bytes] = []
    buffers: list[memoryview] = []
    is_large = False  # the next that is written
    for part in parts:
        if type(part) is memoryview:
            buffers.append(part)
        elif is_large:
            buffers.append(memoryview(part if type(part) is bytes else bytearray(part)))  # which may change otherwise
            is_large = False
        else:
            size = _size_of_header(part)
            is_large = size > 0
            stream.append(part[: len(part) - size])
            if is_large:
                stream.append(_FROM_BUFFER[part[-size : len(part) - size + 1]])
    return b"".join(stream), buffers


def _size_of_header(part: bytes) -> int:
    """With how many bytes that announce something large a part ends.

    It begins with frames. Outside of them stand only such a header, and less than four bytes before it, which are not
    worth a frame.
    """
    end = len(pickle.PROTO) + 1 if part[:1] == pickle.PROTO else 0
    while part[end : end + 1] == pickle.FRAME:
        end += _HEAD_OF_FRAME + int.from_bytes(part[end + 1 : end + _HEAD_OF_FRAME], "little")
    left = len(part) - end
    return 0 if left < _SHORT_HEADER else _SHORT_HEADER if left < _LONG_HEADER else _LONG_HEADER


def plain_dumps(thing: Any) -> bytes:
    """As `pickle.dumps`, but what goes by value is refused, where looking for it would import its module."""
    with io.BytesIO() as file:
        (careful_pickler() or pickle.Pickler)(file, PROTOCOL).dump(thing)
        return file.getvalue()


def plain_pickler(
    file: SupportsWrite[bytes],
    keep: Callable[[pickle.PickleBuffer], Any] | None = None,
    ways: dict[type, Any] | None = None,
) -> pickle.Pickler:
    """A pickler of the standard library's; *keep* is its `buffer_callback`, *ways* are reducers, by type.

    It knows the tensors of PyTorch, if this process has such: they would pickle all the memory that they are a view of,
    of one row of a matrix the whole, and copy it several times. And it knows arrays that numpy maps from files.
    """
    pickler = (careful_pickler() or pickle.Pickler)(file, PROTOCOL, buffer_callback=keep)
    kinds = [(getattr(sys.modules.get(module), name, None), reduce) for module, name, reduce in _OURS]
    ours: dict[type, Any] = {kind: reduce for kind, reduce in kinds if kind is not None}
    ours |= ways or {}
    if ours:
        pickler.dispatch_table = ours | copyreg.dispatch_table
    return pickler


def reduce_tensor(tensor: Any) -> Any:
    """As PyTorch has it, but with a buffer of what the tensor covers, where that lies in the memory of the CPU."""
    torch: Any = sys.modules["torch"]
    reduced = tensor.__reduce_ex__(PROTOCOL)
    is_dense = reduced[0] is torch._utils._rebuild_tensor_v2 and tensor.device.type == "cpu"  # noqa: SLF001 - no public name
    if not is_dense or not prod(tensor.shape) or "numpy" not in sys.modules:
        return reduced
    _, start, shape, strides, *rest = reduced[1]
    size = tensor.element_size()
    covered = size * (1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)))
    view = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage(), start * size, (covered,), (1,))
    return as_tensor, (pickle.PickleBuffer(view.numpy()), tensor.dtype, shape, strides, *rest)


def as_tensor(content: Any, dtype: Any, *args: Any) -> Any:
    """A tensor in the memory of its *content*, or in its own, if that is small."""
    torch: Any = import_module("torch")
    memory = torch.frombuffer(content, dtype=torch.uint8)
    storage = (memory.clone() if len(memory) < OUT_OF_BAND else memory).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
    return torch._utils._rebuild_tensor_v2(typed, 0, *args)  # noqa: SLF001 - no public name


class _Reader(local):
    has_files = False


_reader = _Reader()


def has_files() -> bool:
    """Whether the files of this machine are there for whoever reads what this thread is pickling."""
    return _reader.has_files


@contextmanager
def read_with_files(is_so: bool) -> Generator[None]:
    """Say whether the files of this machine are there for whoever reads what this thread pickles meanwhile."""
    before = _reader.has_files
    try:  # what a signal handler raises from here on leaves nothing behind
        _reader.has_files = is_so
        yield
    finally:
        _reader.has_files = before


def reduce_mapped(array: Any) -> Any:
    """A `numpy.memmap` as its place in its file, which then has what a task writes to it.

    As a copy, like any other array: where nobody has said that the file is there, as for results, which are the
    caller's, and on a cluster; what has no file any more, what changes for its owner alone, and a part of one that can
    only be read.
    """
    import mmap

    if not _reader.has_files:
        return array.__reduce_ex__(PROTOCOL)
    memory = array._mmap  # noqa: SLF001 - of numpy, without a public name
    try:
        is_there = os.stat(array.filename).st_size == memory.size()
    except (AttributeError, OSError, TypeError, ValueError):  # the result of a calculation; without a name; removed
        is_there = False
    if not is_there or array.mode == "c" or not (array.flags.writeable or type(array.base) is mmap.mmap):
        return array.__reduce_ex__(PROTOCOL)
    origin = sys.modules["numpy"].frombuffer(memory, "u1")
    place = array.__array_interface__["data"][0] - origin.__array_interface__["data"][0]
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    mode = "r" if array.mode == "r" else "r+"
    hold(MAPPED)
    where = os.fspath(array.filename), mode, start, len(memory), place
    return as_mapped, (*where, array.dtype, array.shape, array.strides)


_mapped: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()


def as_mapped(file: str, mode: str, start: int, size: int, place: int, dtype: Any, shape: Any, strides: Any) -> Any:
    """A `numpy.memmap`; all those of one piece of a file share one mapping, for each takes a descriptor."""
    numpy: Any = import_module("numpy")
    found = os.stat(file)
    if found.st_size < start + size:  # numpy would make it longer
        raise ValueError(f"the file of a numpy.memmap is shorter than it was: {file}")
    key = found.st_dev, found.st_ino, mode, start, size
    memory = _mapped.get(key)
    if memory is None:
        _mapped[key] = memory = numpy.memmap(file, "u1", mode, start, size)
    made = numpy.ndarray.__new__(numpy.memmap, shape, dtype, memory, place, strides)
    vars(made).update(vars(memory))
    return made


_OURS = (("torch", "Tensor", reduce_tensor), ("numpy", "memmap", reduce_mapped))


_local = local()
MAPPED = object()
"""Held in the place of memory that workers map: it would stay with them where a function is kept that is gone here."""


def hold(thing: Any) -> None:
    """Say that what this thread is pickling needs *thing* to live."""
    _local.__dict__.setdefault("things", []).append(thing)


def held() -> tuple[Any, ...]:
    """What the streams pickled by this thread since it last asked need."""
    things = _local.__dict__
    return tuple(things.pop("things")) if things else ()


def is_sent(need: Any) -> bool:
    """Whether it goes to a worker before what needs it: a token of `per_worker`, a value that lies in no file."""
    return getattr(need, "is_sent", False)


@contextmanager
def held_apart() -> Generator[None]:
    """Let what is pickled meanwhile, in the midst of something else, have needs of its own."""
    outer = held()
    try:
        yield
    finally:
        held()
        if outer:
            _local.things = [*outer]
