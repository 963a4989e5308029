"""The goals: what was to be reached, what was, and how sure that is."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from results import TITLES, Table, quartiles
from workloads import Goal, Workload


class Kind(NamedTuple):
    """How a kind of goal is said; `{}` is a number of it."""

    words: str
    shown: str
    at_least: bool


def _kind(workload: Workload, goal: Goal) -> Kind:
    whose = f"{TITLES.get(goal.of, goal.of)}" if goal.of else "the best peer"
    unit = workload.unit
    most = goal.number * _factor(unit) if goal.kind == "below" else 0.0
    return {
        "peer": Kind(f"≥ {goal.number:.2g} × {whose}", "{:.2f}", at_least=True),
        "efficiency": Kind(f"efficiency ≥ {goal.number}", "{:.3f}", at_least=True),
        "rate": Kind(f"≥ {goal.number / 1e9:g} GB/s", "{:.2f} GB/s", at_least=True),
        "below": Kind(f"≤ {most:,g} {unit}", f"{{:,.1f}} {unit}", at_least=False),
        "row": Kind(f"≤ {goal.number} × parmap's own `map`", "{:.2f}", at_least=False),
        "import": Kind(f"≤ one import of pandas + {goal.number} s", "the import {:+.2f} s", at_least=False),
    }[goal.kind]


def _factor(unit: str) -> float:
    return {"ms": 1e3, "µs": 1e6, "MB": 1e-6}[unit]


def reached(table: Table, workload: Workload, goal: Goal, number: int | None = None) -> float | None:
    """What was reached in all rounds, or in one; in the unit of the goal."""
    mine = table.median(workload.key, "parmap", number)
    if goal.kind == "import":
        cells = [cell for cell in table.cells(workload.key, "parmap") if number in (None, cell["round"])]
        gaps = [value - cell["import"] for cell in cells for value in cell.get("values", ())]
        return statistics.median(gaps) if gaps and mine is not None else None
    if goal.kind == "rate":
        return table.size(workload.key) * workload.item_bytes / mine if mine else None
    if goal.kind == "below":
        return mine
    key, name = workload.key, "serial loop"
    if goal.kind == "row":
        key, name = goal.of, "parmap"
    elif goal.kind == "peer":
        name = peer_of(table, workload, goal)
    other = table.median(key, name, number)
    if mine is None or other is None:
        return None
    mine = max(mine, 1e-9)
    return {"peer": other / mine, "efficiency": other / table.workers / mine, "row": mine / other}[goal.kind]


def peer_of(table: Table, workload: Workload, goal: Goal) -> str:
    """Whom parmap is compared to."""
    best = table.best_peer(workload)
    return goal.of or (best[0] if best else "")


def is_reached(table: Table, workload: Workload, goal: Goal, number: float) -> bool:
    """Whether *number* is enough."""
    if _kind(workload, goal).at_least:
        return number >= goal.number
    return number <= goal.number and not table.is_cut(workload.key, "parmap")


def goals(table: Table, workloads: tuple[Workload, ...]) -> list[str]:
    """The table of goals; where one is missed, it says so."""
    return [
        "| workload | goal | reached | middle half of the rounds | |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {workload.title} | {' | '.join(_line(table, workload, goal))} |"
            for workload in workloads
            for goal in workload.goals
        ),
    ]


def _line(table: Table, workload: Workload, goal: Goal) -> tuple[str, str, str, str]:
    kind = _kind(workload, goal)
    value = reached(table, workload, goal)
    if value is None:
        return kind.words, "–", "", "not measured"
    factor = _factor(workload.unit) if goal.kind == "below" else 1e-9 if goal.kind == "rate" else 1.0
    text = kind.shown.format(value * factor)
    if goal.kind == "peer":
        peer = peer_of(table, workload, goal)
        text += f" × {TITLES.get(peer, peer)}"
    if table.is_cut(workload.key, "parmap"):
        text += ", not all items in time"
    verdict = "yes" if is_reached(table, workload, goal, value) else f"**missed**{_by(value, goal, kind)}"
    return kind.words, text, _spread(table, workload, goal, kind, factor), verdict


def _by(value: float, goal: Goal, kind: Kind) -> str:
    ratio = value / goal.number if kind.at_least else goal.number / value
    return f" by {100 * (1 - ratio):.0f} %" if ratio < 1 else ""


def _spread(table: Table, workload: Workload, goal: Goal, kind: Kind, factor: float) -> str:
    """The same of single rounds."""
    numbers = table.rounds(workload.key, "parmap")
    found = [value for number in numbers if (value := reached(table, workload, goal, number)) is not None]
    middle = quartiles(found)
    if middle is None:
        return f"{len(found)} round{'s' if len(found) != 1 else ''}"
    low, high = (kind.shown.format(value * factor) for value in middle)
    return f"{low} – {high} of {len(found)}"
