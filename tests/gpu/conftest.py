"""These tests need a GPU: without one they are skipped, with the reason. `figures` keeps what they measure."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder where torch sees no GPU."""
    if torch.cuda.is_available() and os.environ.get("SPO_DEVICE") != "cpu":
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: bash tests/gpu/run.sh on a machine that has one"))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What a test measures, filled in by it; with SPO_GPU_RESULTS=DIR also DIR/TEST.json, the GPU's name with it."""
    measured: dict[str, Any] = {}
    yield measured
    name, folder = request.node.name, os.environ.get("SPO_GPU_RESULTS")
    print(f"\n{name}: {json.dumps(measured)}")
    if folder and measured:
        gpu = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(json.dumps(gpu | measured, indent=1) + "\n", encoding="utf-8")
