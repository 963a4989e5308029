"""Classes that travel by value: how they are sent, that there is one of each wherever they come, how they go home."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Generator, Iterable, MutableMapping
from contextlib import contextmanager, suppress
from enum import EnumMeta
from functools import partial
from operator import getitem
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from parmap._travel.code.by_name import MAIN, guests
from parmap._travel.code.functions import HINTS, Made, give_name
from parmap._travel.code.special.lazy import annotations_of, hints_of, names_in_hints
from parmap._travel.text import is_enumeration

Classes: TypeAlias = Callable[[type], tuple[Any, ...] | None]
"""What says how a class travels, as a reducer does, if not as cloudpickle has it."""

_guests: WeakSet[type] = WeakSet()  # classes that came here by value, and were made for that


def came_by_value(cls: type) -> bool:
    """Whether a class came here by value: then whoever sent it has it, and won't look at how it is here."""
    return cls in _guests


def be_guest() -> None:
    """This process was forked from the one that sends: what it has of that one's classes is as it was then."""
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    if cloudpickle is not None:
        _guests.update(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.values())  # noqa: SLF001 - no public way


def class_reduced(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Change how cloudpickle sends a class: `(make, arguments, state, None, None, fill)`."""
    make, args, state, _, _, fill = reduced
    generic = vars(cls).get("__pydantic_generic_metadata__") or {}
    origin, parameters = generic.get("origin"), generic.get("args")
    if origin in _guests:
        return getitem, (origin, parameters)
    if class_known(args[-2]) is not cls:
        raise TypeError(f"the class {cls.__qualname__} is equal to another one, says its metaclass")
    slots = vars(cls).get("__slots__")
    # cloudpickle makes the class without its slots; its instances would then come back with a state that does not fit.
    # (A tuple has no room for slots, and NamedTuple refuses even none.)
    if (
        isinstance(slots, (str, tuple, list, dict, set, frozenset))
        and isinstance(args[3], dict)
        and not issubclass(cls, tuple)
    ):
        args[3].setdefault("__slots__", slots)
    members = None
    if is_enumeration(cls):
        every = vars(cls)["_member_map_"]
        members = {name: dict(getattr(member, "__dict__", {})) for name, member in every.items()}
        # cloudpickle sends no other names of members, nor what is made of several flags, nor the metaclass.
        kind = vars(cls)["_member_type_"]
        body = {name: _given(kind, member.value) for name, member in every.items()}
        body |= {"__qualname__": args[2], "__module__": args[4]}
        make, args = _make_class(), (type(cls), cls.__name__, cls.__bases__, body, *args[5:])
        for name in every:
            state[0].pop(name, None)
        is_made_otherwise = "__new_member__" in vars(cls) and hasattr(kind, "__getnewargs__")
        if is_made_otherwise and any(member != member.value for member in every.values()):
            raise TypeError(
                f"members of the enumeration {cls.__qualname__} are made of something else than their values, by a "
                "__new__: move it into a module, which workers import"
            )
    elif isinstance(args[3], dict):  # cloudpickle gives it the short name only
        args[3].setdefault("__qualname__", cls.__qualname__)
    _complete(cls, state[0])
    ctypes = sys.modules.get("_ctypes")
    if ctypes is not None and issubclass(cls, (ctypes.Structure, ctypes.Union)):
        for name in [name for name, value in state[0].items() if is_made_with_class(value)]:
            del state[0][name]
        fill = partial(_fill_structure, fill, state[0].pop("_fields_", None))
    given = [_early(cls, names) for names in _FIRST], fill, state, members, cls.__bases__
    return _find_or_make, (make, args, origin, parameters), given, None, None, _fill


_FIRST = ("__eq__", "__hash__"), ("__new__", "__init__", "__setstate__", "__dataclass_fields__")
_OWN_WAYS = {"__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"}


def _early(cls: type, names: Iterable[str]) -> Made | None:
    """What a class must have before its attributes, which may be instances of it, are made, or sets of such are."""
    own = vars(cls)
    found = {name: own[name] for name in names if own.get(name) is not None}
    is_needed = "__hash__" in found or any(_OWN_WAYS & vars(base).keys() for base in cls.__mro__[:-1])
    return Made(_give, cls, found) if is_needed and found and not is_enumeration(cls) else None


def _give(cls: type, early: dict[str, Any]) -> None:
    if cls in _guests and cls not in _filled:
        for name, value in early.items():
            type.__setattr__(cls, name, value)


NOTED = frozenset({"__annotations_cache__", "__msgspec_cache__", "__slotnames__"})
"""What Python, `copyreg` and libraries note on a class by themselves, and find out again."""


def _complete(cls: type, attributes: dict[str, Any]) -> None:
    """Change what cloudpickle tells of a class: without what others have noted on it, with what it annotates."""
    for name in NOTED:
        attributes.pop(name, None)
    if "__annotate_func__" in vars(cls):  # which cloudpickle leaves out, with what was not evaluated yet
        attributes["__annotations__"] = annotations_of(cls)
    if names_in_hints(cls):
        attributes[HINTS] = hints_of(cls)  # also if none is there: none shall be found
    for name in _LAST:
        if name in attributes:
            attributes[name] = attributes.pop(name)


# What pydantic has made of a model shares parts with that of the models in it, which are to be complete before.
_LAST = ("__pydantic_core_schema__", "__pydantic_serializer__", "__pydantic_validator__")


def _given(kind: type, value: Any) -> Any:
    """What the body of an enumeration says for a member to have that value; *kind*: the class of data that it is."""
    import enum

    if hasattr(kind, "__dataclass_fields__") and isinstance(value, kind):
        return tuple(getattr(value, field.name) for field in kind.__dataclass_fields__.values() if field.init)
    return enum.member(value) if isinstance(value, type) or hasattr(type(value), "__get__") else value


def is_made_with_class(attribute: Any) -> bool:
    """Whether an attribute of a class is there as soon as the class is: that of a slot, or of a field in C."""
    kind = type(attribute)
    return kind in _OF_SLOTS or (kind.__name__ == "CField" and kind.__module__ in {"_ctypes", "ctypes"})


_OF_SLOTS = frozenset({GetSetDescriptorType, MemberDescriptorType})


def _fill_structure(
    fill: Callable[..., object], fields: Any, cls: Any, state: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Give a class of `ctypes` its attributes, then its fields, which are final, and laid out as the others say."""
    fill(cls, state)
    if fields is not None and "_fields_" not in vars(cls):
        cls._fields_ = fields


def _find_or_make(make: Callable[..., type], args: tuple[Any, ...], origin: Any = None, parameters: Any = ()) -> type:
    """The class that is known here under the name cloudpickle gave it, or a new one, still empty.

    cloudpickle would make a new one always, then drop it: each result would run `__init_subclass__` of its bases.
    A generic model of pydantic's is what *origin* with these *parameters* is here.
    """
    found = class_known(args[-2])
    if found is None and origin is not None and all(map(_is_whole, (origin, *parameters))):
        found = _known()[args[-2]] = origin[parameters]
    if found is None:
        if make is _make_class():
            args = partial(_make_quietly, args[0]), *args[1:]
        try:
            found = make(*args)
        except Exception as error:
            told = f"the class {args[1]} can't be made in a worker ({type(error).__name__}: {error})"
            raise TypeError(f"{told}: move it into a module, which workers import") from error
        _guests.add(found)
        if found.__module__ not in MAIN:
            guests.add(found)
    return found


def _is_whole(hint: Any) -> bool:
    """Whether no class in a type is one that is being made here just now."""
    return (hint not in _guests or hint in _filled) and all(map(_is_whole, getattr(hint, "__args__", ())))


def _make_class() -> Any:
    from cloudpickle import cloudpickle

    return cloudpickle._make_skeleton_class  # noqa: SLF001 - no public way


def _make_quietly(kind: Any, name: str, bases: tuple[type, ...], variables: dict[str, Any]) -> type:
    """Make a class without the user's code that runs when one is made: `__init_subclass__`, and that of metaclasses.

    It ran at home, maybe with arguments that nobody knows any more; what it did there comes along.
    """
    plain = next(each for each in kind.__mro__ if each not in _guests)

    def make() -> Any:
        body = EnumMeta.__prepare__(name, bases) if issubclass(kind, EnumMeta) else {}
        body.update(variables)
        return plain.__new__(kind, name, bases, body)

    try:
        with _hooks_off("__init_subclass__", bases, of_guests=True):
            made: type = make()
    except TypeError:  # from the hook of an importable class, maybe: it has arguments, too
        with _hooks_off("__init_subclass__", bases, of_guests=False):
            made = make()
    plain.__init__(made, name, bases, variables)
    return made


@contextmanager
def _hooks_off(name: str, classes: tuple[type, ...], *, of_guests: bool) -> Generator[None]:
    """Let some classes, and what they inherit from, do without a method of that name."""
    every = {base for each in classes for base in each.__mro__[:-1] if name in vars(base)}
    hooks = {base: vars(base)[name] for base in every if not of_guests or base in _guests}
    try:
        for base in hooks:
            type.__delattr__(base, name)
        yield
    finally:
        for base, hook in hooks.items():
            type.__setattr__(base, name, hook)


def class_known(name: str) -> type | None:
    """The class that cloudpickle knows under a name of its own."""
    return _known().get(name)


def _known() -> MutableMapping[str, type]:
    from cloudpickle import cloudpickle

    known: MutableMapping[str, type] = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID  # noqa: SLF001 - no public way
    return known


def tracker_of(cls: type) -> str:
    """The name under which cloudpickle knows a class, here and wherever it is sent."""
    from cloudpickle import cloudpickle

    name: str = cloudpickle._get_or_create_tracker_id(cls)  # noqa: SLF001 - no public way
    return name


class Filling:
    """What a class that came by value was given, to give it once more when another version of it was there."""

    def __init__(self, cls: type, state: tuple[Any, ...]) -> None:
        self._cls = cls
        self._state = state
        self._token = object()

    def apply(self) -> bool:
        """Give it to the class, unless it has it; whether that was to be done."""
        token, names = _filled.get(self._cls, (None, frozenset()))
        if token is self._token:
            return False
        _, fill, attributes, members, bases = self._state
        now = frozenset(attributes[0])
        _filled[self._cls] = self._token, now
        if self._cls.__bases__ != bases:  # others since the class was made here
            self._cls.__bases__ = bases
        own = chosen.get(self._cls, {})
        with _hooks_off("__setattr__", (type(self._cls),), of_guests=True):  # which may refuse
            fill(self._cls, attributes)
            for name, value in own.items():
                setattr(self._cls, name, value)
        for name in names - now - own.keys():  # deleted since
            with suppress(AttributeError, TypeError):  # a task has done it before, or the class is made of it
                type.__delattr__(self._cls, name)
        for name, values in (members or {}).items():
            getattr(self._cls.__members__[name], "__dict__", {}).update(values)  # type: ignore[attr-defined]
        return True


chosen: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()
"""What the initializer of this worker has set on classes: it stays, whatever they are given later."""

_filled: WeakKeyDictionary[type, tuple[object, frozenset[str]]] = WeakKeyDictionary()
_fillings: list[Filling] | None = None  # those of what is loaded just now, if somebody wants to know


@contextmanager
def fillings() -> Generator[list[Filling]]:
    """Note what classes are given by what is loaded meanwhile."""
    global _fillings  # noqa: PLW0603 - picklers call our functions without a word of who asks
    before, _fillings = _fillings, []
    try:
        yield _fillings
    finally:
        _fillings = before


def _fill(cls: type, state: tuple[Any, ...]) -> None:
    """Give a class that came by value its attributes, unless this is where it was made.

    cloudpickle would set each of them anew: a result that comes home would undo what the user did to the class since,
    and cut its methods off the globals of their module.
    """
    if cls in _guests:
        filling = Filling(cls, state)
        filling.apply()
        give_name(cls)
        if _fillings is not None:
            _fillings.append(filling)


# --- classes that were sent before, and those that go home ------------------------------------------

arrived: dict[int, Callable[[], type]] = {}
"""Classes that came by themselves, under the numbers that the sender gave them: what loads each, or has done so."""


def class_of(number: int) -> type:
    """The class that came under a number, as it was then."""
    return arrived[number]()


def class_with(name: str) -> type:
    """A class that came with the function that runs."""
    cls = class_known(name)
    assert cls is not None  # noqa: S101 - the function holds it
    return cls


def at_home(name: str, stream: bytes) -> type:
    """A class that came home: the one that is here, or another like it if that is gone."""
    known = class_known(name)
    made: type = pickle.loads(stream) if known is None else known
    return made
