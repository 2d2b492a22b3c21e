"""Values from hidden states as a method: groups as they are sampled anyway, their advantages made behind the forward pass."""

from types import SimpleNamespace

import documented
import numpy as np
import pytest
import torch
from prompt_jobs import rollout

from spo_rlhf.core import gold, probe
from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.baselines import BASELINES
from spo_rlhf.core.partition import Fixed
from spo_rlhf.core.values import leave_one_out
from spo_rlhf.errors import UserError
from spo_rlhf.methods import METHODS
from spo_rlhf.methods.base import TrainerServices
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.probe import Probe

FEATURES = 3


def supply(method, batch_size: int = 4, left_out: int | None = None):
    """Its services make a row of a sample as the trainer does, and a pass whose features are the tokens before a state.

    left_out: number of a sample without a token under the loss, of which no pass is made.
    """

    def to_experience(rollout, sample):
        columns = len(sample.token_ids) - 1
        info = {name: torch.tensor([value]) for name, value in sample.logs.items()}
        return SimpleNamespace(advantages=torch.full((1, columns), 9.0), ids=sample.token_ids, info=info)

    def add_log_probs(experiences):
        for one in (one for number, one in enumerate(experiences) if number != left_out):
            rows = [[sum(one.ids[: t + 1]), t, one.ids[t]] for t in range(len(one.ids) - 1)]
            one.hidden = torch.tensor([rows], dtype=torch.float32)

    args = SimpleNamespace(
        train=SimpleNamespace(batch_size=batch_size, seed=0),
        spo=SimpleNamespace(prompts=SimpleNamespace(memory=lambda: None)),
    )
    reporter = SimpleNamespace(note=lambda text: None)
    encode = lambda text: [ord(letter) for letter in text]  # noqa: E731
    services = TrainerServices(args, to_experience, add_log_probs, lambda fields: None, reporter, log_probs_of, encode)
    return method.supply(services)


def log_probs_of(rows):
    """Of a policy to whom the right answer becomes likelier with the sum of the tokens before it."""
    return [[-1 / (1 + sum(context[3:]))] * len(tokens) for context, tokens in rows]


@pytest.mark.parametrize("trace", [1.0, 0.0])
def test_segments_get_advantages_from_values_at_their_starts(trace):
    method = Probe(partition=Fixed(segment_length=2), trace=trace, features=FEATURES)
    rollouts = [rollout(method, 4, slot=slot) for slot in range(6)]
    plain = [rollout(Group(), 4, slot=slot) for slot in range(6)]
    for made, group in zip(rollouts, plain):
        assert [one.token_ids for one in made.samples] == [one.token_ids for one in group.samples]
        assert made.counts == group.counts, "no token more"
    experiences, metrics = supply(method).take(rollouts, 0)
    samples = [one for made in rollouts for one in made.samples]
    assert len(experiences) == len(samples) == 24 and set(metrics) >= {"probe/explained", "probe/learned"}
    reward_PB = [[one.reward for one in made.samples] for made in rollouts]
    traced = [
        probe.Traced(
            prompt,
            np.array([[sum(one.token_ids[: 3 + b]), 2 + b, one.token_ids[2 + b]] for b in one.boundaries[:-1]]),
            base,
            spread,
            one.reward,
        )
        for prompt, made in enumerate(rollouts)
        for one, base, spread in zip(made.samples, leave_one_out(reward_PB[prompt]), probe.spreads(reward_PB[prompt]))
    ]
    expected = probe.cross_fitted(traced)
    assert metrics["probe/explained"] == pytest.approx(expected.explained)
    for sample, experience, one, value_K in zip(samples, experiences, traced, expected.value_K):
        adv_T = to_tokens(probe.advantages(value_K, one.reward, trace), sample.boundaries)
        assert sample.adv_T == pytest.approx(adv_T) and not hasattr(experience, "hidden")
        row = experience.advantages[0].tolist()
        assert row == pytest.approx([0.0, 0.0, *adv_T], abs=1e-6), "tokens of the prompt have none"
        assert [one.mean for one in sample.estimates] == pytest.approx(value_K)
        assert float(experience.info["value_prompt"]) == pytest.approx(value_K[0])


