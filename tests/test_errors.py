"""The error tree: bases, messages, pickling."""

from __future__ import annotations

import builtins
import concurrent.futures
import copy
import pickle
from signal import SIGKILL

import pytest

from parmap import errors

EXAMPLES = [
    errors.ParmapError("something happened"),
    errors.TaskTimeoutError("too long", item=3, timeout=1.5, stack='File "a.py", line 1'),
    errors.WorkerDiedError("died", item=7, exitcode=3, signal=11, pid=42, stack='File "b.py", line 2'),
    errors.SerializationError("a lock", item=0),
    errors.RemoteError("no such row", type_name="db.Missing", traceback="Traceback ..."),
    errors.PoolClosedError("the pool is closed"),
    errors.JournalError("damaged"),
    errors.BackendUnavailableError("needs distributed", extra="dask"),
]
NAMES = [type(error).__name__ for error in EXAMPLES]


@pytest.mark.parametrize("error", EXAMPLES, ids=NAMES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle(error: errors.ParmapError, protocol: int):
    """An error comes back with its text, its arguments, its attributes and its notes."""
    error = copy.copy(error)
    error.__notes__ = ["in item 3"]
    error.added = {"later": True}  # type: ignore[attr-defined]

    back = pickle.loads(pickle.dumps(error, protocol))

    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert back.args == error.args
    assert str(back) == str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=NAMES)
def test_errors_copy(error: errors.ParmapError):
    """A copy of an error has the same attributes."""
    assert vars(copy.deepcopy(error)) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=NAMES)
def test_errors_are_made_of_their_args(error: errors.ParmapError):
    """Queues that keep results as JSON, as Celery does, make an error anew from its class and its arguments."""
    again = type(error)(*error.args)

    assert (vars(again), again.args, str(again)) == (vars(error), error.args, str(error))


def test_every_class_is_tested():
    """No error is missing from the examples here."""
    assert sorted(NAMES) == errors.__all__


def test_arguments_are_kept():
    """All arguments of an error are in its ``args``."""
    error = errors.WorkerDiedError("died", item=7, exitcode=3, pid=42)

    assert error.args == ("died", 7, 3, None, 42, "")


@pytest.mark.parametrize(
    ("cls", "bases"),
    [
        (errors.TaskTimeoutError, [builtins.TimeoutError]),
        (errors.WorkerDiedError, [concurrent.futures.BrokenExecutor, RuntimeError]),
        (errors.SerializationError, [pickle.PicklingError]),
        (errors.RemoteError, []),
        (errors.PoolClosedError, [RuntimeError, ValueError]),
        (errors.BackendUnavailableError, [ImportError]),
    ],
)
def test_bases(cls: type[Exception], bases: list[type[Exception]]):
    """An error is caught by those who know the standard library's errors only."""
    for base in [errors.ParmapError, *bases]:
        assert issubclass(cls, base)


def test_module():
    """The classes say that they come from the public module."""
    assert {type(error).__module__ for error in EXAMPLES} == {"parmap.errors"}


def test_died_names_item_worker_and_cause():
    """The text of a death has the item, the process and its exit code."""
    assert str(errors.WorkerDiedError("died", item=7, pid=42, exitcode=3)) == "died (item 7, pid 42, exit code 3)"


def test_died_names_signal():
    """A signal is shown by its name, and SIGKILL with its usual reason."""
    text = str(errors.WorkerDiedError("died", signal=SIGKILL))

    assert "signal SIGKILL" in text
    assert "memory" in text


def test_died_shows_nameless_signal():
    """A signal without a name is shown by its number."""
    assert str(errors.WorkerDiedError("died", signal=40)) == "died (signal 40)"


def test_died_shows_stack():
    """The stack of the crash ends the text."""
    assert str(errors.WorkerDiedError("died", stack='File "b.py"\n')) == 'died\nStack of the worker:\nFile "b.py"'


def test_timeout_names_item_and_limit():
    """The text of a timeout has the item, the limit, and where the task was stuck."""
    text = str(errors.TaskTimeoutError("too long", item=3, timeout=1.5, stack='File "a.py"'))

    assert text == 'too long (item 3, limit 1.5 s)\nWhere the task was stuck:\nFile "a.py"'


def test_timeout_is_no_system_error():
    """What the base class of timeouts makes of several arguments does not show."""
    error = errors.TaskTimeoutError("too long", item=3, timeout=1.5)

    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_unavailable_says_what_to_install():
    """The text of a missing backend has the command that installs it."""
    error = errors.BackendUnavailableError("backend 'dask' needs distributed", extra="dask")

    assert str(error).endswith('pip install "parmap-decorators[dask]"')
    assert error.msg == "backend 'dask' needs distributed"


def test_remote_names_the_class():
    """A stand-in shows the class of the original."""
    assert str(errors.RemoteError("no such row", type_name="db.Missing")) == "db.Missing: no such row"


def test_attributes_may_be_added_later():
    """The item, when it is known only later, is in the text."""
    error = errors.WorkerDiedError("died")
    error.item = 5

    assert str(error) == "died (item 5)"
