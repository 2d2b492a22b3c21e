"""Our advantages, loss and KL against OpenRLHF's own code, in float64; where ours differ on purpose, by exactly how much."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spo_rlhf.core import tree
from spo_rlhf.core.advantages import STD_EPSILON, among_siblings, chain, normalize, to_tokens
from spo_rlhf.core.loss import Clip, spo_loss
from spo_rlhf.core.metrics import k3
from spo_rlhf.core.ratio import unit_index
from spo_rlhf.core.values import leave_one_out

SEEDS = range(20)
PROMPT = 2  # positions before a response


@pytest.fixture(scope="module")
def upstream():
    """OpenRLHF's classes. Loading them takes some seconds, so that only the tests that need them wait."""
    from spo_rlhf import upstream as stack

    assert stack.PolicyLoss
    return stack


# ---- advantages of groups -------------------------------------------------------------------------------------------------


class Groups:
    """Rewards of n responses to each of some prompts, of uneven lengths, in batches whose order is not that of the prompts."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.prompts, self.n = int(rng.integers(1, 5)), int(rng.integers(2, 7))
        kinds = [lambda: rng.random(self.n), lambda: rng.integers(0, 2, self.n) * 1.0, lambda: np.full(self.n, 0.1)]
        self.reward_PR = np.array([kinds[rng.integers(3)]() for _ in range(self.prompts)])
        self.length_N = rng.integers(1, 6, self.prompts * self.n)
        order = rng.permutation(self.prompts * self.n)
        self.batches = np.array_split(order, rng.integers(1, 4))

    def experiences(self, upstream) -> list:
        made = []
        for index in self.batches:
            column = torch.arange(PROMPT + int(self.length_N.max()))
            ends = PROMPT + torch.tensor(self.length_N[index])[:, None]
            made.append(
                upstream.Experience(
                    index=index.tolist(),
                    rewards=torch.tensor(self.reward_PR.flatten()[index]),
                    action_mask=(column >= PROMPT) & (column < ends),
                    kl=torch.zeros(len(index), len(column), dtype=torch.float64),
                    info={},
                )
            )
        return made

    def upstreams(self, upstream, estimator: str) -> list[list[float]]:
        """OpenRLHF's advantages of the response tokens, by sample in the order of the prompts."""
        maker = upstream.RemoteExperienceMaker.__new__(upstream.RemoteExperienceMaker)
        advantage = SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False)
        maker.strategy = SimpleNamespace(
            args=SimpleNamespace(
                algo=SimpleNamespace(advantage=advantage),
                rollout=SimpleNamespace(n_samples_per_prompt=self.n),
                reward=SimpleNamespace(clip_range=None),
            )
        )
        maker.advantage_estimator, maker.kl_ctl = estimator, SimpleNamespace(value=0.0)
        adv_NT: list[list[float]] = [[] for _ in self.length_N]
        for made in maker.compute_advantages_and_returns(self.experiences(upstream)):
            for number, adv_T, mask_T in zip(made.index, made.advantages, made.action_mask):
                adv_NT[number] = adv_T[mask_T].tolist()
        return adv_NT

    def ours(self, advantage) -> list[list[float]]:
        """A function from the rewards of one prompt to their advantages, each as one segment."""
        adv_N = np.concatenate([advantage(reward_R) for reward_R in self.reward_PR])
        return [to_tokens([adv], [0, length]).tolist() for adv, length in zip(adv_N, self.length_N)]


def as_a_tree(kind: str):
    """Advantages of the rewards of one prompt as those of a tree of one level."""

    def advantage(reward_R):
        parents = [tree.NO_PARENT] + [0] * len(reward_R)
        value_N = tree.values(parents, [np.nan, *reward_R])
        return tree.advantages(parents, value_N, kind)[1:]

    return advantage


