"""Libraries that take a pool, a `map` or an executor, or that give something to map over; each is used for real.

That a library works means here: the same result as without parmap, by work that is done in workers.
"""

from __future__ import annotations

import io
import os
import re
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pytest

import parmap
from parmap import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script


pytestmark = pytest.mark.usefixtures("pools_stay")  # workers import large libraries once


def _leave(here: int) -> None:
    assert os.getpid() != here


@pytest.fixture
def away() -> Callable[[], None]:
    """Something to call that fails in the process of the tests: what calls it is to run in a worker."""
    return partial(_leave, os.getpid())


# --- those that take a map or a pool --------------------------------------------------------------------------------


@pytest.fixture(params=["Pool", "Executor", "function"])
def a_map(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Something like the builtin `map`, of each kind."""
    if request.param == "Pool":
        with parmap.Pool(2) as pool:
            yield pool.map
    elif request.param == "Executor":
        with parmap.Executor(2) as executor:
            yield executor.map
    else:
        yield lambda function, items: parallel(function, workers=2).map(items)


def test_scipy_differential_evolution(a_map: Callable[..., Any], away: Any):
    """SciPy's `workers=` takes a `map`; the result is that of one worker."""
    optimize = pytest.importorskip("scipy.optimize")
    settings = {"bounds": [(-5.0, 5.0)] * 3, "updating": "deferred", "maxiter": 8, "rng": 1, "polish": False}

    def elsewhere(x: Any) -> Any:
        away()
        return optimize.rosen(x)

    there = optimize.differential_evolution(elsewhere, workers=a_map, **settings)
    here = optimize.differential_evolution(optimize.rosen, workers=map, **settings)

    assert (there.x == here.x).all()
    assert there.nfev == here.nfev


def test_emcee(away: Any):
    """emcee's `pool=` takes a pool; the chain is that of no pool."""  # noqa: D403 - its name
    numpy = pytest.importorskip("numpy")
    emcee = pytest.importorskip("emcee")

    def run(log_probability: Callable[[Any], float], pool: Any) -> Any:
        random = numpy.random.RandomState(1)
        start = emcee.State(random.normal(size=(8, 2)), random_state=random.get_state())
        sampler = emcee.EnsembleSampler(8, 2, log_probability, pool=pool)
        sampler.run_mcmc(start, 10)
        return sampler.get_chain()

    def elsewhere(x: Any) -> Any:
        away()
        return -0.5 * (x**2).sum()

    with parmap.Pool(2) as pool:
        there = run(elsewhere, pool)

    assert (there == run(lambda x: -0.5 * (x**2).sum(), None)).all()


def test_tqdm():
    """A bar around a stream counts the results as they come."""
    tqdm = pytest.importorskip("tqdm")
    bar = tqdm.tqdm(parallel(lambda x: 2 * x, workers=2).imap(range(50)), total=50, file=io.StringIO())

    assert list(bar) == [2 * x for x in range(50)]
    assert bar.n == 50


# --- those that give something to map over --------------------------------------------------------------------------


def test_pandas_groups(away: Any):
    """The groups of a `groupby` are items of `starmap`; frames travel both ways."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"key": list("abcab") * 20, "value": range(100)})

    def deviations(key: str, group: Any) -> Any:
        away()
        return group.assign(key=key, value=group["value"] - group["value"].mean())

    there = pandas.concat(parallel(deviations, workers=2).starmap(frame.groupby("key"))).sort_index()
    here = frame.assign(value=frame["value"] - frame.groupby("key")["value"].transform("mean"))

    pandas.testing.assert_frame_equal(there, here)


def test_pandas_frame_in_a_closure():
    """A frame that a function captures is seen as it is at the call."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"value": [1, 2, 3]})
    f = parallel(lambda row: int(frame["value"][row]), workers=2)

    assert f.map(range(3)) == [1, 2, 3]
    frame.loc[0, "value"] = 10
    assert f.map(range(3)) == [10, 2, 3]


def test_pandas_query():
    """A query that names a global behind an @ finds it, as it is at the moment of the call."""
    pandas = pytest.importorskip("pandas")
    variables: dict[str, Any] = {"frame": pandas.DataFrame({"a": range(6)}), "limit": 3}
    exec("def count(_): return len(frame.query('a > @limit'))", variables)
    count = parallel(variables["count"], workers=1)

    assert count.map([0]) == [2]
    variables["limit"] = 1
    assert count.map([0]) == [4]


def test_tables_of_a_query():
    """SQL that names globals of the script where its tables stand, as DuckDB looks them up, finds them."""
    variables: dict[str, Any] = {"re": re, "rows": [1, 2, 3], "more": [4], "secret": threading.Lock()}
    code = r"""
def sizes(column):
    "Select what is wanted from secret; secret can't travel."
    query = f"Select {column} FROM rows left join\n more"
    return [len(globals()[name]) for name in re.findall(r"(?i)(?:from|join)\s+(\w+)", query)]
"""
    exec(code, variables)
    sizes = parallel(variables["sizes"], workers=1)

    assert sizes.map(["a"]) == [[3, 1]]
    variables["more"].append(5)
    assert sizes.map(["a"]) == [[3, 2]]


def test_pydantic_model_with_a_parallel_method():
    """A model has parallel methods if it is told that they are no fields, as documented."""
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        model_config = pydantic.ConfigDict(ignored_types=(parmap.ParallelFunction,))
        by: int

        @parallel(workers=2)
        def times(self, x: int) -> int:
            return self.by * x

        @classmethod
        @parallel(workers=2)
        def named(cls, x: int) -> str:
            return cls.__name__ * x

    assert Model(by=3).times.map([1, 2]) == [3, 6]
    assert Model.named.map([1, 2]) == ["Model", "ModelModel"]


def test_pydantic_finds_the_types_of_a_script(script: Script) -> None:
    """What pydantic makes of a dataclass in the program, it makes in a task, also if its annotations are texts."""
    pytest.importorskip("pydantic")
    done = script.run(
        """
from __future__ import annotations

import dataclasses
from parmap import parallel
from pydantic import TypeAdapter

@dataclasses.dataclass
class Item:
    price: float
@dataclasses.dataclass
class Order:
    items: list[Item]
    next: Order | None = None

@parallel(workers=1)
def read(text: str) -> Order:
    return TypeAdapter(Order).validate_json(text)

text = '{"items": [{"price": 1}], "next": {"items": []}}'
assert read.map([text]) == [read.submit(text).result()] == [read(text)] == [Order([Item(1.0)], Order([]))]
"""
    )

    assert done.stderr == ""


@pytest.mark.parametrize("first", ["", "from __future__ import annotations"], ids=["types", "texts"])
def test_pydantic_models_of_a_script(script: Script, first: str) -> None:
    """A model that has another one more than once, or that is a generic one of another, is an argument and a result."""
    pytest.importorskip("pydantic")
    done = script.run(f"""
{first}
import typing
from parmap import parallel
from pydantic import BaseModel

T = typing.TypeVar("T")

class Page(BaseModel, typing.Generic[T]):
    first: T
    others: list[T] = []
class Point(BaseModel):
    x: int
class Line(BaseModel):
    start: Point
    end: Point
    next: typing.Optional["Line"] = None

@parallel(workers=2)
def turned(line):
    return Line(start=line.end, end=line.start, next=line)
@parallel(workers=2)
def reverse(page):
    return page.model_copy(update=dict(first=page.others[-1], others=[*page.others[:-1], page.first]))

points = [Point(x=x) for x in range(3)]
lines = [Line(start=points[0], end=points[2]), Line(start=points[1], end=points[1])]
assert turned.map(lines) == [turned.submit(line).result() for line in lines] == [turned(line) for line in lines]
pages = [Page[Point](first=points[0], others=points), Page[Line](first=lines[0], others=lines)]
assert reverse.map(pages) == [reverse(page) for page in pages]
assert all(type(mine) is type(page) for mine, page in zip(reverse.map(pages), pages))
""")

    assert done.stderr == ""


def test_pydantic_generic_models_of_a_script(script: Script) -> None:
    """A generic model of a type is one class: in a task, where it is named there, and when it comes home."""
    pytest.importorskip("pydantic")
    done = script.run("""
import typing
from parmap import parallel
from pydantic import BaseModel

T = typing.TypeVar("T")

class Page(BaseModel, typing.Generic[T]):
    items: list[T] = []
class User(BaseModel):
    name: str = "ada"
    friends: typing.Optional[Page["User"]] = None
class Both(Page[int]):
    other: Page[str] = Page[str]()

def look(page):
    made = Page[User](items=[User()]), Page[list[int]](items=[[1]]), Both()
    return isinstance(page, Page[int]), isinstance(page, Page[str]), isinstance(page, Page), page, *made

looked = parallel(workers=2)(look)
pages = [Page[int](items=[1]), Page[str](items=["a"]), Page(items=[3]), Both(), Both().other, Page[User](items=[User()])]
for found, page in zip([*looked.map(pages), *map(looked, pages)], 2 * pages):
    assert found == look(page) and [*map(type, found)] == [*map(type, look(page))], (found, look(page))
    assert isinstance(looked.submit(page).result()[4], Page[User])
""")

    assert done.stderr == ""


def test_pydantic_checked_call():
    """A function of a script whose arguments pydantic checks does so in a worker, whatever else the script has."""
    pydantic = pytest.importorskip("pydantic")
    variables: dict[str, Any] = {"pydantic": pydantic, "open": io.BufferedReader(io.BytesIO())}
    exec("@pydantic.validate_call\ndef double(x: int): return 2 * x", variables)
    double = parallel(variables["double"], workers=1)

    assert double.map(["2", 3]) == [4, 6]
    with pytest.raises(pydantic.ValidationError):
        double.map(["a"])


def test_numpy_rows(away: Any):
    """An array is mapped over by its rows, and arrays come back."""
    numpy = pytest.importorskip("numpy")
    rows = numpy.random.default_rng(1).normal(size=(6, 100_000))

    def order(row: Any) -> Any:
        away()
        return numpy.sort(row)

    assert (parallel(order, workers=2).map(rows) == numpy.sort(rows)).all()


def test_numpy_functions_of_functions(script: Script) -> None:
    """What numpy has made of a function for arrays is a task, or what it uses, called before or not; it sees changes."""
    pytest.importorskip("numpy")
    done = script.run("""
        import numpy
        from parmap import parallel

        rate = 2
        times = numpy.vectorize(lambda x: rate * x, otypes=[float])
        more = numpy.frompyfunc(lambda x, y: x + y * rate, 2, 1, identity=0)
        most = numpy.frompyfunc(max, 2, 1)
        times(1)

        direct = parallel(workers=2)(times)
        both = parallel(workers=2)(lambda n: (times(numpy.arange(n)).sum(), more(n, 1), more.reduce([n, 2]), most.reduce([n])))
        for rate in (2, 3):
            assert direct.map([1, 2]) == [direct.submit(n).result() for n in (1, 2)] == [rate, 2 * rate]
            assert both.map([2, 3]) == [(rate, 2 + rate, 2 + 2 * rate, 2), (3 * rate, 3 + rate, 3 + 2 * rate, 3)]
    """)

    assert done.stderr == ""


def test_numpy_error_state():
    """A function under `errstate` runs under it in a worker, too."""
    numpy = pytest.importorskip("numpy")

    @parallel(workers=1)
    @numpy.errstate(divide="ignore", over="raise")
    def invert(x: float) -> tuple[float, str]:
        return float(1 / numpy.float64(x)), numpy.geterr()["over"]

    assert invert.map([0.0, 2.0]) == [(float("inf"), "raise"), (0.5, "raise")]


def test_numpy_memory_map(tmp_path: Path):
    """An array that is mapped from a file can be an argument."""
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "array.npy"
    numpy.save(path, numpy.arange(1000.0))
    mapped = numpy.load(path, mmap_mode="r")

    assert parallel(lambda a: float(a.sum()), workers=2).map([mapped, mapped[:3]]) == [499_500.0, 3.0]


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "a global": lambda table, fill: parallel(lambda row: fill(table, row), workers=2).map(range(4)),
    "an argument": lambda table, fill: parallel(fill, workers=2).starmap([(table, row) for row in range(4)]),
    "one of partial": lambda table, fill: parallel(fill, workers=2).partial(table).map(range(4)),
    "one of submit": lambda table, fill: [parallel(fill, workers=2).submit(table, row).result() for row in range(4)],
    "rows": lambda table, fill: parallel(lambda row, n: fill(row[None], 0, n), workers=2).map(table, range(4)),
    "rows of a generator": lambda table, fill: list(
        parallel(lambda pair: fill(pair[0], 0, pair[1]), workers=2).imap((table[n : n + 1], n) for n in range(4))
    ),
    "another order": lambda table, fill: parallel(lambda part, row: fill(part.T[::-1], 3 - row, row), workers=2).map(
        [table.T] * 4, range(4)
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_tasks_write_to_a_mapped_file(tmp_path: Path, way: Callable[[Any, Any], Any]):
    """An array that numpy has mapped from a file is that of the file for tasks: what they write is seen by all."""
    numpy = pytest.importorskip("numpy")
    table = numpy.memmap(tmp_path / "table", "f8", "w+", offset=24, shape=(4, 5))

    def fill(table: Any, row: int, value: int | None = None) -> str:
        table[row] = 1 + (row if value is None else value)
        return type(table).__name__

    assert way(table, fill) == ["memmap"] * 4
    assert table.tolist() == [[n] * 5 for n in (1.0, 2.0, 3.0, 4.0)]
    written = numpy.fromfile(tmp_path / "table", "f8", offset=24).reshape(4, 5)
    assert written.tolist() == table.tolist()


def test_mapped_files_that_tasks_have_copies_of(tmp_path: Path):
    """Copies travel of what only its owner may see changed, of files that are gone or cut off, of parts and of results."""
    numpy = pytest.importorskip("numpy")
    numpy.arange(8.0).tofile(tmp_path / "kept")
    numpy.arange(8.0).tofile(tmp_path / "gone")
    own = numpy.memmap(tmp_path / "kept", "f8", "c")
    own[0] = 9.0
    gone = numpy.memmap(tmp_path / "gone", "f8", "r+")
    (tmp_path / "gone").unlink()
    table = numpy.memmap(tmp_path / "kept", "f8", "r+")
    only_read = numpy.memmap(tmp_path / "kept", "f8", "r")

    @parallel(workers=2)
    def look(array: Any) -> tuple[list[float], bool]:
        found = array.tolist()
        if array.flags.writeable:
            array[:] = 0.0
        return found, array.flags.writeable

    copies = look.map([own, gone, only_read[2:4], table + 1])
    assert copies == [
        ([9.0, *range(1, 8)], True),
        ([*range(8)], True),
        ([2.0, 3.0], True),
        ([*range(1, 9)], True),
    ]
    assert look(only_read) == look.submit(only_read).result() == ([*range(8)], False)
    assert gone[1] == only_read[1] == 1.0
    results = parallel(lambda n: table[n : n + 2], workers=2).map(range(4))
    results[0][:] = 7.0
    assert only_read.tolist() == [*range(8)]
    os.truncate(tmp_path / "kept", 32)
    with pytest.raises(parmap.SerializationError, match="shorter"):
        look.map([table])


def test_mapped_files_elsewhere(tmp_path: Path):
    """What goes to workers that may not have the file is a copy: what a task writes to it stays there."""
    numpy = pytest.importorskip("numpy")
    table = numpy.memmap(tmp_path / "table", "f8", "w+", shape=(4,))

    def fill(array: Any) -> list[float]:
        array[:] = 1.0
        table[:] = 2.0
        return [*array.tolist(), *table.tolist()]

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        filled = parallel(fill, backend=executor)
        assert filled.map([table]) == [filled.submit(table).result()] == [[1.0] * 4 + [2.0] * 4]
    assert table.tolist() == [0.0] * 4


def test_torch_tensors_and_models():
    """Tensors of all kinds arrive as they are; what a task does to a model that it shares with others, nobody sees."""
    torch = pytest.importorskip("torch")
    matrix = torch.arange(400_000.0).reshape(20, 20_000)
    kinds = [
        *(
            matrix,
            matrix[3],
            matrix[:, ::7],
            matrix.T,
            matrix[:, 5],
            matrix[:0],
            matrix[0, 0],
            matrix.to(torch.bfloat16),
        ),
        *(torch.ones(3, requires_grad=True), torch.ones(1).expand(9), torch.tensor([1j]).conj(), matrix > 7),
    ]
    model = torch.nn.Linear(500, 400)
    before = model.weight.detach().clone()

    def train(x: Any) -> Any:
        with torch.no_grad():
            model.weight.add_(1)
        return x, (model.weight - before).min().item() > 0

    f = parallel(train, workers=2)
    for made in (f.map(kinds), list(f.imap(kinds)), [f.submit(each).result(60) for each in kinds]):
        for (there, is_trained), here in zip(made, kinds, strict=True):
            assert is_trained
            assert (there.shape, there.stride(), there.dtype) == (here.shape, here.stride(), here.dtype)
            assert there.requires_grad == here.requires_grad
            assert torch.equal(there, here)
        made[0][0][0].fill_(-1)
    assert torch.equal(model.weight, before)
    assert matrix.min() == 0


def test_pillow_images(tmp_path: Path, away: Any):
    """Images are arguments and results, those that are read from files when they are needed among them."""
    image_module = pytest.importorskip("PIL.Image")
    filters = pytest.importorskip("PIL.ImageFilter")
    path = tmp_path / "image.png"
    image_module.linear_gradient("L").save(path)

    def blur(image: Any) -> Any:
        away()
        return image.filter(filters.BoxBlur(5))

    with image_module.open(path) as opened:
        images = [image_module.radial_gradient("L"), opened]
        results = parallel(blur, workers=2).map(images)

        for result, image in zip(results, images, strict=True):
            assert result.tobytes() == image.filter(filters.BoxBlur(5)).tobytes()


# --- scikit-learn, through joblib -----------------------------------------------------------------------------------


@pytest.fixture
def learn() -> Any:
    """Compute something on two workers and, with its result, the one of no workers."""
    joblib = pytest.importorskip("joblib")
    pytest.importorskip("sklearn")
    pytest.importorskip("parmap.joblib")
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.make_classification(200, random_state=0)

    def both(compute: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
        with joblib.parallel_config("parmap", n_jobs=2):
            there = compute(x, y)
        return there, compute(x, y)

    return both


def test_sklearn_cross_validation(learn: Any):
    """`cross_val_score` gives the same scores."""

    def compute(x: Any, y: Any) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score

        return cross_val_score(LogisticRegression(), x, y).tolist()

    there, here = learn(compute)

    assert there == here


def test_sklearn_grid_search(learn: Any):
    """`GridSearchCV` finds the same, with a forest that is parallel itself inside of it."""

    def compute(x: Any, y: Any) -> Any:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import GridSearchCV

        forest = RandomForestClassifier(n_estimators=5, random_state=0, n_jobs=2)
        search = GridSearchCV(forest, {"max_depth": [2, 4]}, cv=3).fit(x, y)
        return search.best_params_, search.cv_results_["mean_test_score"].tolist()

    there, here = learn(compute)

    assert there == here


def test_sklearn_forest(learn: Any):
    """A forest is the same forest."""

    def compute(x: Any, y: Any) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(n_estimators=10, random_state=0).fit(x, y).predict_proba(x).tolist()

    there, here = learn(compute)

    assert there == here


def test_sklearn_scorer_that_is_a_lambda(learn: Any):
    """What pickle refuses travels here as well; and the work is done in workers."""

    def compute(x: Any, y: Any) -> Any:
        from sklearn.dummy import DummyClassifier
        from sklearn.model_selection import cross_val_score

        return set(cross_val_score(DummyClassifier(), x, y, scoring=lambda *_: os.getpid()))

    there, here = learn(compute)

    assert os.getpid() not in there
    assert here == {os.getpid()}


# --- Dask -----------------------------------------------------------------------------------------------------------


def test_dask_local_cluster(script: Script):
    """The Dask client that is there is used, whichever it is: all kinds of calls run on its cluster."""
    pytest.importorskip("distributed")
    run = script.run(
        """
        import os
        import parmap
        import psutil
        from distributed import Client, LocalCluster

        @parmap.parallel(workers=2, backend="dask")
        def work(x):
            if x < 0:
                raise ValueError(x)
            return 10 * x, {process.pid for process in psutil.Process().parents()}

        def main():
            with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as c:
                theirs = set(c.run(os.getpid).values())
                found = work.map(range(50))
                assert [x for x, _ in found] == list(range(0, 500, 10))
                assert all(above & theirs for _, above in found)
                assert work.submit(3).result(60)[0] == 30
                assert [x for x, _ in work.imap(range(5))] == [0, 10, 20, 30, 40]
                try:
                    work.map([1, -1])
                except ValueError as error:
                    print(error)
            with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):  # another one
                assert all(os.getpid() in above for _, above in work.map(range(5)))

        if __name__ == "__main__":
            main()
        """,
        timeout=150,
    )

    assert (run.stdout, run.returncode) == ("-1\n", 0), run.stderr
