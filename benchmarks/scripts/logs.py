"""A script that reads a web server's log, line by line."""

from __future__ import annotations

import random
import re
import sys

LINE = re.compile(r'(\S+) - - \[([^\]]+)\] "(\S+) (\S+) [^"]*" (\d{3}) (\d+)')


def lines(count: int) -> list[str]:
    """Lines of a log."""
    source = random.Random(5)
    return [
        f"10.0.{source.randrange(256)}.{source.randrange(256)} - - [23/Nov/2026:10:{number % 60:02}:00 +0000] "
        f'"GET /article/{source.randrange(10_000)} HTTP/1.1" {source.choice((200, 200, 200, 304, 404))} '
        f"{source.randrange(100_000)}"
        for number in range(count)
    ]


def parse(line: str) -> tuple[str, str, int, int]:
    """Host, path, status and size."""
    found = LINE.match(line)
    if found is None:
        return "", "", 0, 0
    host, _, _, path, status, size = found.groups()
    return host, path, int(status), int(size)


if __name__ == "__main__":
    from cell import main

    main(sys.modules[__name__])
