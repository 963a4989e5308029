"""In a notebook, run by a real kernel: cells that are run again, interrupted, that print and that await."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from conftest import Script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

if not (find_spec("nbclient") and find_spec("ipykernel")):
    pytest.skip("nbclient or ipykernel is missing", allow_module_level=True)

# Runs the cells of a notebook one after the other in a kernel of its own, and prints what is under each. A cell that asks
# for it is interrupted, as by the button, as soon as the file "begun" is there. Then it waits for the next notebook: to
# import what runs one takes as long as a kernel's start.
DRIVER = """
import asyncio, json, os, sys
import nbformat
from nbclient import NotebookClient

async def interrupt(kernel, folder):
    while not os.path.exists(os.path.join(folder, "begun")):
        await asyncio.sleep(0.01)
    await kernel.interrupt_kernel()

async def run(folder, cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    at = {"metadata": {"path": folder}}
    client = NotebookClient(notebook, timeout=100, kernel_name="python3", allow_errors=True, resources=at)
    async with client.async_setup_kernel():
        for number, cell in enumerate(notebook.cells):
            interrupting = None
            if "# interrupted" in cell.source:
                interrupting = asyncio.create_task(interrupt(client.km, folder))
            await client.async_execute_cell(cell, number)
            if interrupting is not None:
                await interrupting
    return [cell.outputs for cell in notebook.cells]

for line in sys.stdin:
    print(json.dumps(asyncio.run(run(*json.loads(line)))), flush=True)
"""


@pytest.fixture(scope="module")
def driver(pools_stay: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """What runs notebooks, for all tests."""
    script = Script(tmp_path_factory.mktemp("driver"))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        script.environment[name] = str(script.folder / name.lower())
    process = subprocess.Popen(
        [sys.executable, script.write(DRIVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=script.environment,
        cwd=script.folder,
    )
    with process:
        yield process
        process.kill()


def run(driver: subprocess.Popen[str], folder: Path, cells: Iterable[str]) -> list[list[dict[str, Any]]]:
    """Run cells; returns the outputs of each."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    print(json.dumps([str(folder), [*cells]]), file=driver.stdin, flush=True)
    told = driver.stdout.readline()
    assert told, "see what its driver says"
    outputs: list[list[dict[str, Any]]] = json.loads(told)
    return outputs


@pytest.fixture
def notebook(driver: subprocess.Popen[str], tmp_path: Path) -> Any:
    """Runs cells in a kernel of their own."""
    return lambda *cells: run(driver, tmp_path, cells)


# Cells that get along: one kernel runs them all, in this order.
TOGETHER = {
    "shown": ["from parmap import parallel\nparallel(lambda x: x, workers=2)"],
    "await": [
        "from parmap import parallel\nf = parallel(lambda x: x + 1, workers=2)",
        "(await f.submit(1), await f.map_async([2, 3]), [x async for x in f.imap([4])])",
    ],
    "output": [
        "from parmap import parallel\n@parallel(workers=1)\ndef say(x):\n    print('said', x)",
        "say.map([1, 2]);",
        "say.submit(3).result()",
    ],
    "shell": [
        "from parmap import parallel",
        "def is_notebook():\n    try:\n        return get_ipython() is not None\n    except NameError:\n        return False",
        "is_notebook(), parallel(lambda _: is_notebook(), workers=1).map([1, 2])",
    ],
}


@pytest.fixture(scope="module")
def together(driver: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outputs of these cells."""
    found = iter(run(driver, tmp_path_factory.mktemp("together"), chain.from_iterable(TOGETHER.values())))
    return {name: [next(found) for _ in cells] for name, cells in TOGETHER.items()}


def text(outputs: list[dict[str, Any]]) -> str:
    """What is under a cell, as text."""
    parts = []
    for output in outputs:
        if output["output_type"] == "stream":
            parts.append(output["text"])
        elif output["output_type"] == "error":
            parts.append(f"{output['ename']}: {output['evalue']}")
        else:
            parts.append(output["data"]["text/plain"])
    return "".join(parts).strip()


def test_cells_that_are_run_again(notebook: Any):
    """The next call uses what a cell defines now: the function, what it calls, and classes."""
    cells = notebook(
        "from parmap import parallel",
        "def step():\n    return 1",
        "class Point:\n    def __init__(self, x):\n        self.x = x",
        "@parallel(workers=2)\ndef move(x):\n    return Point(x + step())",
        "[point.x for point in move.map([1, 2])], isinstance(move.map([1])[0], Point)",
        "def step():\n    return 10",
        "[point.x for point in move.map([1, 2])]",
        "class Point:\n    def __init__(self, x):\n        self.x = -x",
        "[point.x for point in move.map([1, 2])], isinstance(move.map([1])[0], Point)",
        "@parallel(workers=2)\ndef move(x):\n    return Point(100 * x)",
        "[point.x for point in move.map([1, 2])], move.submit(3).result().x",
    )

    assert [text(cell) for cell in cells if cell] == [
        "([2, 3], True)",
        "[11, 12]",
        "([-11, -12], True)",
        "([-100, -200], -300)",
    ]


def test_what_annotations_name_in_texts(notebook: Any):
    """A task finds the classes of cells that annotations name, as the cells have them now."""
    item = "@dataclasses.dataclass\nclass Item:\n    {name}: float"
    *_, first, _, second = notebook(
        """
from __future__ import annotations
import dataclasses, typing
from parmap import parallel
""",
        item.format(name="price"),
        """
@dataclasses.dataclass
class Order:
    items: list[Item]
    next: Order | None = None

@parallel(workers=2)
def look(x: Order) -> list[str]:
    (kind,) = typing.get_args(typing.get_type_hints(Order)["items"])
    return list(typing.get_type_hints(kind))
""",
        "print(look.map([1]), look.submit(1).result())",
        item.format(name="weight"),
        "print(look.map([1]), look.submit(1).result())",
    )

    assert text(first) == "[['price']] ['price']"
    assert text(second) == "[['weight']] ['weight']"


def test_a_module_that_is_edited(notebook: Any):
    """Where it travels by value, tasks have of it what `%autoreload` has made of it: in place, or by importing it again."""
    look = "print(*[sorted({edited.work(1), *f.map([1]), f.submit(1).result(), *pool.map(g, [1])}) for f in (work, other)])"
    outputs = notebook(
        "%load_ext autoreload\n%autoreload 2\n"
        "import os, pathlib, sys, cloudpickle, parmap\n"
        "sys.path.insert(0, '')\n"
        "times = iter(range(10**9, 2 * 10**9, 1000))\n"
        "def edit(limit, body, more=''):\n"
        "    text = f'LIMIT = {limit}\\nclass Base:\\n  def go(self, x):\\n    return {body}\\n'\n"
        "    pathlib.Path('edited.py').write_text(text + f'def work(x):\\n  return Base().go(x) + LIMIT\\n{more}')\n"
        "    os.utime('edited.py', (next(times),) * 2)\n"
        "edit(1, 'x')",
        "import edited\n"
        "cloudpickle.register_pickle_by_value(edited)\n"
        "g = lambda x: edited.work(x)\n"
        "work, other = parmap.parallel(edited.work, workers=2), parmap.parallel(g, workers=2)\n"
        "pool = parmap.Pool(2)",
        look,
        "edit(1, '10 * x')",  # the code of a method alone
        look,
        "edit(5, '10 * x')",  # a variable
        look,
        "edit(5, '10 * x + len(NAMES)', more='NAMES = [1, 2]')",  # a name that was not there
        look,
        "import importlib\n%autoreload 0\nedit(7, 'x')\n"
        "importlib.reload(edited)\nwork = parmap.parallel(edited.work, workers=2)",
        look,
    )

    assert [text(cell) for cell in outputs[2::2]] == ["[2] [2]", "[11] [11]", "[15] [15]", "[17] [17]", "[8] [8]"]


@pytest.mark.parametrize("more", ["", "x = 2\n"], ids=["in place", "by importing it again"])
def test_a_module_that_workers_have_imported_is_edited(notebook: Any, more: str):
    """The next cell has of it what `%autoreload` has made of it."""
    look = "print(*[sorted({edited.work(1), *f.map([1]), f.submit(1).result(), *f.imap([1])}) for f in (work, other)])"
    outputs = notebook(
        "import os, pathlib, sys, parmap\n"
        "sys.path.insert(0, '')\n"
        "times = iter(range(10**9, 2 * 10**9, 1000))\n"
        "def edit(body, more=''):\n"
        "    text = f'class Base:\\n  def go(self, x):\\n    return {body}\\n{more}'\n"
        "    pathlib.Path('edited.py').write_text(text + f'def work(x):\\n  return Base().go(x)\\n')\n"
        "    os.utime('edited.py', (next(times),) * 2)\n"
        "edit('x')",
        "import edited\n"
        "g = lambda x: edited.work(x)\n"
        "work, other = parmap.parallel(edited.work, workers=2), parmap.parallel(g, workers=2)",
        look,
        "%load_ext autoreload\n%autoreload 2",
        f"edit('10 * x', {more!r})",
        look,
        look,
        f"edit('20 * x', {more!r})",
        look,
    )

    assert [text(outputs[cell]) for cell in (2, 5, 6, 8)] == ["[1] [1]", "[10] [10]", "[10] [10]", "[20] [20]"]


def test_a_cell_that_asks_for_its_shell(together: dict[str, Any]):
    """A function that finds out whether it is in a notebook is not, in a worker."""
    assert text(together["shell"][2]) == "(True, [False, False])"


@pytest.mark.parametrize("call", ["work.map(range(4))", "for _ in work.imap(range(4)): pass", "pool.map(task, [0, 1])"])
def test_interrupted_cell(notebook: Any, call: str):
    """The work stops at once, and the pool is usable in the next cell."""
    before, interrupted, stopped, after = notebook(
        "import os, time, pathlib, parmap\n"
        "def task(x):\n"
        "    pathlib.Path(f'pid-{os.getpid()}').touch()\n"
        "    pathlib.Path('begun').touch()\n"
        "    time.sleep(600)\n"
        "work = parmap.parallel(task, workers=2)\n"
        "pool = parmap.Pool(2)\n",
        f"# interrupted\n{call}",
        "def runs(path):\n"
        "    try:\n"
        "        stat = pathlib.Path('/proc', path.name[4:], 'stat').read_text()\n"
        "    except OSError:\n"
        "        return False\n"
        "    return stat.rpartition(')')[2].split()[0] != 'Z'\n"
        "deadline = time.monotonic() + 20\n"
        "while any(map(runs, pathlib.Path().glob('pid-*'))) and time.monotonic() < deadline:\n"
        "    time.sleep(0.01)\n"
        "any(map(runs, pathlib.Path().glob('pid-*')))",
        "parmap.parallel(lambda x: x + 1, workers=2).map([1, 2]), pool.map(lambda x: x + 1, [1, 2])",
    )

    assert text(before) == ""
    assert text(interrupted).startswith("KeyboardInterrupt")
    assert text(stopped) == "False"
    assert text(after) == "([2, 3], [2, 3])"


def test_interrupted_wait_for_a_future(notebook: Any):
    """A future is held: its task goes on until it is cancelled. Others run meanwhile, and afterwards."""
    _, interrupted, running, cancelled = notebook(
        "import pathlib, time, parmap\n"
        "def task(x):\n"
        "    pathlib.Path('runs').touch()\n"
        "    time.sleep(600)\n"
        "work = parmap.parallel(task, workers=2)\n"
        "add = parmap.parallel(lambda x: x + 1, workers=2)\n"
        "future = work.submit(0)\n"
        "while not pathlib.Path('runs').exists(): time.sleep(0.01)",
        # Not begun by the task: an interrupt that comes between two cells closes a socket of the kernel's.
        "# interrupted\npathlib.Path('begun').touch()\nfuture.result()",
        "add.map([1, 2]), future",
        "future.cancel(), future.cancelled(), add.map([1, 2])",
    )

    assert text(interrupted).startswith("KeyboardInterrupt")
    assert text(running) == "([2, 3], <parmap.Future of task: running>)"
    assert text(cancelled) == "(True, True, [2, 3])"


def test_output_of_tasks(together: dict[str, Any]):
    """What tasks print is under the cell that runs them."""
    _, first, second = together["output"]

    assert text(first) == "said 1\nsaid 2"
    assert text(second) == "said 3"


def test_await_in_a_cell(together: dict[str, Any]):
    """Futures and streams can be awaited on the kernel's own loop."""
    assert text(together["await"][1]) == "(2, [3, 4], [5])"


def test_shown_objects(together: dict[str, Any]):
    """A function at the end of a cell is shown as a table."""
    (cell,) = together["shown"]

    assert "<table>" in cell[0]["data"]["text/html"]
    assert cell[0]["data"]["text/plain"] == "<parmap.ParallelFunction __main__.<lambda> (workers=2)>"
