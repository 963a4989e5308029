"""Objects to payloads and back: pickle first, cloudpickle when it must, each item on its own."""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import pytest
import tasks
from hypothesis import given, settings
from hypothesis import strategies as st

from parmap import parallel
from parmap._travel.code.by_name import by_name, name_of, reference
from parmap._travel.flat import MARSHALLED, TEXT
from parmap._travel.pack import EACH, WHOLE, Pack, Packed
from parmap._travel.payload import dump, pack
from parmap._travel.stream import LARGE, OUT_OF_BAND
from parmap.errors import SerializationError

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    atoms, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)
)


class Unpicklable:
    """Refuses to travel."""

    def __reduce__(self) -> Any:
        message = "stays here"
        raise TypeError(message)


class Buffered:
    """Travels as a buffer out of band, as an array does."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Buffered, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffered) and bytes(self.data) == bytes(other.data)

    def __hash__(self) -> int:
        return 0


def unpack(packed: Packed) -> Any:
    """What an item is on the other side."""
    return pickle.loads(packed.stream, buffers=packed.buffers)


@given(st.lists(values, min_size=1))
def test_round_trip(items: list[Any]) -> None:
    """What is packed comes out as it was, as a whole and item by item."""
    packed, errors = pack(items)

    assert errors == {}
    assert list(packed) == items
    assert [packed[index] for index in range(packed.count)] == items


@given(st.lists(values | st.integers(0, 3 * OUT_OF_BAND).map(lambda size: Buffered(bytes(size))), min_size=1))
def test_round_trip_through_a_description(items: list[Any]) -> None:
    """A pack that is described, joined to one stream and built again holds the same items."""
    packed, _ = pack(items)

    again = Pack.restore(packed.describe(), memoryview(packed.stream), packed.buffers)

    assert list(again) == items
    assert again.nbytes == packed.nbytes


def test_byte_cap_of_strings() -> None:
    """A few long strings among many short ones don't make one message of them all."""
    items = ["x"] * 1000 + ["y" * 10_000] * 1000

    packed, errors = pack(items, 100_000)

    assert errors == {}
    assert 1000 < packed.count < 1020
    assert list(packed) == items[: packed.count]


@given(st.lists(st.binary(max_size=200).map(lambda data: [[data]]), min_size=1), st.integers(0, 500))
def test_byte_cap(items: list[Any], cap: int) -> None:
    """Under a cap, items from the front are taken: at least one, and no more than fit."""
    packed, errors = pack(items, cap)

    assert errors == {}
    assert 1 <= packed.count <= len(items)
    assert packed.count == 1 or packed.nbytes <= cap
    assert list(packed) == items[: packed.count]


def test_atoms_are_pickled_whole() -> None:
    """Numbers, strings, and flat containers of them travel as one; other things each in a stream of its own."""
    flat = [1, "a", None], [(1, 2), (3, "x")], [[1], [2]], [{"a": 1, "b": None}, {"a": "x", "b": 2.5}]
    assert all(pack(items)[0].kind in {MARSHALLED, TEXT} for items in flat)
    assert pack(range(10**9))[0].kind == WHOLE
    assert pack(range(10**9))[0].nbytes < 200
    assert pack([[[1]], [[2]]])[0].kind == EACH


def test_an_item_that_changes_while_it_is_packed() -> None:
    """A dict to which another thread adds, as it may between any two steps, fails neither itself nor the others."""
    items = [{"a": 1.5, "b": "text"}, {"a": 2.5, "b": "text"}]

    def add(frame: Any, *_: Any) -> Any:
        if frame.f_globals["__name__"] == "parmap._travel.flat":
            items[0][str(len(items[0]))] = "text"
        return add

    before = sys.gettrace()
    sys.settrace(add)
    try:
        packed, errors = pack(items)
    finally:
        sys.settrace(before)

    assert errors == {}
    assert packed[0].keys() >= {"a", "b"}
    assert packed[1] == items[1]


def test_items_that_share_an_object_arrive_apart() -> None:
    """However items are cut into chunks, an object they share arrives as two."""
    shared = [1]

    one, two = pack([shared, shared])[0]

    assert one == two
    assert one is not two


def test_identity_within_an_item_is_kept() -> None:
    """Within one item, an object that stands there twice is one object on arrival."""
    shared = [1]
    ((one, two),) = pack([[shared, shared]])[0]

    assert one is two


def test_item_that_fails_fails_alone() -> None:
    """An item that can't be pickled has an error under its number; the others travel."""
    packed, errors = pack([[0], Unpicklable(), [2]])

    assert list(errors) == [1]
    assert isinstance(errors[1], SerializationError)
    assert (packed[0], packed[2]) == ([0], [2])


