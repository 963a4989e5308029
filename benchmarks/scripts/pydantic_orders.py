"""A script with pydantic models of its own: orders that are added up, or copied and filtered."""

from __future__ import annotations

import sys
from datetime import date

from pydantic import BaseModel


class Line(BaseModel):
    """So many of an article."""

    article: str
    price: float
    count: int


class Order(BaseModel):
    """What a customer wants."""

    number: int
    customer: str
    day: date
    lines: list[Line]


def orders(count: int) -> list[Order]:
    """Orders of five lines each."""
    return [
        Order(
            number=number,
            customer=f"customer {number % 100}",
            day=date(2026, 1 + number % 12, 1),
            lines=[Line(article=f"article {line}", price=line + 0.5, count=(number + line) % 7) for line in range(5)],
        )
        for number in range(count)
    ]


def total(order: Order) -> float:
    """What an order costs."""
    return sum(line.price * line.count for line in order.lines)


def without_small(order: Order) -> Order:
    """A copy of an order without the lines of which there are few."""
    lines = [line for line in order.lines if line.count > 2]
    return order.model_copy(update={"lines": lines})


if __name__ == "__main__":
    from cell import main

    main(sys.modules[__name__])
