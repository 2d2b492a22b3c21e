"""TEMPO as a method: groups as they are sampled anyway, with the credit of what they share."""

import pytest
from prompt_jobs import rollout

from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.baselines import BASELINES
from spo_rlhf.core.shared_prefixes import credit
from spo_rlhf.core.values import Prior
from spo_rlhf.methods import METHODS
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.tempo import Tempo


@pytest.mark.parametrize("prior", [None, Prior(0.4, 5.0)])
def test_samples_are_those_of_a_group_with_the_credit_of_their_prefixes(prior):
    made, group = rollout(Tempo(shared_strength=2.0), 6, prior=prior), rollout(Group(), 6)
    assert [one.token_ids for one in made.samples] == [one.token_ids for one in group.samples]
    assert made.counts == group.counts, "no token more"
    expected = credit([one.token_ids[3:] for one in made.samples], [one.reward for one in made.samples], 2.0, prior)
    for sample, one in zip(made.samples, expected, strict=True):
        assert sample.boundaries == one.boundaries and len(sample.estimates) == len(one.adv_K)
        assert sample.adv_T == pytest.approx(to_tokens(one.adv_K, one.boundaries))
        assert sample.logs["segments"] == len(one.adv_K)
    assert any(len(one.adv_K) > 2 for one in expected), "something is shared"


def test_with_a_history_one_response_is_enough():
    [sample] = rollout(Tempo(), 1, prior=Prior(0.25, 3.0)).samples
    assert sample.adv_T == pytest.approx([sample.reward - 0.25] * len(sample.adv_T))


def test_its_place_in_the_command():
    assert METHODS["tempo"] is Tempo and Tempo().masks_by_default and Tempo().brings_advantages
    assert Tempo().memory() is None and Tempo(baseline=BASELINES["history"]()).memory() is not None