def test_error_names_type_and_cause() -> None:
    """The error says what can't be pickled, and why."""
    with pytest.raises(SerializationError, match=r"Unpicklable.*TypeError: stays here") as caught:
        dump(Unpicklable())

    assert isinstance(caught.value.__cause__, TypeError)


def test_error_names_the_attribute() -> None:
    """Of an object within an object, which knows its owner, it is the one of the inner; what is not sent is not to blame."""

    class Connected:
        def __init__(self, owner: Any = None) -> None:
            self.owner = owner
            self.connection = (number for number in range(3)) if owner else None
            self.inner = None if owner else Connected(self)

    class Careful(Connected):
        def __getstate__(self) -> Any:
            return {"key": Unpicklable()}

    told = r"^the attribute 'connection' of the attribute 'inner' of an object of type .*Connected can't be pickled: .*generator"
    with pytest.raises(SerializationError, match=told):
        dump(Connected())
    with pytest.raises(
        SerializationError, match=r"^an object of type .*Careful can't be pickled: TypeError: stays here"
    ):
        dump(Careful())


def test_recursion_is_an_error_of_the_item() -> None:
    """A list nested too deep to be pickled is this item's error."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    _, errors = pack([deep, [1]])

    assert isinstance(errors.get(0), SerializationError)


def test_large_buffers_travel_beside_the_stream() -> None:
    """A large buffer is not copied into the pickle stream, a small one is."""
    large, small = bytearray(OUT_OF_BAND), bytearray(OUT_OF_BAND - 1)

    assert len(dump(Buffered(large)).stream) < 1000
    assert len(dump(Buffered(large)).buffers) == 1
    assert dump(Buffered(small)).buffers == []


_sizes = st.sampled_from([1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE])
_like_a_header = pickle.BINBYTES + LARGE.to_bytes(4, "little")
_like_a_frame = pickle.FRAME + (LARGE - 9).to_bytes(8, "little")
_contents = st.sampled_from([b"x", b"\x00", _like_a_header, _like_a_frame, pickle.BINUNICODE8, pickle.PROTO + b"\x05"])
_blobs = st.builds(lambda size, content: (content * size)[:size], _sizes, _contents)
_texts = st.builds(lambda size, content: (content * size)[:size], _sizes, st.sampled_from(["x", "é", "\ud800", "🐍"]))
large_ones = _blobs | _blobs.map(bytearray) | _texts | _blobs.map(bytearray).map(Buffered)
graphs = st.recursive(
    large_ones | st.integers() | st.integers(0, 50_000).map(range).map(list),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.integers(), inner),
    max_leaves=8,
)


WRAPS: dict[str, Any] = {
    "alone": lambda it: it,
    "in a list": lambda it: [it],
    "in a row": lambda it: (it, 1),
    "in a dict": lambda it: {"key": (it, 1)},
    "in an object": lambda it: types.SimpleNamespace(content=it),
}


@given(st.lists(graphs, min_size=1, max_size=10), st.sampled_from([1, 4]))
@settings(max_examples=25)
def test_large_contents_in_any_place(items: list[Any], times: int) -> None:
    """Bytes, bytearrays and strings of any size arrive as they were, whatever they look like and lie in."""
    packed, errors = pack(items * times)
    buffers = [memoryview(bytearray(buffer)) for buffer in packed.buffers]
    again = Pack.restore(packed.describe(), memoryview(packed.stream), buffers)

    assert errors == {}
    assert list(packed) == items * times
    assert [again[place] for place in range(again.count)] == items * times
    assert unpack(dump(items)) == items


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_large_bytes_are_not_copied(wrap: Any) -> None:
    """They lie beside the stream as they are, in whatever they lie; a copy for later needs none."""
    content = b"x" * LARGE

    for packed in (dump(wrap(content)), dump(wrap(content)).keep(), pack([wrap(content)])[0]):
        assert [buffer.obj is content for buffer in packed.buffers] == [True]
        assert len(packed.stream) < 1000


@pytest.mark.parametrize("content", ["x" * LARGE, bytearray(LARGE)])
def test_large_contents_are_copied_once(content: Any) -> None:
    """Strings are encoded and bytearrays copied, since they may change; but not into a stream."""
    packed = dump([content, content])

    assert [len(buffer) for buffer in packed.buffers] == [LARGE]
    first, second = unpack(packed)
    assert first == content
    assert first is second


def test_a_bytearray_that_changes_when_it_is_pickled() -> None:
    """Nothing of it is held: it can grow and shrink."""
    content = bytearray(LARGE)
    packed = dump([content])
    content[:] = b"abc"

    assert unpack(packed) == [bytearray(LARGE)]


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("kind", [str, bytes, bytearray])
def test_the_byte_cap_counts_what_is_large(kind: Any, wrap: Any) -> None:
    """Whatever it lies in; and the first item goes even if it is larger than all that may."""
    items = [wrap(str(number) * LARGE if kind is str else kind(b"%d" % number * LARGE)) for number in range(9)]

    assert pack(items, byte_cap=3 * LARGE)[0].count == 2
    assert pack(items, byte_cap=LARGE // 2)[0].count == 1


def test_buffers_are_owned_by_their_items() -> None:
    """Each item finds its own buffers, in any order of asking."""
    items = [Buffered(bytes([n]) * OUT_OF_BAND * (n % 2)) for n in range(6)]

    packed, _ = pack(items)

    assert [packed[index] for index in reversed(range(6))] == items[::-1]


def test_readonly_buffers_stay_readonly() -> None:
    """A buffer that was read-only is so on arrival; a writable one can be written."""
    packed, _ = pack([Buffered(bytes(OUT_OF_BAND)), Buffered(bytearray(OUT_OF_BAND))])
    copies = [memoryview(bytearray(buffer)) for buffer in packed.buffers]

    again = Pack.restore(packed.describe(), memoryview(packed.stream), copies)

    assert [buffer.readonly for buffer in again.buffers] == [True, False]


def test_lambda_and_closure() -> None:
    """What plain pickle refuses, cloudpickle carries."""
    offset = 5

    assert unpack(dump([lambda x: x + offset]))[0](1) == 6


def test_name_in_main_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of `__main__` is not pickled by a name that means nothing elsewhere."""
    main = types.ModuleType("__main__")
    exec("class Point:\n    x = 1\n", main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)

    packed = dump(main.Point)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))

    assert unpack(packed).x == 1


