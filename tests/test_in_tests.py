"""Decorated functions in the tests of those who use them: collected, patched, run serially."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import parmap
from parmap import parallel

if TYPE_CHECKING:
    from conftest import Script

HERE = sys.modules[__name__]


@parallel(workers=2)
def double(x: int) -> int:
    return 2 * x


@parallel(workers=2)
def pid(_: Any = None) -> int:
    return os.getpid()


def doubled(items: list[int]) -> list[int]:
    """What is under test: code that uses a decorated function by its name."""
    return [*double.map(items), double(items[0])]


class Model:
    @parallel(workers=2)
    def score(self, x: int) -> int:
        return 10 * x


def test_monkeypatch_the_function(monkeypatch: pytest.MonkeyPatch):
    """Another function stands in for the decorated one, decorated itself or not."""
    monkeypatch.setattr(HERE, "double", parallel(lambda x: -x, backend="serial"))

    assert doubled([1, 2]) == [-1, -2, -1]


def test_monkeypatch_a_method_of_it(monkeypatch: pytest.MonkeyPatch):
    """Only `map` is replaced; the call is the plain function's."""
    monkeypatch.setattr(double, "map", lambda items: ["mapped", *items])

    assert doubled([1, 2]) == ["mapped", 1, 2, 2]


def test_nothing_is_left_of_a_patch():
    """After the patch, everything is as before."""
    before = dict(vars(double))
    with mock.patch.object(double, "map", return_value=[]), pytest.MonkeyPatch.context() as patch:
        patch.setattr(double, "submit", None)

    assert vars(double) == before
    assert doubled([1]) == [2, 2]


def test_mock():
    """A mock stands in for the function."""
    with mock.patch(f"{__name__}.double") as mocked:
        mocked.map.return_value = [7]
        mocked.return_value = 8

        assert doubled([1, 2]) == [7, 8]
    mocked.map.assert_called_once_with([1, 2])
    mocked.assert_called_once_with(1)


def test_autospec():
    """A mock made after the function has its methods, with their parameters, and no others."""
    with mock.patch.object(HERE, "double", autospec=True) as mocked:
        mocked.map.return_value = [7]
        mocked.return_value = 8

        assert doubled([1, 2]) == [7, 8]
        with pytest.raises(TypeError, match="iterable"):
            double.map()  # type: ignore[call-overload]
        with pytest.raises(AttributeError, match="maps"):
            _ = double.maps  # type: ignore[attr-defined]


def test_a_method_is_patched():
    """So is a decorated method, on its class."""
    with mock.patch.object(Model, "score", autospec=True) as mocked:
        mocked.map.return_value = [3]

        assert Model().score.map([1]) == [3]
    assert Model().score.map([1]) == [10]


def test_a_patch_is_seen_with_the_serial_backend(monkeypatch: pytest.MonkeyPatch):
    """Serially, tasks see what the test has patched."""
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with parmap.override(backend="serial"):
        assert pid.map([1, 2]) == [-1, -1]


def test_serial_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    """`PARMAP_BACKEND=serial` has everything run here, in the order of the items."""
    monkeypatch.setenv("PARMAP_BACKEND", "serial")
    seen: list[int] = []

    @parallel(workers=4, timeout=5, preload=("json",))
    def note(x: int) -> int:
        seen.append(x)
        return os.getpid()

    assert set(note.map(range(20))) == {os.getpid()}
    assert list(note.imap_unordered(range(20, 40))) == [os.getpid()] * 20
    assert [note.submit(x).result() for x in (40, 41)] == [os.getpid()] * 2
    assert seen == list(range(42))


def test_collected_by_pytest(script: Script):
    """A test that is decorated is collected, with its fixtures and marks; so are the examples of decorated functions."""
    run = script.run(
        '''
        import pytest
        import parmap

        @parmap.parallel(workers=2)
        def triple(x):
            """Three times *x*.

            >>> triple.map([1, 2])
            [3, 6]
            >>> triple(3)
            'an example that fails'
            """
            return 3 * x

        @pytest.mark.parametrize("x", [1, 2])
        @parmap.parallel(workers=2)
        def test_decorated(x, tmp_path):
            assert tmp_path.exists()
            assert triple(x) == 3 * x

        @parmap.parallel
        def test_that_fails():
            assert triple(1) == 4

        @pytest.fixture
        @parmap.parallel
        def six():
            return triple(2)

        def test_fixture(six):
            assert six == 6
        ''',
        args=("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--doctest-modules"),
        timeout=100,
    )

    assert "2 failed, 3 passed" in run.stdout, run.stdout
    assert "assert 3 == 4" in run.stdout
    assert "an example that fails" in run.stdout


def test_outcomes_of_tasks(script: Script):
    """A task skips the test that runs it, or makes it fail, or be expected to."""
    run = script.run(
        """
        import unittest
        import pytest
        import parmap

        @parmap.parallel(workers=2)
        def end(how):
            how("why")

        def skip(why):
            raise unittest.SkipTest(why)

        @pytest.mark.parametrize("how", [pytest.skip, skip, pytest.fail, pytest.xfail])
        @pytest.mark.parametrize("backend", ["processes", "threads", "serial"])
        def test_end(how, backend):
            with parmap.override(backend=backend):
                end.map([how])

        def test_expected():
            with pytest.raises(pytest.fail.Exception, match="why"):
                end.map([pytest.fail])
        """,
        args=("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"),
        timeout=100,
    )

    assert "3 failed, 1 passed, 6 skipped, 3 xfailed" in run.stdout, run.stdout
