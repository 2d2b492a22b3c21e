"""Puts the folders on the path whose tests share a module: tests/core/enumerable.py, tests/e2e/stack.py."""

import sys
from pathlib import Path

for folder in ("core", "e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
