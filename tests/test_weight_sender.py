"""Weights to some of the engines: each gets all of them, or is told as failed; the NCCL group is of those that live."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from spo_rlhf import cpu, upstream


class Engine:
    """One engine as the sender sees it. `dead`: does not answer. `dies`: is started again while weights are sent."""

    def __init__(self, name: str):
        self.name, self.process, self.version, self.dead, self.dies = name, 0, 0, False, False
        self.group = None

    def start_again(self):
        self.process, self.group, self.version = self.process + 1, None, 0

    def prepare_weights(self):
        self.version = None
        return f"{self.name}{self.process}", self.group

    def finish_weights(self, identity, version):
        if identity != f"{self.name}{self.process}":
            raise RuntimeError("another process")
        self.version = version


class Trainer:
    """The ActorPPOTrainer: sends to the engines it has at that moment; `refuses`: positions of those that do not load them."""

    def __init__(self, engines):
        self.vllm_engines, self.sent, self.groups, self.use_cuda_ipc = engines, [], [], False
        self.refuses = []
        vllm = SimpleNamespace(num_engines=3, tensor_parallel_size=2, sync_backend="nccl")
        self.strategy = SimpleNamespace(args=SimpleNamespace(vllm=vllm))
        self._init_vllm_sync_group("nccl")

    def broadcast_to_vllm(self):
        self.sent.append([engine.name for engine in self.vllm_engines])
        for engine in self.vllm_engines:
            if engine.dies:
                engine.start_again()
        self.failed_engines = self.refuses

    def _init_vllm_sync_group(self, backend):
        assert self.strategy.args.vllm.num_engines == len(self.vllm_engines)
        self.groups.append([f"{engine.name}{engine.process}" for engine in self.vllm_engines])
        for engine in self.vllm_engines:
            engine.group = upstream.SyncGroup("here", len(self.groups), 1 + 2 * len(self.vllm_engines))


@pytest.fixture
def parts(monkeypatch):
    """Three engines, the trainer and the sender, on the first rank of a machine with a GPU."""

    def ask_each(engines, method, arguments, limit_s):
        results = []
        for engine, args in zip(engines, arguments, strict=True):
            try:
                results.append(TimeoutError() if engine.dead else getattr(engine, method)(*args))
            except RuntimeError as error:
                results.append(error)
        return results

    monkeypatch.setattr(upstream, "ask_each", ask_each)
    monkeypatch.setattr(
        upstream, "ask_all", lambda engines, method, limit_s: ask_each(engines, method, [()] * len(engines), limit_s)
    )
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(cpu, "is_cpu", lambda: False)
    engines = [Engine(name) for name in "abc"]
    trainer: Any = Trainer(engines)
    return engines, trainer, upstream.WeightSender(engines, limit_s=1.0)


def test_engines_have_the_new_weights_or_are_told(parts):
    engines, trainer, sender = parts
    assert sender.send(trainer, [0, 1, 2], 1) == [] and [engine.version for engine in engines] == [1, 1, 1]
    engines[0].dead = True
    trainer.refuses = [1]  # of the two that are left: c
    assert sender.send(trainer, [0, 1, 2], 2) == [0, 2]
    assert trainer.sent[-1] == ["b", "c"] and trainer.vllm_engines == engines
    assert [engine.version for engine in engines] == [1, 2, None], "c takes no request with what it has"


def test_a_process_that_was_started_again_meanwhile_does_not_pass_for_one_with_the_weights(parts):
    engines, trainer, sender = parts
    engines[1].dies = True
    assert sender.send(trainer, [0, 1], 5) == [1]
    assert trainer.sent == [["a", "b"]] and engines[1].version == 0, "those of the model's folder"


def test_the_group_is_made_anew_only_for_other_processes(parts):
    engines, trainer, sender = parts
    sender.send(trainer, [0, 1, 2], 1)
    sender.send(trainer, [0, 1, 2], 2)
    assert trainer.groups == [["a0", "b0", "c0"]], "OpenRLHF made the first"
    sender.send(trainer, [0, 2], 3)
    assert trainer.groups[1:] == [["a0", "c0"]]
    engines[1].start_again()
    sender.send(trainer, [0, 1, 2], 4)
    sender.send(trainer, [0, 1, 2], 5)
    assert trainer.groups[2:] == [["a0", "b1", "c0"]]
    assert trainer.strategy.args.vllm.num_engines == 3


def test_an_engine_that_was_started_again_before_the_first_broadcast_is_in_no_group_yet(parts):
    engines, trainer, sender = parts
    engines[1].start_again()
    assert sender.send(trainer, [0, 1, 2], 1) == []
    assert trainer.groups[1:] == [["a0", "b1", "c0"]]


def test_the_group_of_others_is_left_by_the_one_that_was_alone(parts):
    """One engine got its weights alone; those that it left have a group that has its name no more."""
    _, trainer, sender = parts
    sender.send(trainer, [1], 1)
    sender.send(trainer, [0, 1, 2], 2)
    assert trainer.groups[1:] == [["b0"], ["a0", "b0", "c0"]]
    assert sender.send(trainer, [], 3) == [] and len(trainer.groups) == 3


def test_other_ranks_take_part_and_ask_nobody(parts, monkeypatch):
    _, trainer, sender = parts
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(upstream, "ask_all", None)
    assert sender.send(trainer, [0], 1) == [] and len(trainer.sent) == 1
