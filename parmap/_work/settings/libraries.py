"""Settings of libraries: options, styles and limits that hold for all that a program does, and so for its tasks.

A program sets them at its top. A worker, which imports the library afresh, would have the usual ones, and nobody would
notice but by the results.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from parmap._travel.failure import pass_on
from parmap._travel.payload import dump_plainly, dump_whole

Settings = dict[str, Any]


class Way(NamedTuple):
    """How a library is asked for its settings, and how one is put."""

    look: Callable[[], Any]
    """What is equal as long as nobody changes a setting: it is asked for each task of `submit`, and so is quick."""
    tell: Callable[[], Settings]
    put: Callable[[str, Any], object]
    shows_itself: bool = False
    """Whether what `look` returns changes with the settings."""
    is_slow: bool = False
    """Whether it is asked for batches only."""


def _one(get: Callable[[], Any], put: Callable[[Any], object]) -> Way:
    """A way to a single setting."""
    return Way(get, lambda: {"": get()}, lambda _, value: put(value))


def _many(get: Callable[[], Settings], put: Callable[..., object], look: Callable[[], Any] | None = None) -> Way:
    """A way to settings that are given by name."""
    return Way(look or get, get, lambda name, value: put(**{name: value}))


def _attributes(owner: Any, *names: str) -> Way:
    """A way to settings that are attributes, of a module or of an object in it."""
    return Way(
        partial(attrgetter(*names), owner),
        lambda: {name: getattr(owner, name) for name in names},
        partial(setattr, owner),
    )


def _pandas(pandas: Any) -> Way:
    tree = vars(pandas.options)["d"]

    def leaves(branch: Settings, path: str) -> Iterator[tuple[str, Any]]:
        for name, value in branch.items():
            if type(value) is dict:
                yield from leaves(value, f"{path}{name}.")
            else:
                yield path + name, value

    return Way(lambda: tree, lambda: dict(leaves(tree, "")), pandas.set_option, shows_itself=True)


def _matplotlib(matplotlib: Any) -> Way:
    # As a dict: each would be looked up and checked again, and warn if it is going to be removed.
    params = matplotlib.rcParams
    screen = {"backend", "backend_fallback", "interactive", "toolbar", "figure.hooks"}  # which a worker has none of

    def styles() -> Settings:
        return {name: value for name, value in dict.items(params) if name not in screen}

    return Way(lambda: [*dict.values(params)], styles, partial(dict.__setitem__, params), shows_itself=True)


def _numpy(numpy: Any) -> Way:
    printing = getattr(sys.modules.get("numpy._core.printoptions"), "format_options", None)
    return _many(numpy.get_printoptions, numpy.set_printoptions, printing and printing.get)


LIBRARIES: dict[str, Callable[[Any], Way]] = {
    "_locale": lambda module: _one(*[partial(module.setlocale, module.LC_ALL)] * 2)._replace(is_slow=True),
    "csv": lambda module: _one(module.field_size_limit, module.field_size_limit),
    "numpy": _numpy,
    "pandas": _pandas,
    "matplotlib": _matplotlib,
    "sklearn": lambda module: _many(module.get_config, module.set_config),
    "xarray": lambda module: _many(lambda: dict(module.get_options()), module.set_options),
    "mpmath": lambda module: _attributes(module.mp, "prec"),
    "gmpy2": lambda module: _one(
        lambda: module.get_context().precision, lambda value: setattr(module.get_context(), "precision", value)
    ),
    "scipy.special": lambda module: _many(module.geterr, module.seterr),
    "PIL.Image": lambda module: _attributes(module, "MAX_IMAGE_PIXELS"),
    "PIL.ImageFile": lambda module: _attributes(module, "LOAD_TRUNCATED_IMAGES"),
    "plotly.io": lambda module: _attributes(module.templates, "default"),
    "ssl": lambda module: _attributes(module, "_create_default_https_context"),  # as many a script replaces it
    "torch": lambda module: _one(module.get_default_dtype, module.set_default_dtype),
    "jax": lambda module: Way(
        partial(attrgetter("jax_enable_x64"), module.config),
        lambda: {"jax_enable_x64": module.config.jax_enable_x64},
        module.config.update,
    ),
}
"""The libraries, by the module that has to be there."""

_modules = sys.modules
_ways: dict[str, Way] = {}


def _known() -> dict[str, Way]:
    """The libraries that are loaded here."""
    for name in [name for name in LIBRARIES if name not in _ways and name in _modules]:
        try:
            way = LIBRARIES[name](_modules[name])
            way.look()  # now, rather than in a call: it may be a stand-in of a test's
            way.tell()
            _ways[name] = way
        except Exception as error:  # noqa: BLE001 - another thread is just importing it; or it is another library
            pass_on(error)
    return _ways.copy()


class State:
    """The settings of all libraries at some moment."""

    __slots__ = "_count", "_looks", "_slow", "modules"

    def __init__(self) -> None:
        """Take it."""
        self._count = len(_modules)
        ways = _known().values()
        self._looks = [(way.look, _seen(way)) for way in ways if not way.is_slow]
        self._slow = [(way.look, _seen(way)) for way in ways if way.is_slow]
        self.modules: int = -1 if self._looks else self._count
        """As long as there are so many, there are no such libraries."""

    def holds(self, *, thoroughly: bool = False) -> bool:
        """Whether all is still so, and no other of the libraries was imported. Asked for each task of `submit`.

        What is slow is looked at if this is to be told *thoroughly*, as for a batch.
        """
        if len(_modules) != self._count:
            self._count = len(_modules)
            if len(_known()) != len(self._looks) + len(self._slow):
                return False
            self.modules = -1 if self._looks else self._count
        try:
            for look, seen in [*self._looks, *self._slow] if thoroughly else self._looks:
                now = look()
                if now is not seen and now != seen:
                    return False
        except Exception as error:  # noqa: BLE001 - an array compares in its own way
            pass_on(error)
            return False
        return True


def _seen(way: Way) -> Any:
    return _copied(way.look()) if way.shows_itself else way.look()


def _copied(looks: Any) -> Any:
    if type(looks) is dict:
        return {name: _copied(value) for name, value in looks.items()}
    return [_copied(value) for value in looks] if type(looks) is list else looks


def tell() -> dict[str, bytes]:
    """The settings of the libraries that are loaded here, to be sent."""
    return {name: _pickled(way.tell()) for name, way in _known().items()}


def state_of(name: str) -> Any:
    """What is equal as long as nobody changes a setting of that library; `None` if it is not loaded."""
    way = _known().get(name)
    return way and _seen(way)


def put(name: str, told: bytes) -> None:
    """Put the settings of a library that is loaded here, as they were told: those that it knows."""
    way = _known().get(name)
    if way is None:
        return
    here = way.tell()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that will be removed, the program was warned
        for setting, value in pickle.loads(told).items():
            try:
                if setting in here and (type(value) is not type(here[setting]) or value != here[setting]):
                    way.put(setting, value)
            except Exception as error:  # noqa: BLE001 - another release of the library, or another system
                pass_on(error)


def _pickled(settings: Settings) -> bytes:
    """Those that can travel: among them may be functions of the user's."""
    if (packed := dump_plainly(settings)) is not None and not packed.buffers:
        return packed.stream
    found: Settings = {}
    for name, value in settings.items():
        try:
            dump_whole(value)
        except Exception as error:  # noqa: BLE001 - the user's object
            pass_on(error)
        else:
            found[name] = value
    return dump_whole(found)