def test_a_response_without_a_token_under_the_loss_has_no_pass_and_the_others_values():
    method = Probe(partition=Fixed(segment_length=2), features=FEATURES)
    rollouts = [rollout(method, 4, slot=slot) for slot in range(6)]
    samples = [one for made in rollouts for one in made.samples]
    experiences, metrics = supply(method, left_out=5).take(rollouts, 0)
    base = leave_one_out([one.reward for one in rollouts[1].samples])[1]
    assert samples[5].adv_T == pytest.approx([samples[5].reward - base] * len(samples[5].adv_T))
    assert len(experiences) == 24 and np.isfinite(metrics["probe/explained"])
    assert all(one.adv_T is not None and len(one.estimates) == len(one.boundaries) - 1 for one in samples)


@pytest.mark.parametrize("source", ["gold", "both"])
def test_the_right_answers_probability_behind_each_state_is_a_feature(source):
    method = Probe(partition=Fixed(segment_length=2), features=FEATURES, source=source, gold_template=" = {label}!")
    rollouts = [rollout(method, 4, slot=slot) for slot in range(6)]
    supplying, seen = supply(method), []
    credited = supplying.traced

    def watched(*args):
        seen.extend(credited(*args))
        return seen

    supplying.traced = watched
    experiences, metrics = supplying.take(rollouts, 0)
    samples = [one for made in rollouts for one in made.samples]
    rows = {
        (*one.token_ids[: 3 + b], *map(ord, " = ")): [ord("2"), ord("!")]
        for one in samples
        for b in one.boundaries[:-1]
    }
    assert metrics["probe/gold_tokens"] == sum(len(context) + 2 for context in rows), (
        "each state once, the answer behind it"
    )
    assert documented.undocumented({name for name in metrics if name.startswith("probe/")}) == set()
    assert metrics["probe/gold_seconds"] > 0 and 0 < metrics["probe/gold_first"] < 1
    for one, sample in zip(seen, samples, strict=True):
        states = [[*sample.token_ids[: 3 + b], *map(ord, " = ")] for b in sample.boundaries[:-1]]
        expected = gold.features(log_probs_of([(state, [1, 2]) for state in states]))
        np.testing.assert_allclose(one.state_KD[:, -gold.FEATURES :], expected)
        assert one.state_KD.shape[1] == gold.FEATURES + (FEATURES if source == "both" else 0)
    assert all(not hasattr(one, "hidden") for one in experiences)
    assert method.hidden_features == (FEATURES if source == "both" else 0)


def test_a_label_that_is_no_short_text_is_told():
    method = Probe(partition=Fixed(segment_length=2), source="gold")
    for label in ("x" * 65, " "):
        made = rollout(method, 4)
        made.label = label
        with pytest.raises(UserError, match="--spo.probe_source gold: the label .* is no short text"):
            supply(method).take([made], 0)


@pytest.mark.parametrize(
    ("changes", "explicit", "what"),
    [
        ({"gold_template": "no place"}, set(), "has no {label}"),
        ({"source": "hidden"}, {"spo.gold_template"}, "no meaning with --spo.probe_source hidden"),
        ({"source": "gold"}, {"spo.probe_features"}, "no meaning with --spo.probe_source gold"),
        ({"source": "both", "label": None}, set(), "needs the right answers: give --data.label_key"),
    ],
)
def test_sources_that_do_not_go_with_the_rest_are_refused(changes, explicit, what):
    options = {
        "spo.mode": "probe",
        "spo.old_logprobs": "actor",
        "spo.pack_trees": "off",
        "ds.packing_samples": False,
        "ds.ring_attn_size": 1,
        "train.dynamic_batch_enable": False,
        "reward.remote_url": "r.py",
        "data.max_images_per_prompt": 0,
        "data.label_key": changes.pop("label", "answer"),
    }
    with pytest.raises(UserError, match=what):
        Probe(**changes).refuse(options, explicit)
    Probe(source="gold").refuse(options | {"data.label_key": "answer", "spo.old_logprobs": "engine"}, set())


def test_its_place_in_the_command():
    assert METHODS["probe"] is Probe and Probe().masks_by_default and Probe().brings_advantages
    assert Probe(features=8).hidden_features == 8 and Group().hidden_features == 0
    assert Probe().memory() is None and Probe(baseline=BASELINES["history"]()).memory() is not None
