"""The command line: `python -m parmap journal FILE`."""

import sys

from parmap._calls.journal.command import main

if __name__ == "__main__":
    sys.exit(main())
