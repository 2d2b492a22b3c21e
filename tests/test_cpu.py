"""Options that mean something else without a GPU are settled, and each is told."""

from types import SimpleNamespace

import pytest

from spo_rlhf import cpu


@pytest.mark.parametrize(("stage", "settled"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_stages_that_do_not_hold_without_a_gpu_become_one_that_does(stage: int, settled: int) -> None:
    args = SimpleNamespace(ds=SimpleNamespace(zero_stage=stage, adam_offload=False))
    notes = cpu.settle_deepspeed(args)
    assert args.ds.zero_stage == settled
    assert notes == [] if stage == settled else notes[0].startswith(f"--ds.zero_stage {settled}: ")


def test_an_optimizer_that_is_on_the_cpu_is_not_moved_there() -> None:
    args = SimpleNamespace(ds=SimpleNamespace(zero_stage=2, adam_offload=True))
    assert cpu.settle_deepspeed(args) == ["--ds.adam_offload off: the optimizer is on the CPU already"]
    assert not args.ds.adam_offload
