"""Random generators go on where they were, from a file that is no pickle."""

import random

import numpy as np
import torch

from spo_rlhf.trainer import random_state


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.normal()), *torch.randn(3).tolist()]


def test_generators_go_on_where_they_were(tmp_path):
    draws()
    random.gauss(0, 1)  # leaves a second number behind, which is part of the state
    torch.save(random_state.take(), tmp_path / "state.pt")
    expected = [draws() for _ in range(3)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    random_state.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draws() for _ in range(3)] == expected
