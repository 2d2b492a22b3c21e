"""Puts tests/e2e on the path, where the tests of the real stack share a module."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "e2e"))
