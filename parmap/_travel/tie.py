"""Which item an error is of: the error holds it, as it was sent."""

from __future__ import annotations

from typing import Any

from parmap._travel.failure import pass_on
from parmap._travel.pack import Packed
from parmap._travel.payload import pack

_NAME = "_parmap_item"


class Tie:
    """The item that an error is of. It stays in this process: an error that is pickled leaves it behind."""

    __slots__ = ("_is_call", "_item")

    def __init__(self, item: Any, *, is_call: bool = False) -> None:
        """*is_call*: the item is the arguments of a call."""
        self._item = item
        self._is_call = is_call

    @property
    def item(self) -> Any:
        """The item; unpickled, if the program may not have it any more.

        Raises:
            LookupError: it can't be.
        """
        item = _unpacked(self._item)
        return item[0] if self._is_call and len(item) == 1 else item

    def bind(self, error: BaseException) -> None:
        """Let *error* hold it."""
        BaseException.__setattr__(error, _NAME, self)  # past what the class of the error may refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def _unpacked(item: Any) -> Any:
    if type(item) is not Packed:
        return item
    if hasattr(item, "item"):
        return item.item
    try:
        return pack([item])[0][0]
    except Exception as error:
        pass_on(error)
        raise LookupError("the item can't be unpickled here: give the items in a list, or use `outcomes`") from error


def item_of(error: BaseException) -> Any:
    """Return the item that failed with *error*, which a method of a parallel function raised or returned.

    It is the object that was in the input; a copy of it, if the input was an iterator that hands it to worker
    processes, or if it was given to `submit`. Of a call with several arguments it is their tuple, and of `submit` with
    keywords that tuple and the dict of these.

    Raises:
        LookupError: the error isn't that of an item, or is of a result of `submit` that can't be unpickled.

    Example:
        >>> import parmap
        >>> check = parmap.parallel(float, workers=2)
        >>> found = check.map(["1.5", "x", "2"], return_exceptions=True)
        >>> [parmap.item_of(each) for each in found if isinstance(each, Exception)]
        ['x']
    """
    kind: type = type(error)  # whatever its `__class__` says
    tie = vars(BaseException)["__dict__"].__get__(error).get(_NAME) if issubclass(kind, BaseException) else None
    if not isinstance(tie, Tie):
        raise LookupError(  # noqa: TRY004 - its type is right; what it lacks is an item
            f"this {type(error).__name__} isn't tied to an item: no method of a parallel function gave it for one"
        )
    return tie.item
