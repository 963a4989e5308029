"""What the picture shows: six hundred photos, one of which crashes the library that reads it."""

import ctypes
import sys
import time
import traceback

from parmap import parallel


@parallel(workers=2, progress="photos")
def thumbnail(name: str) -> str:
    """Do some work; on one photo, crash in C code."""
    time.sleep(0.002)
    if name == "IMG_0417.jpg":
        ctypes.string_at(0)
    return name


results = thumbnail.map([f"IMG_{n:04}.jpg" for n in range(1, 601)], return_exceptions=True)
failed = [result for result in results if isinstance(result, Exception)]

print(f"{len(results) - len(failed)} thumbnails. One photo crashed its worker:\n", file=sys.stderr)
for error in failed:
    traceback.print_exception(type(error), error, None)
