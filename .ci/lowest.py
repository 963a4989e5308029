"""Prints the oldest releases of dependencies and extras that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
    print(requirement.replace(">=", "=="))
