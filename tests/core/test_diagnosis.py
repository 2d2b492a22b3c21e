"""Moments have the expectation that they state, and predictions are the noise of the estimators themselves: by enumeration."""

from dataclasses import replace
from itertools import combinations_with_replacement, permutations, product

import numpy as np
import pytest
from enumerable import ToyLM

from spo_rlhf.core import tree as tree_core
from spo_rlhf.core.diagnosis import FIELDS, Moments, Probe, Response, energy, moments, resampled
from spo_rlhf.core.predictions import Chain, Group, Interval, Tree, cheapest, designs, interval, settled_at
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.core.values import Prior, leave_one_out

LMS = pytest.mark.parametrize(
    "lm", [ToyLM(0, max_tokens=2), ToyLM(3, max_tokens=2, confident=0.4)], ids=["free", "sure"]
)
CUTS = (1,)


def response(lm: ToyLM, index: int, **more) -> Response:
    tokens = lm.responses[index]
    state_prob = [lm.prob[lm.row[tokens[:t]]] for t in range(len(tokens))]
    prob_T = np.array([p[token] for p, token in zip(state_prob, tokens)])
    square_T = np.array([(p**2).sum() for p in state_prob])
    return Response(tokens, prob_T, square_T, np.ones(len(tokens)), float(lm.rewards[index]), False, **more)


def score_square(lm: ToyLM, index: int, start: int = 0, end: int | None = None) -> float:
    return float((lm.score(index, start, len(lm.responses[index]) if end is None else end) ** 2).sum())


def outcomes(lm: ToyLM, state: tuple[int, ...]) -> list[tuple[float, float]]:
    """Rewards from a state and their probabilities."""
    return [(float(lm.rewards[i]), p) for i, p in lm.completions(state).items()]


def mean_and_variance(lm: ToyLM, state: tuple[int, ...]) -> tuple[float, float]:
    reward, p = np.array(outcomes(lm, state)).T
    return float(reward @ p), float((reward - reward @ p) ** 2 @ p)


def population(lm: ToyLM, cut: int) -> dict[str, float]:
    """What the moments stand for, from their definitions."""
    v0, s0 = mean_and_variance(lm, ())
    at, other = [], 0.0
    for i in lm.possible():
        y, ended = lm.responses[i], len(lm.responses[i]) <= cut
        v, s = (float(lm.rewards[i]), 0.0) if ended else mean_and_variance(lm, y[:cut])
        at.append((i, v, s))
        other += lm.weights[i] * s
    total = dict.fromkeys(FIELDS, 0.0)
    for i, v, s in at:
        y, p, r = lm.responses[i], lm.weights[i], float(lm.rewards[i])
        before, after = score_square(lm, i, 0, min(cut, len(y))), score_square(lm, i, min(cut, len(y)))
        value_T = [mean_and_variance(lm, y[:t])[0] for t in range(len(y))] + [r]
        own = {
            "tokens": len(y),
            "before_C": min(len(y), cut),
            "energy": before + after,
            "energy_C": before,
            "reward": r,
            "group": (before + after) * (r - v0) ** 2,
            "group_noise": (before + after) * s0,
            "exact_value": sum(score_square(lm, i, t, t + 1) * (r - value_T[t]) ** 2 for t in range(len(y))),
            "exact_advantage": sum(
                score_square(lm, i, t, t + 1) * (value_T[t + 1] - value_T[t]) ** 2 for t in range(len(y))
            ),
            "before_value_C": before * (v - v0) ** 2,
            "before_noise_C": before * s,
            "before_start_C": before * s0,
            "before_others_C": before * other,
            "after_own_C": after * (r - v) ** 2,
            "after_noise_C": after * s,
            "after_value_C": after * (v - v0) ** 2,
            "after_start_C": after * s0,
            "after_others_C": after * other,
            "after_cross_C": after * (r - v) * (v - v0),
        }
        for name, value in own.items():
            total[name] += p * value
    total |= {"spread": s0, "unsettled_C": other, "overlap": float((lm.policy_gradient() ** 2).sum())}
    return total | {"others": v0, "others_square": v0**2 + s0 / 2, "others_product": v0**2}


def as_moments(of: dict[str, float]) -> Moments:
    return Moments(**{n: np.array([v]) if n.endswith("_C") else np.asarray(v, float) for n, v in of.items()})


def pairs(lm: ToyLM, state: tuple[int, ...]) -> list[tuple[np.ndarray, float]]:
    return [(np.array([a, b]), p * q) for (a, p), (b, q) in product(outcomes(lm, state), repeat=2)]


