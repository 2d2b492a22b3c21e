"""The benchmarks' folder on the path, as it is when one is run, and their workloads, prepared once for all tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import stack
import torch

sys.path.insert(0, str(stack.ROOT / "benchmarks"))
import study

from spo_rlhf.cli import prepare
from spo_rlhf.tasks import make

TRAIN_PROBLEMS = 600
# Nothing is trained here on the problems of the warm-up; making 32768 of them takes most of the time.
WARM_UP_PROBLEMS = 256


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are no faster with more threads, and many times slower beside another busy program."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, one_thread) -> dict[str, Path]:
    """Data and an untrained model of each workload, by its name, as the benchmark's own command makes them."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SUPERVISED_PROBLEMS", WARM_UP_PROBLEMS)
        for name, workload in study.WORKLOADS.items():
            folders[name] = tmp_path_factory.mktemp("workloads") / name
            command = study.prepare_command(workload, folders[name], seconds=1)
            options = command[command.index("spo_rlhf.cli.prepare") + 1 :]
            sizes = ["--train", str(TRAIN_PROBLEMS), "--test", "8", "--warm-up-steps", "0"]
            assert prepare.main([*options, *sizes]) == 0
    return folders
