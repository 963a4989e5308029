"""Draws the terminal of the start page: runs photos.py in one, and writes its screen as SVG, light and dark.

Usage: python docs/terminal/draw.py
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
COLUMNS, LINE, LEFT, TOP = 76, 20, 18, 58
WIDTH = 640
COLOURS = {
    "light": {
        "back": "#ffffff",
        "edge": "#d0d7de",
        "text": "#24292f",
        "bar": "#1a7f37",
        "bad": "#cf222e",
        "note": "#0550ae",
    },
    "dark": {
        "back": "#0d1117",
        "edge": "#30363d",
        "text": "#e6edf3",
        "bar": "#3fb950",
        "bad": "#ff7b72",
        "note": "#79c0ff",
    },
}
KINDS = {r"photos:": "bar", r".*WorkerDiedError|Fatal": "bad", r"parmap: item": "note"}
"""Which colour a line has, by its beginning."""


def screen() -> list[str]:
    """Run the program in a terminal of its own, and return what stands there in the end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, COLUMNS))
    with subprocess.Popen([sys.executable, "photos.py"], cwd=HERE, stdout=theirs, stderr=theirs) as program:
        os.close(theirs)
        output = b""
        try:
            while piece := os.read(ours, 65536):
                output += piece
        except OSError:  # the program has ended, and with it the terminal
            pass
        program.wait()
    os.close(ours)
    lines = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", output).decode().replace("\r\n", "\n").split("\n")
    return ["$ python photos.py", *(line.rpartition("\r")[2].rstrip() for line in lines)]


def drawn(lines: list[str], colours: dict[str, str]) -> str:
    """Return the picture of some lines."""
    height = TOP + LINE * len(lines)
    rows = []
    kind = "text"
    for number, line in enumerate(lines):
        if number == 0 or len(lines[number - 1]) < COLUMNS:  # else it goes on with the line before
            kind = next((kind for begins, kind in KINDS.items() if re.match(begins, line)), "text")
        text = escape(line).replace(" ", "\u00a0")
        rows.append(f'<text x="{LEFT}" y="{TOP + LINE * number}" fill="{colours[kind]}">{text}</text>')
    edge = colours["edge"]
    dots = "".join(f'<circle cx="{LEFT + 7 + 20 * n}" cy="20" r="6" fill="{edge}"/>' for n in range(3))
    frame = f'width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{colours["back"]}" stroke="{edge}"'
    font = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13"'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>'
    return "\n".join([head, f'<rect x="0.5" y="0.5" {frame}/>', dots, *rows, "</svg>\n"])


def main() -> None:
    """Write both pictures."""
    lines = [re.sub(r'"/\S*/', '"', line).replace("parmap.errors.", "") for line in screen()]
    lines = [line for line in lines if not re.match(r"\s*File .*__init__.py|.*Current thread|    .*string_at", line)]
    text = re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip()
    wrapped = [line[n : n + COLUMNS] for line in text.split("\n") for n in range(0, len(line) or 1, COLUMNS)]
    for name, colours in COLOURS.items():
        path = HERE.parent / "_static" / f"terminal-{name}.svg"
        path.write_text(drawn(wrapped, colours), encoding="utf-8")


if __name__ == "__main__":
    main()
