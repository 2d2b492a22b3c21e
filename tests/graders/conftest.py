"""`agreement.py` and `changes.py` as modules (tests are no package), and the data sets' rows."""

import importlib.util
import sys
from pathlib import Path

import pytest

for name in ("agreement", "changes"):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
agreement = sys.modules["agreement"]


@pytest.fixture(scope="session")
def data_rows():
    """A function from a data file's name to its rows; skips the test where the file is not there."""

    def load(name: str) -> list[dict]:
        path = agreement.DATA_DIR / name
        if not path.exists():
            pytest.skip(f"{path} is not there; set SPO_DATA_DIR")
        return agreement.read_rows(path)

    return load
