"""Makes the environment of the benchmarks: `.venv-bench`, with what parmap is measured against and what tasks use.

Usage: environment.py

A library that can't be installed is left out; the benchmarks list it as absent, or its rows as failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".venv-bench"
READY = PLACE / ".ready"
PYTHON = PLACE / "bin" / "python"

NEEDED = ("numpy", "pandas", "matplotlib", "psutil")
OPTIONAL = ("pydantic", "loky", "joblib", "mpire", "pebble", "pathos", "distributed", "ray")
TIME_LIMIT = 180.0


def install(*what: str, seconds: float = TIME_LIMIT) -> bool:
    """Install packages; false if that fails or takes too long."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", *what]
    try:
        return subprocess.run(command, check=False, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main() -> int:
    """Make the environment, unless it is there."""
    made_from = str(Path(__file__).stat().st_mtime_ns) + str((ROOT / "pyproject.toml").stat().st_mtime_ns)
    if READY.exists() and READY.read_text() == made_from:
        return 0
    print("setting up .venv-bench", flush=True)
    os.environ |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    venv.create(PLACE, with_pip=True)
    if not install("--editable", str(ROOT), *NEEDED, seconds=4 * TIME_LIMIT):
        return 1
    for library in OPTIONAL:
        if not install(library):
            print(f"  {library} can't be installed here: what needs it will be listed as absent", flush=True)
    READY.write_text(made_from)
    return 0


if __name__ == "__main__":
    sys.exit(main())
