"""`python -m flows.demo` = `bcls demo`."""

from __future__ import annotations

import sys

from flows.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