@LMS
def test_moments_have_the_expectation_that_they_state(lm):
    """Over all groups of three responses and all pairs of continuations from their cuts."""
    [cut] = CUTS
    choices = {
        i: [([None], 1.0)] if len(lm.responses[i]) <= cut else [([x], p) for x, p in pairs(lm, lm.responses[i][:cut])]
        for i in lm.possible()
    }
    expected = dict.fromkeys(FIELDS, 0.0)

    def add(group, at, weight):
        made = moments([response(lm, i, at_cuts=x) for i, x in zip(group, at)], CUTS)
        for name in FIELDS:
            expected[name] += weight * float(np.squeeze(getattr(made, name)))

    for group in combinations_with_replacement(lm.possible(), 3):  # in any order
        weight = len(set(permutations(group))) * lm.weights[list(group)].prod()
        # No term has continuations of two responses in it, so they are averaged one response after the other.
        fixed = [choices[i][0][0] for i in group]
        add(group, fixed, weight * (1 - len(group)))
        for place, i in enumerate(group):
            for x, p in choices[i]:
                add(group, [*fixed[:place], x, *fixed[place + 1 :]], weight * p)
    known = population(lm, cut)
    for name in set(FIELDS) - {"exact_value", "exact_advantage", "truncated", "decided"}:
        assert expected[name] == pytest.approx(known[name], abs=1e-10), name


@LMS
def test_probes_drawn_by_their_energy_give_the_noise_of_free_exact_values_and_advantages(lm):
    """The two others of each group have no energy, and so no part in it."""
    value = advantage = 0.0
    for i in lm.possible():
        one = response(lm, i)
        tokens, energy_T, silent = one.token_ids, one.energy_T, replace(one, trained_T=np.zeros(len(one.prob_T)))
        for t in range(len(tokens)):
            after = pairs(lm, tokens[: t + 1]) if t + 1 < len(tokens) else [(np.full(2, one.reward), 1.0)]
            for (x, p), (z, q) in product(pairs(lm, tokens[:t]), after):
                probed = replace(one, probes=[Probe(x, z)])
                made = moments([probed, silent, silent], ())
                weight = 3 * lm.weights[i] * energy_T[t] / energy_T.sum() * p * q
                value, advantage = value + weight * made.exact_value, advantage + weight * made.exact_advantage
    known = population(lm, 1)
    assert value == pytest.approx(known["exact_value"]) and advantage == pytest.approx(known["exact_advantage"])


def test_energy_is_the_squared_length_of_the_score():
    lm = ToyLM(1, max_tokens=3, confident=0.5)
    for i in lm.possible():
        assert response(lm, i).energy_T.sum() == pytest.approx(score_square(lm, i))
    one = response(lm, 5)
    assert (replace(one, trained_T=np.zeros(len(one.prob_T))).energy_T == 0).all()
    assert (energy(np.array([1.0]), np.array([1.0 - 1e-17])) >= 0).all()


@LMS
@pytest.mark.parametrize("responses, history", [(2, 0), (3, 0), (1, 1), (1, 2), (2, 1)])
def test_the_noise_of_a_group_is_that_of_its_gradient(lm, responses, history):
    scores = {i: lm.score(i, 0, len(lm.responses[i])) for i in lm.possible()}
    noise = 0.0
    for drawn in product(lm.possible(), repeat=responses + history):
        group, earlier = drawn[:responses], lm.rewards[list(drawn[responses:])]
        prior = Prior(float(earlier.mean()), history) if history else None
        reward = lm.rewards[list(group)]
        adv = reward - leave_one_out(reward, prior)
        gradient = sum(a * scores[i] for a, i in zip(adv, group)) / responses
        noise += lm.weights[list(drawn)].prod() * (gradient**2).sum()
    predicted = Group(responses=responses, history=history)
    m = as_moments(population(lm, 1))
    assert predicted.noise(m) == pytest.approx(noise)
    assert predicted.price(m) == pytest.approx(noise * responses * population(lm, 1)["tokens"])


def alone(lm: ToyLM) -> Moments:
    """Without what samples of one prompt have in common."""
    return as_moments(population(lm, 1) | {"overlap": 0.0})


@LMS
@pytest.mark.parametrize("rollouts, history", [(1, 0), (2, 0), (1, 1)])
def test_the_noise_of_a_chain_is_that_of_its_responses(lm, rollouts, history):
    noise, [cut] = 0.0, CUTS
    for i in lm.possible():
        y, r = lm.responses[i], lm.rewards[i]
        ended = len(y) <= cut
        for known in product(lm.possible(), repeat=1 + history):
            base = lm.rewards[list(known)].mean()
            states = [((r,), 1.0)] if ended else list(product(outcomes(lm, y[:cut]), repeat=rollouts))
            for drawn in states:
                reached = [(r, 1.0)] if ended else drawn
                value = np.mean([reward for reward, _ in reached])
                weight = lm.weights[[i, *known]].prod() * np.prod([p for _, p in reached])
                square = score_square(lm, i, 0, min(cut, len(y))) * (value - base) ** 2
                square += score_square(lm, i, min(cut, len(y))) * (r - value) ** 2
                noise += weight * square / 2
    assert Chain(responses=2, rollouts=rollouts, history=history).noise(alone(lm)) == pytest.approx(noise)


