"""What an engine is asked for: a seed for each request, or none."""

import asyncio
from types import SimpleNamespace

import pytest

from spo_rlhf.config import SpoConfig
from spo_rlhf.host import device
from spo_rlhf.methods.group import Group
from spo_rlhf.rollout.engine import TokenSampler, engine_factory
from spo_rlhf.rollout.job import RolloutRequest


def request(*, seeded: bool) -> RolloutRequest:
    return RolloutRequest(
        prompt="p",
        label="l",
        slot=0,
        seed=(0, "train", 0),
        num_samples=2,
        max_length=16,
        max_new_tokens=4,
        temperature=0.6,
        top_p=0.9,
        top_k=-1,
        method=Group(),
        seeded=seeded,
    )


@pytest.mark.parametrize("seeded", [True, False])
def test_a_request_carries_its_seed_unless_it_is_not_to_have_one(seeded):
    asked = []

    async def generate(state, params):
        asked.append(params)
        return SimpleNamespace(outputs=[], num_cached_tokens=0)

    sampler = TokenSampler(SimpleNamespace(generate=generate, partial=False), request(seeded=seeded))
    asyncio.run(sampler.sample([1, 2], n=3, max_tokens=4, seed=77, logprobs=True))
    [params] = asked
    assert (params.n, params.max_tokens, params.temperature) == (3, 4, 0.6)
    assert params.seed == (77 if seeded else None)


@pytest.mark.parametrize(
    ("given", "kind", "seeded"),
    [("auto", device.CPU, True), ("auto", device.GPU, False), ("on", device.GPU, True), ("off", device.CPU, False)],
)
def test_seeds_are_where_runs_repeat_unless_asked_for(given, kind, seeded):
    device.settle(kind)
    try:
        assert SpoConfig(method=Group(), request_seeds=given).seeded is seeded
    finally:
        device.settle(None)


OPENRLHFS = "openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap"
OURS = "spo_rlhf.upstream_worker.BucketWorker"


@pytest.mark.parametrize(
    ("kind", "buckets", "worker"),
    [
        (device.GPU, False, OPENRLHFS),
        (device.GPU, True, OURS),
        (device.CPU, False, "spo_rlhf.cpu.WorkerExtension"),
        (device.CPU, True, "spo_rlhf.cpu.WorkerExtension"),
    ],
)
def test_workers_of_engines_on_gpus_take_buckets_where_weights_come_in_them(kind, buckets, worker):
    device.settle(kind)
    made = []
    try:
        factory = engine_factory(
            reward_workers=1,
            reward_timeout=1.0,
            max_num_seqs=8,
            use_fast_tokenizer=True,
            chat_template=False,
            partial_rollouts=False,
            weight_buckets=buckets,
        )
        factory.actor_class = SimpleNamespace(remote=lambda **kwargs: made.append(kwargs))
        factory.remote(worker_extension_cls=OPENRLHFS, max_model_len=64)
    finally:
        device.settle(None)
    assert made[0]["worker_extension_cls"] == worker
