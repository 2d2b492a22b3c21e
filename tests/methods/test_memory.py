"""The memory of a run: what it learns from rollouts, what it says of prompts, and checkpoints of it."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from spo_rlhf.config import SpoConfig
from spo_rlhf.core.baselines import History
from spo_rlhf.core.partition import Fixed
from spo_rlhf.core.prompts import AllPrompts, SkipDecided
from spo_rlhf.core.values import Prior
from spo_rlhf.methods.base import TrainerServices
from spo_rlhf.methods.chain import Chain
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.tree import Tree
from spo_rlhf.rollout.job import PromptJob, RolloutRequest
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel
from spo_rlhf.trainer.events import Reporter

HISTORY = History(half_life=4.0, strength=1.0)


def rollout(prompt: str, rewards, prior: Prior | None = None) -> Rollout:
    samples = [Sample([1, 2], [(1, 2)], [0.0, -1.0], truncated=False, reward=reward) for reward in rewards]
    return Rollout(prompt, "label", 0, 0, RolloutCounts(), samples, prior=prior)


def supply(method=None, prompts=None):
    """Of a run, and what it tells the user."""
    args = SimpleNamespace(
        train=SimpleNamespace(seed=0, batch_size=1),
        rollout=SimpleNamespace(batch_size=2, n_samples_per_prompt=2),
        algo=SimpleNamespace(kl=SimpleNamespace(init_coef=0.0)),
        spo=SpoConfig(prompts=prompts or AllPrompts()),
    )
    notes = []
    reporter = Reporter(None)
    reporter.note = notes.append
    services = TrainerServices(args, lambda rollout, one: one, lambda samples: None, dict, reporter)
    return (method or Group(baseline=HISTORY)).supply(services), notes


def prior(of, prompt, label, iteration):
    """What the method is told of a prompt."""
    return of.judge(prompt, label, iteration)[1]


def test_a_batch_is_learned_after_it_was_sampled():
    one, _ = supply()
    first = [rollout(prompt, [1.0, 0.0], prior(one, prompt, "label", 0)) for prompt in ("a", "b")]
    samples, metrics = one.take(first, 0)
    assert len(samples) == 4 and metrics["history/known"] == 0 and metrics["history/age"] == 0
    assert metrics["history/strength"] == 1 and metrics["history/prompts"] == 2
    # Against (0.5 + other) / 2: 1 - 0.25 and 0 - 0.75.
    assert metrics["history/residual_variance"] == pytest.approx(0.75**2)
    assert metrics["history/baseline_variance"] == pytest.approx(0.25**2)
    _, metrics = one.take([rollout("a", [1.0, 1.0]), rollout("c", [1.0])], 3)
    assert metrics["history/known"] == 0.5 and metrics["history/age"] == 3
    assert prior(one, "a", "label", 3).mean > prior(one, "b", "label", 3).mean
    assert prior(one, "a", "other label", 3) == prior(one, "new", "label", 3)


@pytest.mark.parametrize("method", [Group(baseline=HISTORY), Chain(baseline=HISTORY), Tree(baseline=HISTORY)])
def test_a_checkpoint_holds_the_history(tmp_path, method):
    one, _ = supply(method)
    one.memory.learn([rollout("a", [1.0])], 1)
    one.save(tmp_path)
    again, notes = supply(method)
    again.load(tmp_path)
    assert prior(again, "a", "label", 9) == prior(one, "a", "label", 9)
    assert notes == []
    again.load(tmp_path / "other")
    assert "no history of the prompts" in notes[0]


def test_without_a_history_nothing_is_known_and_nothing_written(tmp_path):
    one, notes = supply(Group())
    assert one.judge("a", "label", 0) == (1.0, None)
    assert one.take([rollout("a", [1.0, 0.0])], 0)[1] == {}
    one.save(tmp_path)
    one.load(tmp_path)
    assert notes == [] and list(tmp_path.iterdir()) == []


def test_skipping_remembers_and_leaves_the_baseline_as_it_is():
    one, _ = supply(Group(), prompts=SkipDecided(floor=0.5))
    assert one.judge("a", "label", 0) == (1.0, None), "nothing is known: p = 1/2"
    _, metrics = one.take([replace(rollout("a", [1.0] * 8), weight=4.0), rollout("b", [0.0] * 8)], 0)
    assert metrics["history/kept"] == pytest.approx(2 / 5) and "history/strength" not in metrics
    keep, told = one.judge("a", "label", 1)
    assert 0.5 <= keep < 0.7 and told is None
    both, _ = supply(prompts=SkipDecided(floor=0.5))
    both.take([rollout("a", [1.0] * 8)], 0)
    keep, told = both.judge("a", "label", 1)
    assert keep == 0.5 and told is not None


def sampled(method, num_samples, prior):
    """A rollout of a prompt of three tokens on the tabular model."""
    model = ToyLanguageModel(3, 6, lambda response: float(sum(response) % 2))
    request = RolloutRequest("p", "l", 0, (1, "train", 0), num_samples, 9, None, 1.0, 1.0, -1, method, prior=prior)
    job = PromptJob(
        request, ToyEngine(model, 3), ToyGrader(model), [7] * 3, 6, 0, True, lambda ids: ["x"] * len(ids), {}
    )
    return asyncio.run(method.rollout(job))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_group_is_compared_with_the_others_and_what_was_known(num_samples):
    prior = Prior(mean=0.25, count=2.0)
    made = sampled(Group(baseline=HISTORY), num_samples, prior)
    assert made.prior == prior and len(made.samples) == num_samples
    total = sum(made.outcomes())
    for one in made.samples:
        baseline = (0.5 + total - one.reward) / (2 + num_samples - 1)
        assert one.adv_T == pytest.approx([one.reward - baseline] * len(one.adv_T)) and one.boundaries[-1] == len(
            one.adv_T
        )
        assert one.logs["value_prompt"] == pytest.approx(baseline)
    assert all(one.adv_T is None for one in sampled(Group(), num_samples, None).samples)


def test_a_chain_with_a_history_starts_from_it_and_asks_no_continuation_of_the_prompt():
    method, prior = Chain(baseline=HISTORY, partition=Fixed(segment_length=100), mc_rollouts=2), Prior(0.25, 2.0)
    made = sampled(method, 1, prior)
    [one] = made.samples
    assert one.adv_T[0] == pytest.approx(one.reward - 0.25) and made.counts.mc_requests == 0
    assert sampled(method, 1, None).counts.mc_requests == 1
    two = sampled(method, 2, prior)
    assert [one.logs["value_prompt"] for one in two.samples] == pytest.approx(
        [(0.5 + other) / 3 for other in two.outcomes()[::-1]]
    )
