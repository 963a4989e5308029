"""Random numbers: never the same in two workers by accident, always the same for an item where that is asked for."""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import tasks

from parmap import parallel, per_worker

if TYPE_CHECKING:
    from conftest import Script

pytestmark = pytest.mark.usefixtures("pools_stay")

SEEDED = [
    {"backend": "serial"},
    {"workers": 1},
    {"workers": 3, "chunksize": 1},
    {"workers": 2, "chunksize": 7},
    {"workers": 2, "start_method": "spawn"},
]


def test_workers_draw_different_numbers(processes: dict[str, Any]):
    """Forked workers don't share the state that they were forked with."""
    drawn = parallel(tasks.draw, preload=("random",), **processes).map([0.0] * 40, chunksize=1)

    assert len({number for number, _ in drawn}) == 40


def test_workers_draw_different_numbers_with_numpy(processes: dict[str, Any]):
    """Nor numpy's."""
    pytest.importorskip("numpy")
    drawn = parallel(tasks.draw_with_numpy, preload=("numpy",), **processes).map([0.0] * 40, chunksize=1)

    assert len(set(drawn)) == 40


def test_workers_draw_different_numbers_with_torch(script: Script):
    """Nor PyTorch's, which the template imports if the program does."""
    script.write(
        """
        import random, sys

        sys.modules["torch.random"] = sys.modules[__name__]
        source = random.Random()
        seed = source.seed
        rand = source.random
        """,
        "torch.py",
    )
    done = script.run("""
        from parmap import parallel

        def draw(_):
            import torch
            return torch.rand()

        print(len(set(parallel(draw, workers=2, preload=("torch",)).map(range(40), chunksize=1))))
    """)

    assert (done.stdout, done.stderr) == ("40\n", "")


def _numbers(options: dict[str, Any], seed: int = 7) -> list[float]:
    return [number for number, _ in parallel(tasks.draw, seed=seed, **options).map(range(30))]


@pytest.mark.parametrize("options", SEEDED[1:], ids=str)
def test_a_seed_fixes_each_item(options: dict[str, Any]):
    """The number of an item depends on the seed and on the item: not on workers, chunks or backend."""
    numbers = _numbers(options)

    assert numbers == _numbers(SEEDED[0])
    assert len(set(numbers)) == 30


def test_another_seed_gives_other_numbers():
    """Seeds matter, neighbours too."""
    assert not set(_numbers({"workers": 2}, 7)) & set(_numbers({"workers": 2}, 8))


@pytest.mark.parametrize("options", SEEDED[1:], ids=str)
def test_a_seed_fixes_numpy(options: dict[str, Any]):
    """The legacy global state of numpy, too, where it is loaded."""
    pytest.importorskip("numpy")
    options = {"preload": ("numpy",), **options}
    expected = parallel(tasks.draw_with_numpy, seed=3, backend="serial").map(range(20))

    assert parallel(tasks.draw_with_numpy, seed=3, **options).map(range(20)) == expected


@pytest.mark.parametrize("options", SEEDED[1:], ids=str)
def test_a_seed_fixes_new_generators(options: dict[str, Any]):
    """What an item makes without a seed is its own, and a function without a seed has others as ever."""
    pytest.importorskip("numpy")

    def draw(_: int) -> tuple[float, ...]:
        import numpy as np

        sequences = np.random.SeedSequence(), np.random.SeedSequence().spawn(2)[1]
        made = [np.random.default_rng(), np.random.default_rng(), *map(np.random.default_rng, sequences)]
        return tuple(generator.random() for generator in made)

    expected = parallel(draw, seed=3, backend="serial").map(range(20))

    assert len({number for each in expected for number in each}) == 80
    assert parallel(draw, seed=3, **options).map(range(20)) == expected
    assert parallel(draw, **options).map([0]) != parallel(draw, **options).map([0])


def test_a_seed_fixes_streams(processes: dict[str, Any]):
    """Streams count their items like `map`."""
    stream = parallel(tasks.draw, seed=7, **processes).imap(range(30))

    assert [number for number, _ in stream] == _numbers(SEEDED[0])


def test_a_retry_draws_the_same(processes: dict[str, Any], tmp_path: Any):
    """A second attempt sees what the first one saw."""
    seen = tmp_path / "seen"

    def flaky(_: int) -> float:
        number = random.random()
        if not seen.exists():
            seen.write_text(repr(number))
            raise OSError
        return number

    assert parallel(flaky, seed=7, retries=1, **processes).map([0]) == [float(seen.read_text())]


