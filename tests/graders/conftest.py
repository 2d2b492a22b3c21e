"""Where the data sets are: SPO_DATA_DIR, or ../shared/data next to the repository."""

import json
import os
from pathlib import Path

import pytest

DATA_DIR = Path(os.environ.get("SPO_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def data_rows():
    """A function from a data file's name to its rows; skips the test where the file is not there."""

    def load(name: str) -> list[dict]:
        path = DATA_DIR / name
        if not path.exists():
            pytest.skip(f"{path} is not there; set SPO_DATA_DIR")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return load
