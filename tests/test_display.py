"""What the public objects say of themselves, as text and in notebooks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import tasks

import parmap
from conftest import wait_until
from parmap import parallel

if TYPE_CHECKING:
    from pathlib import Path


def shown(thing: Any) -> str:
    """The text of what a notebook shows."""
    html = thing._repr_html_()
    for tag in re.findall(r"</?(\w+)", html):
        assert html.count(f"<{tag}") == html.count(f"</{tag}>")
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def area(width: list[float] | None, height: float = 1.0) -> float:
    """The area of a <rectangle>.

    More is not shown.
    """
    return len(width or ()) * height


def test_function():
    """A function shows its head, the first line of its description, and on what it runs."""
    text = shown(parallel(area, workers=3, retries=2))

    assert text.startswith("parmap.ParallelFunction : test_display.area(width: &#x27;list[float] | None&#x27;, height")
    assert "The area of a &lt;rectangle&gt;." in text
    assert "More" not in text
    assert "workers 3 backend processes options workers=3, retries=2" in text


def secretive() -> None:
    pass


secretive.__signature__ = "?"


def test_function_that_does_not_tell_its_parameters():
    """Not every callable knows them."""
    assert shown(parallel(secretive, workers=2)).startswith("parmap.ParallelFunction : test_display.secretive(...) ")


def test_function_under_an_override():
    """What holds now is shown, not what was written."""
    with parmap.override(backend="serial"):
        assert "backend serial" in shown(parallel(area))


def test_future(tmp_path: Path):
    """A future shows the function and its state."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    f = parallel(tasks.touch_and_wait_for, workers=1)
    running = f.submit(str(begun), str(go))
    wait_until(begun.exists)
    waiting = f.submit(str(begun), str(go))

    assert shown(running) == "parmap.Future : touch_and_wait_for state running"
    assert shown(waiting) == "parmap.Future : touch_and_wait_for state pending"
    waiting.cancel()
    assert shown(waiting) == "parmap.Future : touch_and_wait_for state cancelled"
    go.touch()
    running.result(30)
    assert shown(running) == "parmap.Future : touch_and_wait_for state finished"


def test_future_that_failed(backend: dict[str, Any]):
    """A future whose task failed says so, and with what."""
    future = parallel(tasks.fail, **backend).submit("<x>")
    future.exception(30)

    assert repr(future) == "<parmap.Future of fail: failed>"
    assert shown(future).startswith("parmap.Future : fail state failed error ValueError: &lt;x&gt;")


def test_async_result(backend: dict[str, Any]):
    """So does a result."""
    result = parallel(tasks.square, **backend).submit(3).async_result
    result.get(30)

    assert repr(result) == "<parmap.AsyncResult of <parmap.Future of square: finished>>"
    assert shown(result) == "parmap.AsyncResult : &lt;parmap.Future of square: finished&gt; ready True"


def test_stream(backend: dict[str, Any]):
    """A stream shows how many results were taken, and whether there may be more."""
    stream = parallel(tasks.square, **backend).imap(range(3))
    next(stream)

    assert repr(stream) == "<parmap.ResultStream: 1 results handed out, open>"
    assert shown(stream) == "parmap.ResultStream results handed out 1 state open"
    list(stream)
    assert shown(stream) == "parmap.ResultStream results handed out 3 state closed"


@pytest.mark.parametrize("name", ["Pool", "Executor"])
def test_drop_ins(name: str):
    """A pool and an executor show their workers, and whether they take work."""
    with getattr(parmap, name)(2) as thing:
        assert repr(thing) == f"<parmap.{name}: 2 workers, backend 'processes', open>"
        assert shown(thing) == f"parmap.{name} workers 2 backend processes state open"

    assert shown(thing) == f"parmap.{name} workers 2 backend processes state closed"