@pytest.mark.parametrize("options", SEEDED, ids=str)
def test_a_seeded_call_within_an_item(options: dict[str, Any]):
    """The item goes on with its own numbers, wherever numpy is imported first."""
    pytest.importorskip("numpy")
    inner = parallel(tasks.draw, seed=2)

    def draw(calls: bool) -> tuple[float, ...]:
        if calls:
            inner.map(range(3))
        return tasks.draw_in_each_way()

    expected = parallel(draw, seed=1, backend="serial").map([False] * 4)

    assert len({number for each in expected for number in each}) == 12  # nor do `random` and numpy draw the same
    assert parallel(draw, seed=1, **options).map([True] * 4) == expected


@pytest.mark.parametrize("options", SEEDED, ids=str)
def test_what_a_worker_makes_for_itself_is_no_part_of_an_item(options: dict[str, Any]):
    """An item draws the same numbers whether or not it is the first of its worker, even if the factory sets a seed."""
    pytest.importorskip("numpy")

    @per_worker
    def model() -> bool:
        import numpy as np

        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - as models do that are to be the same each time
        return True

    def draw(makes: bool) -> tuple[float, ...]:
        return tasks.draw_in_each_way() if not makes or model() else ()

    expected = parallel(draw, seed=1, backend="serial").map([False] * 9)

    assert parallel(draw, seed=1, **options).map([True] * 9) == expected


@pytest.mark.parametrize("imports", [(), ("numpy",)], ids=str)
def test_a_seed_ends_with_its_call(imports: tuple[str, ...]):
    """What has no seed draws other numbers each time, also behind a seeded call in the same worker."""
    pytest.importorskip("numpy")
    seeded = parallel(lambda _: tasks.draw_in_each_way(), workers=1, seed=1, preload=imports)
    free = parallel(lambda _: tasks.draw_in_each_way(), workers=1, preload=imports)

    drawn = []
    for _ in range(2):
        seeded.map([0])
        drawn += free.map([0])[0]
        free.shutdown()

    assert len(set(drawn)) == 6


@pytest.mark.filterwarnings("ignore:seed= and deadline=")
@pytest.mark.parametrize("options", SEEDED, ids=str)
def test_tasks_of_submit_go_on_drawing(options: dict[str, Any]):
    """They have no number to be seeded by: each draws on, one by one or many at a time, and none draws what another did."""
    draw = parallel(tasks.draw, seed=7, **options)
    drawn = [draw.submit(0.0).result() for _ in range(6)]
    drawn += [future.result() for future in [draw.submit(0.0) for _ in range(20)]]

    assert len({number for number, _ in drawn}) == 26


def test_submit_says_that_nothing_is_seeded():
    """It is the line that calls."""
    draw = parallel(tasks.draw, workers=1, seed=1)
    with pytest.warns(RuntimeWarning, match="number to be seeded by") as told:
        draw.submit(0.0).result(60)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw.options(seed=None).submit(0.0).result(60)


def test_serial_leaves_the_callers_state_alone():
    """The user's own generator goes on as if nothing had been drawn."""
    random.seed(1)
    expected = random.random()
    random.seed(1)
    _numbers({"backend": "serial"})

    assert random.random() == expected


def test_threads_refuse_a_seed():
    """Threads share the global state: a seed would promise what can't be."""
    with pytest.raises(ValueError, match="threads"):
        parallel(tasks.draw, seed=1, backend="threads")


def test_tracebacks_show_no_locals(processes: dict[str, Any]):
    """By default: they may be secret."""
    with pytest.raises(ValueError, match="x") as caught:
        parallel(tasks.fail_with_secret, **processes).map(["x"])

    assert "password = " not in _told(caught.value)


def test_tracebacks_with_locals(processes: dict[str, Any]):
    """On request, each shortened; those of causes as well."""
    with pytest.raises(ValueError, match="0") as caught:
        parallel(tasks.fail_with_secret, traceback_locals=True, **processes).map([[0] * 10_000])

    told = _told(caught.value)
    assert told.count("password = 'hunter2'") == 2
    assert "data = [0, 0, 0, 0, ...]" in told


def _told(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
