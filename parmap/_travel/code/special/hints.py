"""What annotations are made of, where pickle knows nothing but its name: type variables, aliases, and the like."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from parmap._travel.code.by_name import name_of
from parmap._travel.code.special.singles import keep, known, single_reduced, token_of

_OF_VARIABLES = ("bound", "covariant", "contravariant", "infer_variance")
_STARS = {"TypeVarTuple": "*", "ParamSpec": "**"}


def hint_reduced(thing: Any, kind: type) -> tuple[Any, ...] | None:
    """As a reducer, for a thing of `typing`; `None` for one that pickle knows, or a worker can import."""
    import typing

    if name_of(thing) is not None:
        return None
    if kind is typing.NewType:
        return single_reduced(thing, kind, (thing.__name__, thing.__supertype__), dict(vars(thing)))
    if kind in {typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple}:
        return _of_variable(thing, kind)
    if kind is getattr(typing, "TypeAliasType", None):
        params = [
            (token_of(each), _STARS.get(type(each).__name__, "") + each.__name__) for each in thing.__type_params__
        ]
        args = token_of(thing), thing.__name__, thing.__module__, params
        return _of_late(_make_alias, args, *_evaluated(thing, "__value__"))
    return None


def forward_reduced(forward: Any) -> tuple[Any, ...]:
    """As a reducer: what stands for a part of an annotation that names what was not there."""
    kind: Any = type(forward)
    make = partial(kind, module=forward.__forward_module__, is_class=forward.__forward_is_class__)
    cells = forward.__cell__
    if type(cells) is dict:  # with the variables of the class itself, which is the owner
        cells = {name: cell for name, cell in cells.items() if name != "__classdict__"}
    # Where it looks, once it is asked; as its state, for the owner has it.
    return make, (forward.__forward_arg__,), (None, {"__owner__": forward.__owner__, "__cell__": cells})


def _of_variable(thing: Any, kind: type) -> tuple[Any, ...]:
    has_default: Any = getattr(thing, "has_default", bool)
    default = [_evaluated(thing, "__default__")[0]] if has_default() else []
    bound, error = _evaluated(thing, "__bound__")
    if getattr(thing, "__infer_variance__", False) and (bound is not None or error):
        return _of_late(_make_bounded, (token_of(thing), thing.__name__, thing.__module__, default), bound, error)
    told = {name: getattr(thing, f"__{name}__", None) for name in _OF_VARIABLES}
    options = {name: value for name, value in told.items() if value}
    if default:
        options["default"] = default[0]
    constraints, _ = _evaluated(thing, "__constraints__")
    args = thing.__name__, *(constraints or ())
    return single_reduced(thing, partial(kind, **options), args, {"__module__": thing.__module__})


def _evaluated(thing: Any, name: str) -> tuple[Any, Exception | None]:
    """What is evaluated when it is asked for, and may name what is not there: the value, or the error."""
    try:
        return getattr(thing, name, None), None
    except Exception as error:  # noqa: BLE001 - the user's code
        return None, error


# --- what may name itself: it is made before that which it is evaluated to ---------------------------


class Late:
    """What it is evaluated to, or the error of that."""

    value: Any = None
    error: Exception | None = None

    def __call__(self) -> Any:
        """Evaluate it."""
        if self.error is not None:
            raise self.error
        return self.value


_lates: WeakValueDictionary[str, Late] = WeakValueDictionary()  # of what was made here


def _of_late(make: Any, args: tuple[Any, ...], value: Any, error: Exception | None) -> tuple[Any, ...]:
    return make, args, (args[0], value, error), None, None, _fill


def _fill(_: object, state: tuple[str, Any, Exception | None]) -> None:
    name, value, error = state
    if late := _lates.get(name):
        late.value, late.error = value, error


def _execute(name: str, statement: str, **variables: Any) -> dict[str, Any]:
    """The variables of a module that says so: what is made otherwise has its value at once."""
    variables["late"] = _lates[name] = Late()
    exec(statement, variables)  # noqa: S102 - as told
    return variables


def _make_alias(token: str, name: str, module: str, params: list[tuple[str, str]]) -> Any:
    """A type alias, with type variables of its own: those that its value has."""
    made = known(token)
    if made is None:
        inside = f"[{', '.join([each for _, each in params])}]" if params else ""
        made = _execute(token, f"type {name}{inside} = late()", __name__=module)[name]
        for variable, (own, _) in zip(made.__type_params__, params, strict=True):
            keep(own, variable)
    return keep(token, made)


def _make_bounded(token: str, name: str, module: str, default: list[Any]) -> Any:
    """A type variable with a bound."""
    made = known(token)
    if made is None:
        statement = f"def f[{name}: late(){' = default[0]' if default else ''}](): ..."
        made = _execute(token, statement, __name__=module, default=default)["f"].__type_params__[0]
    return keep(token, made)