@LMS
@pytest.mark.parametrize("branching, history", [((2, 2), 0), ((1, 2), 1), ((2, 2), 1), ((1, 3), 1)])
def test_the_noise_of_a_tree_is_that_of_its_nodes(lm, branching, history):
    """By the project's own tree advantages, over all trees."""
    m, [cut] = alone(lm), CUTS
    tree, (wide, deep) = Tree(branching=branching, history=history), branching
    advantage, noise = Shrunk(branching=branching, settled=(tree.factors(m)[0],)), 0.0
    firsts: dict[tuple, float] = {}
    for i in lm.possible():
        firsts[lm.responses[i][:cut]] = firsts.get(lm.responses[i][:cut], 0.0) + lm.weights[i]
    children = []  # of the root: (probability, energy, own rewards of leaves, energies of leaves)
    for first, p in firsts.items():
        whole = next(i for i in lm.possible() if lm.responses[i][:cut] == first)
        square = score_square(lm, whole, 0, cut)
        if len(lm.responses[whole]) <= cut:
            children.append((p, square, [lm.rewards[whole]], []))
            continue
        for below in product(lm.completions(first).items(), repeat=deep):
            energies = [score_square(lm, i, cut) for i, _ in below]
            children.append((p * np.prod([q for _, q in below]), square, [lm.rewards[i] for i, _ in below], energies))
    for earlier in product(lm.possible(), repeat=history):
        prior = Prior(float(lm.rewards[list(earlier)].mean()), history) if history else None
        for drawn in product(children, repeat=wide):
            parent_N, reward_N, square_N, weight_N = [-1], [np.nan], [0.0], [0.0]
            for _, square, rewards, energies in drawn:
                node = len(parent_N)
                parent_N.append(0)
                reward_N.append(np.nan if energies else rewards[0])
                square_N.append(square)
                weight_N.append(1 / wide)
                for reward, energy_below in zip(rewards, energies):
                    parent_N.append(node)
                    reward_N.append(reward)
                    square_N.append(energy_below)
                    weight_N.append(1 / (wide * deep))
            adv_N = advantage(parent_N, tree_core.values(parent_N, np.array(reward_N)), prior)
            weight = lm.weights[list(earlier)].prod() * np.prod([p for p, *_ in drawn])
            noise += weight * (np.array(weight_N) ** 2 * np.array(square_N) * adv_N**2).sum()
    assert tree.noise(m) == pytest.approx(noise)


@LMS
def test_tokens_are_those_of_the_samples(lm):
    m, [cut] = as_moments(population(lm, 1)), CUTS
    length = np.array([len(y) for y in lm.responses])
    behind = float(lm.weights @ np.maximum(length - cut, 0))
    assert Chain(responses=2, rollouts=3).tokens(m) == pytest.approx(2 * (lm.weights @ length + 3 * behind))
    assert Tree(branching=(4, 2)).tokens(m) == pytest.approx(4 * (lm.weights @ np.minimum(length, cut) + 2 * behind))


def test_nothing_is_cheaper_than_the_free_exact_advantage():
    for seed in range(5):
        known = population(ToyLM(seed, max_tokens=3), 1)
        m, free = as_moments(known), known["exact_advantage"] * known["tokens"]
        assert known["exact_advantage"] <= known["exact_value"] + 1e-12
        assert all(float(one.price(m)) > free for history in (0, 8) for one in designs(1, history))


def test_resampling_has_the_mean_first_and_an_interval_that_shrinks():
    rng = np.random.default_rng(0)

    def made(count: int) -> Interval:
        base = population(ToyLM(0, max_tokens=2), 1)
        prompts = [as_moments(base | {"group": float(rng.normal(5.0))}) for _ in range(count)]
        m = resampled(prompts, draws=500, seed=0)
        assert m.group.shape == (501,) and m.unsettled_C.shape == (501, 1)
        assert m.group[0] == pytest.approx(np.mean([float(one.group) for one in prompts]))
        return interval(m.group)

    few, many = made(16), made(400)
    assert few.low < few.value < few.high and few.high - few.low > 3 * (many.high - many.low)
    assert many.high - many.low == pytest.approx(4 / 20, rel=0.3)
    assert np.isnan(interval(np.array([1.0])).low)


def test_settled_shares_rise_within_0_and_1():
    base = population(ToyLM(0, max_tokens=2), 1)
    m = replace(as_moments(base), spread=np.array([1.0]), unsettled_C=np.array([[1.2, 0.5, 0.6, -0.1]]))
    assert settled_at(m).tolist() == [[0.0, 0.5, 0.5, 1.0]]
    assert settled_at(replace(m, spread=np.array([0.0]))).shape == (1, 4)


def test_the_cheapest_is_chosen_by_all_prompts_together():
    m = as_moments(population(ToyLM(0, max_tokens=2), 1))
    among = [Group(responses=n) for n in (2, 4, 8)]
    assert cheapest(among, m).price(m) == min(float(one.price(m)) for one in among)


def test_what_cannot_be_is_refused():
    lm = ToyLM(0, max_tokens=2)
    with pytest.raises(ValueError, match="3 or more"):
        moments([response(lm, 0)] * 2, ())
    with pytest.raises(ValueError, match="one response needs a history"):
        Group(responses=1)
