"""The documentation is complete; that its examples work, `conftest.py` in the root directory sees to."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import parmap
from parmap._calls.checks import OPTIONS
from parmap._core.states import MOVES

TESTS = Path(__file__).resolve().parent
REFERENCE = TESTS.parent / "docs" / "reference"
DOCUMENTED_ELSEWHERE = {"__version__", "errors"}


@pytest.mark.parametrize("name", sorted(set(parmap.__all__) - DOCUMENTED_ELSEWHERE))
def test_public_name_is_in_the_reference(name: str):
    """Whatever can be imported from parmap has its place in the reference."""
    directives = {
        line.split("::")[1].split("(")[0].strip()
        for page in REFERENCE.glob("*.md")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith(".. auto")
    }

    assert f"parmap.{name}" in directives


@pytest.mark.parametrize("name", sorted(set(parmap.__all__) - {"__version__"}))
def test_public_name_has_a_docstring(name: str):
    """Whatever can be imported from parmap says what it is."""
    assert inspect.getdoc(getattr(parmap, name))


def test_every_option_is_in_the_table():
    """An option that is not documented can't be found, and one that is documented exists."""
    table = [
        line.split("|")[1:3]
        for line in (REFERENCE / "options.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = {name.strip(" `") for cell, _ in table for name in cell.split(",")}
    parameters = inspect.signature(parmap.parallel).parameters.values()

    assert documented == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_type_checkers_are_those_that_are_installed():
    """The table of what each type checker sees is of the releases that the checks run with."""
    page = (TESTS.parent / "docs" / "explanation" / "typing-caveats.md").read_text(encoding="utf-8")
    told = re.findall(r"(\w+) ([\d.]*\d)", page.partition("The releases are ")[2].partition(";")[0])
    pins = (TESTS.parent / ".ci" / "constraints.txt").read_text(encoding="utf-8").split()

    assert told
    assert {f"{name}=={release}" for name, release in told} <= {*pins}


def test_what_makes_a_pool():
    """The options on which functions agree that share a pool are all named, and no other is."""
    _, _, text = (REFERENCE / "options.md").read_text(encoding="utf-8").partition("(one-pool)=")
    sentence, _, _ = text.partition(". ")

    assert set(re.findall(r"`(\w+)`", sentence)) == {name for name, option in OPTIONS.items() if option.is_of_pool}


@pytest.mark.parametrize("file", sorted(path.name for path in TESTS.glob("test_*.py")))
def test_every_test_says_what_it_tests(file: str):
    """The sentence under its name."""
    functions = [
        node
        for node in ast.walk(ast.parse((TESTS / file).read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]

    assert [each.name for each in functions if not ast.get_docstring(each)] == []


def test_speed_on_the_start_page_is_that_of_the_benchmarks():
    """The row of the start page has the numbers of the page that it links to."""

    def row(path: str, begin: str) -> list[str]:
        lines = (TESTS.parent / path).read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith(f"| {begin}")).strip("| ").split(" | ")[1:]

    page = "docs/speed/benchmarks.md"
    a_second = 1000 * float(re.findall(r"[\d.]+", row(page, "10,000")[0])[0])
    others = [re.findall(r"[\d.]+", cell)[0] for cell in row(page, "many single tasks")[:2]]
    told = re.findall(r"\[(\S+) (?:ms|times that)\]", "".join(row("README.md", "10,000")))

    assert told == [f"{10_000_000 / a_second:.0f}", *others]


def test_states_of_a_worker_are_those_of_the_code():
    """The page that shows what a worker may become shows what the core allows, and nothing else."""
    page = (TESTS.parent / "docs" / "explanation" / "a-call-through-the-rooms.md").read_text(encoding="utf-8")
    _, _, section = page.partition("(states-of-a-worker)=")
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    told = {state: set(others.split(", ")) - {"nothing"} for state, others in rows}

    assert told == {state.value: {other.value for other in others} for state, others in MOVES.items()}