def test_main_in_a_string_is_harmless() -> None:
    """A user's string that looks like the name of the script survives."""
    assert unpack(dump(["__main__"])) == ["__main__"]


def test_packed_items_pass_through() -> None:
    """An item that was pickled before is not pickled again."""
    packed, errors = pack([dump([1]), [2]])

    assert errors == {}
    assert list(packed) == [[1], [2]]


def test_released_pack_lets_go() -> None:
    """After its release a pack holds no memory; a view that an item has kept is still good."""
    memory = bytearray(OUT_OF_BAND + 1)
    packed, _ = pack([Buffered(memoryview(memory)[1:])])
    (item,) = packed
    packed.release()

    assert bytes(item.data) == bytes(memory[1:])
    with pytest.raises(BufferError):
        memory.clear()
    del item
    memory.clear()


class Holder:
    """A class with functions in it."""

    def method(self) -> None: ...

    @staticmethod
    def static() -> None: ...


@pytest.mark.parametrize("function", [tasks.square, len, Holder.static, Holder, Holder.method, pickle.dumps])
def test_importable_functions_go_by_name(function: Any) -> None:
    """What can be imported where it lives is found again by its name."""
    name = name_of(function)

    assert name is not None
    assert by_name(*name) is function


def test_other_functions_have_no_name() -> None:
    """A lambda, a nested function, a bound method and a function of nowhere go by value."""

    def nested() -> None: ...

    lost = types.FunctionType(tasks.square.__code__, {}, "lost")
    lost.__module__ = "no.such.module"

    assert [name_of(function) for function in (nested, lambda: None, lost)] == [None, None, None]
    assert reference(Holder().method)[2] is False


def test_function_under_a_decorator_is_found() -> None:
    """The plain function under a decorated one is found through the name of the decorator."""
    module = types.ModuleType("made_for_this_test")
    module.__spec__ = tasks.__spec__
    exec("def plain(x):\n    return x\n", module.__dict__)
    plain = module.plain
    module.plain = parallel(plain)
    sys.modules["made_for_this_test"] = module
    try:
        name = name_of(plain)
        assert name is not None
        assert by_name(*name) is plain
    finally:
        del sys.modules["made_for_this_test"]


@pytest.mark.parametrize("more", [None, lambda: None], ids=["pickle", "cloudpickle"])
def test_a_tensor_is_packed_as_what_it_covers(more: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch pickles all the memory that a tensor is a view of; a row of a matrix is packed as a row."""
    numpy = pytest.importorskip("numpy")
    import fake_torch

    monkeypatch.setitem(sys.modules, "torch", fake_torch)
    memory = numpy.arange(100 * 5_000.0)
    views = {  # each with the elements that it covers
        fake_torch.Tensor(memory, 15_000, (5_000,), (1,)): 5_000,
        fake_torch.Tensor(memory, 1, (5_000, 3), (1, 5_000)): 15_000,
        fake_torch.Tensor(memory, 7, (2, 3), (4, 1)): 7,
    }
    for view, covered in views.items():
        one = dump((view, more))
        made, _ = pack([(view, more)])[0][0]
        size = len(one.stream) + sum(buffer.nbytes for buffer in one.buffers)

        assert (made.numpy() == view.numpy()).all()
        assert made.strides == view.strides
        assert 8 * covered < size < 8 * covered + 2_000
