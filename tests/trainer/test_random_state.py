"""Random generators go on where they were, from a file that is no pickle."""

import random

import numpy as np
import torch

from spo_rlhf.host import device
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


def test_a_run_on_the_cpu_touches_no_gpu_of_the_machine(monkeypatch):
    states, restored = [torch.zeros(16, dtype=torch.uint8)], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.append)
    monkeypatch.setattr(device, "_settled", None)  # by another test of this process
    for kind, expected in ((device.CPU, []), (device.GPU, states)):
        monkeypatch.setenv(device.VARIABLE, kind)
        state = random_state.take()
        assert len(state["cuda"]) == len(expected)
        random_state.restore({**state, "cuda": states})
        assert len(restored) == (kind == device.GPU)
