"""A census of the Python standard library: every module parsed and measured, on all cores.

With ``--backend dask`` or ``--backend ray`` on all of a cluster, which is started here if there is none.
"""

import argparse
import ast
import sysconfig
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from parmap import cpu_count, parallel

LIBRARY = Path(sysconfig.get_path("stdlib"))
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)
DECISIONS = (*LOOPS, ast.If, ast.IfExp, ast.BoolOp, ast.Assert, ast.ExceptHandler, ast.match_case)


class Module(NamedTuple):
    """What the census knows of one file."""

    name: str
    lines: int
    classes: int
    functions: int
    complexity: int  # cyclomatic: the decisions, and one for each function
    longest: int  # lines of its longest function


@parallel(progress="census" if find_spec("tqdm") else False)
def examine(path: Path) -> Module:
    """Parse one file and measure what is in it."""
    warnings.simplefilter("ignore")  # old modules have old manners
    source = path.read_bytes()
    nodes = list(ast.walk(ast.parse(source)))
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return Module(
        name=str(path.relative_to(LIBRARY)),
        lines=source.count(b"\n"),
        classes=sum(isinstance(n, ast.ClassDef) for n in nodes),
        functions=len(functions),
        complexity=sum(isinstance(n, DECISIONS) for n in nodes) + len(functions),
        longest=max(((f.end_lineno or f.lineno) - f.lineno + 1 for f in functions), default=0),
    )


def table(title: str, modules: list[Module]) -> None:
    """Print one line for each module."""
    print(f"\n{title:34}" + "".join(f"{name:>12}" for name in Module._fields[1:]))
    for module in modules:
        print(f"{module.name:34.34}" + "".join(f"{number:>12,}" for number in module[1:]))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--backend", default="processes", choices=["processes", "threads", "serial", "dask", "ray"])
parser.add_argument("--package", default="", help="only this one, such as email")
options = parser.parse_args()
examine = examine.options(backend=options.backend)
paths = [p for p in (LIBRARY / options.package).rglob("*.py") if not {"site-packages", "dist-packages"} & {*p.parts}]

# All cores. Files that don't parse (the library's own tests have some) come back as exceptions.
start = time.perf_counter()
results = examine.map(paths, return_exceptions=True)
parallel_time = time.perf_counter() - start

# One core: a decorated function that is called is the plain function.
start = time.perf_counter()
for path in paths:
    try:
        examine(path)
    except (SyntaxError, ValueError):
        continue
plain_time = time.perf_counter() - start

modules = [result for result in results if isinstance(result, Module)]
table("largest", sorted(modules, key=lambda m: -m.lines)[:5])
table("most complex", sorted(modules, key=lambda m: -m.complexity)[:5])
table("longest functions", sorted(modules, key=lambda m: -m.longest)[:5])
print(f"\n{len(modules):,} modules, {sum(m.lines for m in modules):,} lines")
skipped = [type(result).__name__ for result in results if isinstance(result, Exception)]
print(f"{len(skipped)} files skipped: {', '.join(sorted({*skipped}))}")
print(f"plain loop {plain_time:.2f} s, map {parallel_time:.2f} s on {cpu_count()} cores:", end=" ")
print(f"{plain_time / parallel_time:.2f} times as fast")
