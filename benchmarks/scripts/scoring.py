"""A script whose task uses what stands around it: another function, settings, a pattern, a class and an object."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

SETTINGS: dict[str, Any] = {"scale": 2, "limits": {"low": 0, "high": 1_000_000}, "labels": ["low", "high"]}
DIGITS = re.compile(r"\d+")
PRICES = [round(number * 0.01, 2) for number in range(500)]


@dataclass
class Order:
    """What is scored."""

    number: int
    amount: int = 1

    def total(self) -> float:
        """What it costs."""
        return PRICES[self.number % len(PRICES)] * self.amount


class Model:
    """How it is scored."""

    def __init__(self) -> None:
        self.weights = [0.5, 1.5, 2.5]
        self.names = {"first": 0, "last": 2}

    def predict(self, value: float) -> float:
        """Weigh a value."""
        return value * self.weights[self.names["last"]]


MODEL = Model()


def scaled(number: int) -> int:
    """Apply the settings."""
    limits = SETTINGS["limits"]
    return min(max(number * int(SETTINGS["scale"]), limits["low"]), limits["high"])


def score(number: int) -> float:
    """Do very little, by way of all that is above."""
    digits = DIGITS.search("order 17")
    return MODEL.predict(Order(scaled(number)).total()) + len(digits.group() if digits else "")


if __name__ == "__main__":
    from cell import main

    main(sys.modules[__name__])
