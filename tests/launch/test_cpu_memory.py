"""What a run without a GPU is estimated to need: every part where it is, a dry run that tells, a run that cannot fit refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import stack

from spo_rlhf.cli import train
from spo_rlhf.errors import UserError
from spo_rlhf.launch import cpu_memory, preflight
from spo_rlhf.launch.memory_plan import GIB, Load, model_shape

SHAPE = model_shape(
    {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 24,
        "num_key_value_heads": 12,
        "vocab_size": 1000,
        "tie_word_embeddings": True,
    }
)
LOAD = Load(devices=1, tokens=8 * 64, max_len=64, logit_tokens=512, zero_stage=2, reference=False)
P = 4 * SHAPE.parameters


def test_every_part_is_in_the_phase_where_it_is():
    one = cpu_memory.plan(SHAPE, LOAD, 1, accumulates=True)
    assert one.rank["weights"] == P and one.rank["optimizer"] == 3 * P and one.rank["gradients"] == 3 * P
    assert one.rank["logits"] == 512 * 1000 * 16 and one.engine["KV cache"] == GIB
    assert one.sync == {"rank 0": P, "object store": P, "engines": 2 * P}
    assert one.syncing - one.training == 4 * P - 3 * P, "gradients are gone when weights go over"
    once = cpu_memory.plan(SHAPE, LOAD, 1, accumulates=False)
    assert one.training - once.training == P


def test_two_ranks_share_the_optimizer_and_two_engines_take_twice():
    one = cpu_memory.plan(SHAPE, LOAD, 1, accumulates=True)
    two = cpu_memory.plan(SHAPE, replace(LOAD, devices=2), 2, accumulates=True)
    assert two.rank["optimizer"] == pytest.approx(one.rank["optimizer"] / 2)
    assert two.rank["gradients"] == pytest.approx(2 * P), "the bucket is each rank's own"
    assert two.sync["engines"] == 2 * one.sync["engines"] and two.sync["rank 0"] == P
    assert cpu_memory.plan(SHAPE, replace(LOAD, reference=True), 1, accumulates=True).training > one.training + P
    scored = cpu_memory.plan(SHAPE, replace(LOAD, reward=10**6), 1, accumulates=True)
    for phase in ("training", "syncing"):
        assert getattr(scored, phase) - getattr(one, phase) == 4 * 10**6 + cpu_memory.RANK_BYTES


def test_long_micro_batches_take_more_than_gradients():
    wide = replace(LOAD, tokens=16384, logit_tokens=16384)
    plain, saved = (
        cpu_memory.plan(SHAPE, replace(wide, checkpointing=on), 1, accumulates=True).training for on in (False, True)
    )
    assert plain > 2 * saved
    assert plain > cpu_memory.plan(SHAPE, LOAD, 1, accumulates=True).training


def arguments(**changes):
    values = dict(dry_run=True, engines=2, micro=64, name="model") | changes
    return SimpleNamespace(
        dry_run=values["dry_run"],
        actor=SimpleNamespace(model_name_or_path="model"),
        algo=SimpleNamespace(kl=SimpleNamespace(init_coef=0)),
        reward=SimpleNamespace(model_name_or_path=None, remote_url=["reward.py"]),
        train=SimpleNamespace(batch_size=128, micro_batch_size=values["micro"]),
        vllm=SimpleNamespace(num_engines=values["engines"]),
    )


@pytest.fixture
def planned(monkeypatch):
    """A model of SHAPE and a load of long micro-batches."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    load = replace(LOAD, tokens=16384, logit_tokens=16384, max_len=256)
    monkeypatch.setattr(cpu_memory.gpu_rules, "read_shape", lambda args: SHAPE)
    monkeypatch.setattr(cpu_memory.gpu_rules, "load_of", lambda args, shape: load)


def test_a_dry_run_tells_and_a_run_does_not(planned):
    lines = cpu_memory.settle(arguments(), 200 * GIB)
    for name in ("weights", "gradients", "optimizer", "activations", "KV cache", "logits", "weight sync"):
        assert name in "\n".join(lines)
    assert cpu_memory.settle(arguments(dry_run=False), 200 * GIB) == []


def test_a_run_that_cannot_fit_is_refused_with_what_to_change(planned, monkeypatch):
    with pytest.raises(UserError) as refused:
        cpu_memory.settle(arguments(dry_run=False), 14 * GIB)
    assert "does not fit" in str(refused.value) and "--actor.gradient_checkpointing_enable" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="a smaller model"):
        cpu_memory.settle(arguments(), 2 * GIB)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cpu_memory.settle(arguments(), 2 * GIB), "the nodes of a cluster may have more than this machine"


def test_changes_are_told_in_the_order_of_what_they_cost():
    steps = cpu_memory.smaller(replace(LOAD, tokens=4096, logit_tokens=4096), 2)
    assert [engines for _, _, engines in steps] == [2, 2, 1]
    assert steps[-1][0].split() == [
        "--actor.gradient_checkpointing_enable",
        *("--train.micro_batch_size", "1", "--rollout.micro_batch_size", "1"),
        *("--vllm.num_engines", "1"),
    ]
    assert cpu_memory.smaller(replace(LOAD, tokens=64, logit_tokens=64, checkpointing=True), 1) == []


def test_the_command_ends_with_one_line_and_status_2(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preflight.device, "machine_memory_bytes", lambda: GIB)
    assert train.main([*stack.options(made, tmp_path), "--dry-run"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "does not fit" in line]
    assert line.startswith("spo-train: error: ") and "1.0 GiB" in line
