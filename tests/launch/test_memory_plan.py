"""What is estimated of a GPU's memory: parameters as transformers counts them, and a plan that follows what the run does."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from spo_rlhf.launch.memory_plan import GIB, Load, model_shape, plan, remedies

QWEN_15B = {
    "num_hidden_layers": 28,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
SHAPE = model_shape(QWEN_15B)
LOAD = Load(devices=1, tokens=2 * 2048, max_len=2048, logit_tokens=1766, zero_stage=2, checkpointing=True)
H100 = 80 * GIB


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_the_model(config, tied):
    sizes = {**QWEN_15B, "vocab_size": 32000, "num_hidden_layers": 3, "tie_word_embeddings": tied}
    made = config(**sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    real = sum(parameter.numel() for parameter in model.parameters())
    assert model_shape(made.to_dict()).parameters == pytest.approx(real, rel=1e-3)


def test_a_model_that_the_formula_does_not_cover_is_not_estimated():
    assert model_shape({**QWEN_15B, "num_experts": 64}) is None
    assert model_shape({"vocab_size": 10}) is None
    assert model_shape({**QWEN_15B, "text_config": "qwen2"}) is None, "no object: the check of the model says so"
    assert model_shape({"text_config": QWEN_15B}) == SHAPE


def test_every_part_counts_where_it_is():
    base = plan(SHAPE, LOAD)
    p = SHAPE.parameters
    assert base.parts["weights"] == base.parts["reference"] == 2 * p
    assert base.parts["gradients"] == 4 * p and base.parts["optimizer"] == 12 * p
    assert base.parts["logits"] == 1766 * 151936 * 14
    assert base.parts["weight sync"] == 2 * 151936 * 1536 and base.parts["KV cache"] == 4 * 2048 * 28 * 2 * 2 * 128 * 2
    fixed = 4 * p + base.parts["processes"]
    assert base.sampling == fixed + base.parts["weight sync"], "gradients and optimizer sleep"
    for bucket, together, room in ((1 << 20, True, 0), (GIB, True, GIB), (GIB, False, GIB), (0, False, None)):
        sync = plan(SHAPE, replace(LOAD, bucket=bucket, together=together)).parts["weight sync"]
        assert sync == {None: 0, 0: base.parts["weight sync"]}.get(room, room), "a larger tensor is a bucket of its own"
    assert base.training > base.sampling + 16 * p
    chunk, whole = (plan(SHAPE, replace(LOAD, adam_offload=True, logit_tokens=n)) for n in (1766, 4096))
    assert whole.training - chunk.training == (4096 - 1766) * 151936 * 14
    assert plan(SHAPE, replace(LOAD, checkpointing=False)).training > base.training
    awake = plan(SHAPE, replace(LOAD, policy_sleeps=False))
    assert awake.sampling == base.sampling + 16 * p and awake.training == base.training


@pytest.mark.parametrize(
    ("change", "part", "factor"),
    [
        (dict(devices=4), "optimizer", 1 / 4),
        (dict(devices=4), "gradients", 1 / 4),
        (dict(devices=4), "weights", 1),
        (dict(devices=4, zero_stage=1), "gradients", 3 / 2),
        (dict(devices=4, zero_stage=3), "reference", 1 / 4),
        (dict(adam_offload=True), "optimizer", 0),
        (dict(grad_bytes=2), "gradients", 1 / 2),
        (dict(critic=True), "optimizer", 2),
        (dict(reference=False), "reference", 0),
        (dict(reward=0), "reward model", 0),
        (dict(devices=4), "reward model", 1),
        (dict(devices=4, zero_stage=3), "reward model", 1 / 4),
    ],
)
def test_stages_and_switches_change_what_they_shard_or_move(change, part, factor):
    load = replace(LOAD, reward=10**9)
    changed = plan(SHAPE, replace(load, **change)).parts[part]
    assert changed == pytest.approx(factor * plan(SHAPE, load).parts[part], rel=1e-6)


def test_a_reward_model_is_there_in_both_phases():
    alone, scored = plan(SHAPE, LOAD), plan(SHAPE, replace(LOAD, reward=10**9))
    for phase in ("sampling", "training"):
        assert getattr(scored, phase) - getattr(alone, phase) == 2 * 10**9 + GIB, "its weights, and a process"
    assert alone.engine_least == scored.engine_least
    assert any(line.count("reward model 1.9") for line in scored.lines())
    assert not any("reward model" in line for line in alone.lines())


def test_a_reward_model_has_a_head_for_one_number():
    for shape in (SHAPE, replace(SHAPE, tied=False)):
        assert shape.scoring_parameters == SHAPE.parameters + 1536


def test_the_share_leaves_room_for_the_rest_and_shrinks_when_nothing_sleeps():
    sleeping = plan(SHAPE, LOAD)
    share = sleeping.share(H100)
    assert share == 0.6 and sleeping.need(share, H100) < H100
    awake = plan(SHAPE, replace(LOAD, engine_sleeps=False, policy_sleeps=False))
    assert awake.share(H100) < share and awake.need(awake.share(H100), H100) <= H100
    assert awake.need(0.95, H100) > H100, "upstream's default does not fit"
    assert plan(SHAPE, replace(LOAD, together=False)).share(H100) == 0.9


def test_what_does_not_fit_is_told_with_the_fewest_changes():
    small = 48 * GIB
    heavy = replace(LOAD, checkpointing=False, tokens=8 * 2048)
    assert plan(SHAPE, heavy).share(small) is None
    flags = remedies(SHAPE, heavy, small)
    assert flags == ["--actor.gradient_checkpointing_enable"]
    assert plan(SHAPE, replace(heavy, checkpointing=True)).share(small) is not None
    assert "--ds.adam_offload" in remedies(SHAPE, heavy, 24 * GIB)
    assert "--ds.zero_stage 3" not in remedies(SHAPE, heavy, 24 * GIB), "one GPU has nothing to share it with"
    assert remedies(SHAPE, heavy, 6 * GIB) == []


def test_no_change_is_named_that_a_later_one_makes_needless():
    """Seven billion parameters on one GPU: what makes them fit is that the optimizer leaves it."""
    shape = replace(SHAPE, hidden=3584, intermediate=18944, heads=28, kv_heads=4, tied=False)
    heavy = replace(LOAD, checkpointing=False, tokens=8 * 320, max_len=320, reference=False)
    assert remedies(shape, heavy, H100) == ["--ds.adam_offload"]
    whole = replace(LOAD, devices=8, zero_stage=3, tokens=8 * 4096, logit_tokens=8 * 4096, max_len=4096)
    assert remedies(SHAPE, whole, 48 * GIB) == ["--train.micro_batch_size 1 --rollout.micro_batch_size 1"]


@pytest.mark.parametrize(
    ("hidden", "intermediate", "heads", "kv_heads", "rows", "length"),
    [(256, 1024, 8, 4, 8, 104), (256, 1024, 4, 2, 4, 256), (448, 2432, 7, 1, 2, 256)],
)
def test_activations_are_those_that_backward_keeps(hidden, intermediate, heads, kv_heads, rows, length):
    """Measured in float32, twice as wide as bf16: every tensor that autograd saves, but for the weights."""
    sizes = dict(hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads)
    config = Qwen2Config(
        **{**QWEN_15B, **sizes, "num_key_value_heads": kv_heads, "num_hidden_layers": 3, "vocab_size": 99}
    )
    config._attn_implementation = "sdpa"
    model, saved = AutoModelForCausalLM.from_config(config).float(), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def save(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, :5] = 0
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        kept = model.model(input_ids=torch.ones(rows, length, dtype=torch.long), attention_mask=mask)
    estimate = rows * length * 3 * 2 * model_shape(config.to_dict()).layer_bytes
    assert estimate == pytest.approx(sum(saved.values()), rel=0.15) and kept is not None
