"""What a few responses and Monte Carlo continuations say of the gradient's noise: where it comes from, what could take it away.

The gradient is looked at in the logits: every state has logits of its own, the score of a sampled token y is 1[a=y] - pi_a,
and its energy sum_a (1[a=y] - pi_a)^2 = 1 - 2 pi_y + sum_a pi_a^2 comes from the forward pass. A model's parameters add up
what its states have in common; that is what this leaves out. In the logits, all below is exact: each field of `Moments` has
the expectation that its comment states (tests/core/test_diagnosis.py), for which products of estimates come from independent
samples: a square of a mean of m samples is taken less its own variance, s^2 / m.

    r outcome, V_0, V_c, V_t its expectation from the prompt, from a cut, before token t; sigma^2 its variance from there,
    e energy of a response, e_b and e_a what lies before and behind the cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

RESPONSES = 3  # of a prompt, at least: two others, whose variance is known
CONTINUATIONS = 2  # of a state, at least
LIKELIEST = 20  # log-probs of a state; what the other tokens add to the sum of squares is nothing


def energy(prob_T: np.ndarray, square_T: np.ndarray) -> np.ndarray:
    """Energy (T,) of the scores, from the probability of each sampled token and the sum of all squared ones in its state."""
    return np.maximum(1 - 2 * prob_T + square_T, 0.0)


def cuts(lengths: Sequence[float], count: int) -> list[int]:
    """Up to `count` numbers of tokens that divide the mean length evenly."""
    mean = float(np.mean(lengths))
    return sorted({round(mean * k / (count + 1)) for k in range(1, count + 1)} - {0})


@dataclass(frozen=True)
class Probe:
    """Rewards (m,) of continuations from before a token, and (m,) from behind it, of a token drawn by its energy."""

    before_m: np.ndarray
    after_m: np.ndarray


@dataclass(frozen=True)
class Response:
    """One response of T tokens. Tokens that are not trained have energy 0.

    at_cuts: for each cut, rewards (m,) of continuations from there; None where the response had ended. probes: none where
    the energy is 0.
    """

    token_ids: Sequence[int]
    prob_T: np.ndarray  # of the sampled tokens
    square_T: np.ndarray  # sum of squared probabilities of each state
    trained_T: np.ndarray  # (T,) 0 or 1, by the state
    reward: float
    truncated: bool
    at_cuts: Sequence[np.ndarray | None] = ()
    probes: Sequence[Probe] = ()

    @property
    def energy_T(self) -> np.ndarray:
        return energy(self.prob_T, self.square_T) * self.trained_T


@dataclass(frozen=True)
class Moments:
    """What one prompt says, or (with a leading axis) the means of resampled prompts; C cuts."""

    tokens: np.ndarray  # E T
    before_C: np.ndarray  # E min(T, c)
    energy: np.ndarray  # E e
    energy_C: np.ndarray  # E e_b
    reward: np.ndarray  # E r
    truncated: np.ndarray  # share
    decided: np.ndarray  # share of prompts whose responses here have one outcome
    spread: np.ndarray  # E sigma_0^2
    unsettled_C: np.ndarray  # E sigma_c^2
    group: np.ndarray  # E e (r - V_0)^2
    group_noise: np.ndarray  # E e sigma_0^2
    exact_value: np.ndarray  # E sum_t e_t (r - V_t)^2
    exact_advantage: np.ndarray  # E sum_t e_t (V_{t+1} - V_t)^2
    overlap: np.ndarray  # |E g|^2: what the gradients of two responses to a prompt share
    before_value_C: np.ndarray  # E e_b (V_c - V_0)^2
    before_noise_C: np.ndarray  # E e_b sigma_c^2
    before_start_C: np.ndarray  # E e_b sigma_0^2
    before_others_C: np.ndarray  # E e_b sigma_c^2 of another response
    after_own_C: np.ndarray  # E e_a (r - V_c)^2
    after_noise_C: np.ndarray  # E e_a sigma_c^2
    after_value_C: np.ndarray  # E e_a (V_c - V_0)^2
    after_start_C: np.ndarray  # E e_a sigma_0^2
    after_others_C: np.ndarray  # E e_a sigma_c^2 of another response
    after_cross_C: np.ndarray  # E e_a (r - V_c) (V_c - V_0)
    others: np.ndarray  # E of the mean of the other responses, then of its square, and of its product with the outcome
    others_square: np.ndarray
    others_product: np.ndarray


FIELDS = tuple(field.name for field in fields(Moments))


def moments(responses: Sequence[Response], cut_C: Sequence[int]) -> Moments:
    """Of one prompt. Raises ValueError for fewer than `RESPONSES` responses."""
    count = len(responses)
    if count < RESPONSES:
        raise ValueError(f"{count} responses to a prompt: the noise needs {RESPONSES} or more")
    reward_N = np.array([one.reward for one in responses], dtype=np.float64)
    state_N = [[_state(one, at) for at in one.at_cuts] for one in responses]
    noise_NC = np.array([[state.variance for state in states] for states in state_N]).reshape(count, len(cut_C))
    rows = []
    for i, one in enumerate(responses):
        start = _mean_of(np.delete(reward_N, i))
        others_C = np.delete(noise_NC, i, axis=0).mean(0)
        rows.append(_of_response(one, start, state_N[i], others_C, np.asarray(cut_C)))
    mean = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
    spread, decided = reward_N.var(ddof=1), float(np.ptp(reward_N) == 0)
    return Moments(
        **mean,
        decided=np.asarray(decided),
        spread=np.asarray(spread),
        unsettled_C=noise_NC.mean(0),
        overlap=np.asarray(_overlap(responses, reward_N)),
    )


def resampled(of_prompts: Sequence[Moments], draws: int, seed: int) -> Moments:
    """Means over all prompts in row 0, and over prompts drawn with replacement in the `draws` rows behind it."""
    count = len(of_prompts)
    times_DP = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    weight_DP = np.concatenate([np.ones((1, count)), times_DP]) / count
    stacked = {name: np.stack([getattr(one, name) for one in of_prompts]) for name in FIELDS}
    return Moments(**{name: np.tensordot(weight_DP, value, axes=1) for name, value in stacked.items()})


@dataclass(frozen=True)
class _Mean:
    """A state's value: mean of independent rewards, and their variance (0 where it is known exactly)."""

    mean: float
    variance: float
    count: float

    @property
    def error(self) -> float:
        """Variance of the mean."""
        return self.variance / self.count