def close(ours: list[list[float]], theirs: list[list[float]], **tolerance) -> bool:
    return all(one == pytest.approx(other, **tolerance) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_rloo_is_upstreams(upstream, seed: int) -> None:
    groups = Groups(seed)
    theirs = groups.upstreams(upstream, "rloo")
    assert [len(adv_T) for adv_T in theirs] == groups.length_N.tolist()
    as_one_segment = lambda reward_R: [chain([v], r)[0] for v, r in zip(leave_one_out(reward_R), reward_R)]  # noqa: E731
    for ours in (among_siblings, as_one_segment, as_a_tree("loo")):
        assert close(groups.ours(ours), theirs, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tree_of_one_level_with_mean_is_upstreams_dr_grpo(upstream, seed: int) -> None:
    groups = Groups(seed)
    assert close(groups.ours(as_a_tree("mean")), groups.upstreams(upstream, "dr_grpo"), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tree_of_one_level_with_std_is_upstreams_grpo_but_for_the_kind_of_deviation(upstream, seed: int) -> None:
    """Upstream's GRPO divides by the deviation with n - 1 and adds 1e-9, ours by the population's and adds 1e-8; of rewards
    that are all equal upstream leaves what rounding leaves, over 1e-9, and ours is exactly 0."""
    groups = Groups(seed)

    def theirs_from_ours(reward_R):
        ours, with_n, with_n_1 = as_a_tree("std")(reward_R), reward_R.std(), reward_R.std(ddof=1)
        assert ours.any() == (np.ptp(reward_R) > 0)
        return ours * (with_n + STD_EPSILON) / (with_n_1 + 1e-9)

    assert close(groups.ours(theirs_from_ours), groups.upstreams(upstream, "group_norm"), rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_whitening_over_all_tokens_is_upstreams_reinforce_baseline(upstream, seed: int) -> None:
    """Upstream computes mean and variance in float32 and limits the variance from below by 1e-8; ours adds 1e-8 to the
    deviation. Where all tokens are equal both give 0."""
    groups = Groups(seed)
    before = groups.ours(as_a_tree("mean"))
    flat = np.concatenate(before)
    ours = normalize(flat, np.ones(len(flat), dtype=bool))
    theirs = np.concatenate(groups.upstreams(upstream, "reinforce_baseline"))
    deviation = flat.std()
    expected = ours * (deviation + STD_EPSILON) / max(deviation, 1e-4) if np.ptp(flat) else ours
    np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_chain_with_a_segment_a_token_is_upstreams_gae(upstream, seed: int) -> None:
    """With gamma 1: lambda 0 gives A_t, lambda 1 the sum of the A from t on, R - V(s_t)."""
    rng = np.random.default_rng(seed)
    length, reward = int(rng.integers(1, 9)), float(rng.random())
    value_T = rng.normal(size=length)
    adv_T = chain(value_T, reward)
    reward_T = torch.tensor([[0.0] * (length - 1) + [reward]], dtype=torch.float64)
    gae = upstream.RemoteExperienceMaker.get_advantages_and_returns
    mask = torch.ones(1, length, dtype=torch.bool)
    for lambd, ours in ((0.0, adv_T), (1.0, adv_T[::-1].cumsum()[::-1])):
        theirs, _ = gae(None, torch.tensor(value_T)[None], reward_T, mask, 1.0, lambd)
        np.testing.assert_allclose(theirs[0], ours, rtol=1e-12, atol=1e-12)


# ---- loss -----------------------------------------------------------------------------------------------------------------

CLIPS = [Clip(), Clip(low=0.1, high=0.3), Clip(low=0.2, high=0.28, dual=1.5)]


class Tokens:
    """A micro-batch of uneven rows with log-ratios on both sides of every bound, also beyond the limit of 20."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.shape = shape = (4, 9)
        self.mask = torch.rand(shape, generator=generator) < 0.7
        self.mask[:, 0] = True
        self.mask[torch.arange(9) >= torch.randint(1, 10, (4, 1), generator=generator)] = False
        self.old = -draw(*shape).abs()
        self.logp = (self.old + 0.8 * draw(*shape)).requires_grad_()
        self.adv = draw(*shape)

    def one_row_each(self) -> torch.Tensor:
        """Weights with which the tokens of a row count as one."""
        return (1 / self.mask.sum(-1, keepdim=True).double()).expand(self.shape)

    def theirs(self, upstream, clip: Clip, **options):
        kind = upstream.PolicyLoss(clip.low, clip.high, clip.dual, **options)
        loss, clipped, *_ = kind(
            self.logp, self.old, self.adv, self.mask, dp_size=3, batch_num_tokens=11.0, global_batch_size=5.0
        )
        (gradient,) = torch.autograd.grad(loss, self.logp)
        return loss.detach(), gradient, clipped

    def ours(self, clip: Clip, normalizer: float, **options):
        terms = spo_loss(self.logp, self.old, self.adv, self.mask, clip=clip, normalizer=normalizer, scale=3, **options)
        (gradient,) = torch.autograd.grad(terms.loss, self.logp)
        return terms, gradient


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_over_tokens_is_upstreams(upstream, clip: Clip, seed: int) -> None:
    tokens = Tokens(seed)
    with torch.no_grad():
        tokens.logp[0, 0] = tokens.old[0, 0] + 30  # beyond the limit of the log-ratio: no gradient, and no infinity
    terms, gradient = tokens.ours(clip, 11.0)
    loss, their_gradient, clipped = tokens.theirs(upstream, clip)
    same(terms.loss, loss)
    same(gradient, their_gradient)
    # A dual clip that is active is counted by us alone.
    ratio = (tokens.logp - tokens.old).clamp(-20, 20).exp()
    dual = tokens.mask & (tokens.adv < 0) & (ratio > (clip.dual or torch.inf))
    also_clipped = dual & ~((ratio.clamp(1 - clip.low, 1 + clip.high) * tokens.adv) < ratio * tokens.adv)
    assert terms.metrics["ppo_clip_ratio"].item() == pytest.approx(
        (clipped * tokens.mask.sum() + also_clipped.sum()).item()
    )


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_over_rows_is_upstreams_with_a_weight_for_each_token(upstream, clip: Clip, seed: int) -> None:
    tokens = Tokens(seed)
    terms, gradient = tokens.ours(clip, 5.0, weight=tokens.one_row_each())
    loss, their_gradient, *_ = tokens.theirs(upstream, clip, token_level_loss=False)
    same(terms.loss, loss)
    same(gradient, their_gradient)


@pytest.mark.parametrize("seed", SEEDS)
def test_ratios_of_whole_responses_are_upstreams_gspo(upstream, seed: int) -> None:
    tokens = Tokens(seed)
    index = unit_index("sequence", tokens.mask.shape)
    clip = Clip(low=0.1, high=0.2)
    terms, gradient = tokens.ours(clip, 5.0, weight=tokens.one_row_each(), index=index)
    loss, their_gradient, *_ = tokens.theirs(upstream, clip, policy_loss_type="gspo")
    same(terms.loss, loss)
    same(gradient, their_gradient)


# ---- KL -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_k3_is_upstreams_without_its_cap_of_10(upstream, seed: int) -> None:
    """Upstream computes in float32 and loses what is small (ours uses expm1), and ends at 10 (ours at a log-ratio of 20)."""
    generator = torch.Generator().manual_seed(seed)
    logp, ref = (torch.randn(64, generator=generator) * scale for scale in (3, 9))
    theirs = upstream.compute_approx_kl(logp, ref, kl_estimator="k3")
    ours = k3(logp, ref)
    torch.testing.assert_close(ours.clamp(max=10), theirs, rtol=1e-5, atol=1e-6)
    assert (ours > 10).any() and (theirs <= 10).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_k3_upstreams_k1_and_torch_have_one_expectation(upstream, seed: int) -> None:
    """Over the tokens of the policy: KL(policy || reference). That of k2 is another number, so k2 is no measure of it."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = (torch.log_softmax(0.7 * torch.randn(7, generator=generator), -1) for _ in range(2))
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=p) for p in (policy, reference))
    )
    means = {
        kind: (policy.exp() * upstream.compute_approx_kl(policy, reference, kl_estimator=kind)).sum().item()
        for kind in ("k1", "k2", "k3")
    }
    assert (policy.exp() * k3(policy, reference)).sum().item() == pytest.approx(expected.item(), abs=1e-6)
    assert means["k1"] == pytest.approx(expected.item(), abs=1e-6)
    assert means["k3"] == pytest.approx(expected.item(), abs=1e-6)
    assert means["k2"] != pytest.approx(expected.item(), abs=1e-3)