def _mean_of(reward_m: np.ndarray) -> _Mean:
    return _Mean(float(reward_m.mean()), float(reward_m.var(ddof=1)), len(reward_m))


def _state(response: Response, reward_m: np.ndarray | None) -> _Mean:
    return _Mean(response.reward, 0.0, 1) if reward_m is None else _mean_of(reward_m)


def _of_response(
    one: Response, start: _Mean, states: Sequence[_Mean], others_C: np.ndarray, cut_C: np.ndarray
) -> dict[str, np.ndarray]:
    """What one response adds to the moments of its prompt; `start`: from the other responses."""
    energy_T, length, reward = one.energy_T, len(one.prob_T), one.reward
    total = float(energy_T.sum())
    before_C = np.array([float(energy_T[:cut].sum()) for cut in cut_C])
    after_C = total - before_C
    value_C, noise_C, error_C = (
        np.array([getattr(state, name) for state in states]) for name in ("mean", "variance", "error")
    )
    # (V_c - V_0)^2, (r - V_c)^2 and (r - V_c)(V_c - V_0), each without the noise of its own estimate.
    value_square_C = (value_C - start.mean) ** 2 - error_C - start.error
    own_square_C = (reward - value_C) ** 2 - error_C
    cross_C = (reward - value_C) * (value_C - start.mean) + error_C
    exact_value, exact_advantage = _probed(one)
    made = {
        "tokens": length,
        "before_C": np.minimum(length, cut_C),
        "energy": total,
        "energy_C": before_C,
        "reward": reward,
        "truncated": float(one.truncated),
        "group": total * ((reward - start.mean) ** 2 - start.error),
        "group_noise": total * start.variance,
        "exact_value": total * exact_value,
        "exact_advantage": total * exact_advantage,
        "before_value_C": before_C * value_square_C,
        "before_noise_C": before_C * noise_C,
        "before_start_C": before_C * start.variance,
        "before_others_C": before_C * others_C,
        "after_own_C": after_C * own_square_C,
        "after_noise_C": after_C * noise_C,
        "after_value_C": after_C * value_square_C,
        "after_start_C": after_C * start.variance,
        "after_others_C": after_C * others_C,
        "after_cross_C": after_C * cross_C,
        "others": start.mean,
        "others_square": start.mean**2,
        "others_product": start.mean * reward,
    }
    return {name: np.asarray(value, dtype=np.float64) for name, value in made.items()}


def _probed(one: Response) -> tuple[float, float]:
    """(r - V_t)^2 and (V_{t+1} - V_t)^2, means over the probes."""
    value, advantage = 0.0, 0.0
    for probe in one.probes:
        before, after = _mean_of(probe.before_m), _mean_of(probe.after_m)
        value += ((one.reward - before.mean) ** 2 - before.error) / len(one.probes)
        advantage += ((after.mean - before.mean) ** 2 - after.error - before.error) / len(one.probes)
    return value, advantage


def _overlap(responses: Sequence[Response], reward_N: np.ndarray) -> float:
    """|E g|^2: the product of two responses' gradients, each against the others' mean, over all pairs.

    Both means contain the other response of the pair, which makes the product 1 + 1/(n-1)^2 times as large.
    """
    count = len(responses)
    adv_N = (reward_N - reward_N.mean()) * count / (count - 1)
    total = sum(
        2 * adv_N[i] * adv_N[j] * _shared_score(responses[i], responses[j]) for i in range(count) for j in range(i)
    )
    return total / (count * (count - 1)) / (1 + 1 / (count - 1) ** 2)


def _shared_score(one: Response, other: Response) -> float:
    """Product of the two scores: over the states that both went through."""
    product = 0.0
    for t, (mine, its) in enumerate(zip(one.token_ids, other.token_ids)):
        same = float(mine == its)
        product += one.trained_T[t] * (same - one.prob_T[t] - other.prob_T[t] + one.square_T[t])
        if not same:
            break
    return float(product)
