"""Unit ratios, clip bounds that follow the entropy and unit statistics, against float64 references written token by token."""

import math

import numpy as np
import pytest
import torch

from spo_rlhf.core.loss import Clip, spo_loss
from spo_rlhf.core.ratio import UnitStats, entropy_scale, unit_index, unit_mean, unit_stats
from spo_rlhf.core.units import RATIO_LEVELS

SHAPE = (3, 7)
CLIP = Clip(low=0.1, high=0.3, dual=1.5)
ALPHA = 0.7


def random_batch(seed: int) -> dict[str, np.ndarray]:
    """Ratios on both sides of every bound; in row 1 a unit without a trained token, in row 2 padding."""
    rng = np.random.default_rng(seed)
    old_logp = -rng.exponential(size=SHAPE)
    unit_ids = 1 + np.cumsum(rng.random(SHAPE) < 0.4, axis=1)
    mask = rng.random(SHAPE) < 0.7
    mask[1, unit_ids[1] == unit_ids[1, 3]] = False  # a unit without a trained token
    mask[2, 5:], unit_ids[2, 5:] = False, 0  # padding
    return {
        "logp": old_logp + rng.normal(scale=0.8, size=SHAPE),
        "old_logp": old_logp,
        "adv": rng.normal(size=SHAPE),
        "mask": mask,
        "unit_ids": unit_ids,
        "entropy": rng.exponential(size=SHAPE),
    }


def units_of(batch: dict[str, np.ndarray], level: str) -> dict[tuple, list[tuple[int, int]]]:
    """Unit -> its trained positions."""
    units: dict[tuple, list] = {}
    for row, column in np.argwhere(batch["mask"]):
        name = {"token": column, "sequence": 0}.get(level, batch["unit_ids"][row, column])
        units.setdefault((row, name), []).append((row, column))
    return units


def reference(batch, level: str, clip: Clip, alpha: float, normalizer: float) -> tuple[float, dict[str, float]]:
    """The formulas of the module, one unit and one token at a time, in python floats: the loss and the statistics."""
    entropy_mean = sum(batch["entropy"][at] for at in map(tuple, np.argwhere(batch["mask"]))) / batch["mask"].sum()
    total, ratios, clipped_units, clipped_at = 0.0, [], 0, {}
    for positions in units_of(batch, level).values():
        ratio = math.exp(sum(batch["logp"][at] - batch["old_logp"][at] for at in positions) / len(positions))
        entropy = sum(batch["entropy"][at] for at in positions) / len(positions)
        scale = 1 + alpha * min(max((entropy - entropy_mean) / entropy_mean, -1), 1)
        low, high = 1 - clip.low * scale, 1 + clip.high * scale
        for at in positions:
            a = batch["adv"][at]
            surrogate = min(ratio * a, min(max(ratio, low), high) * a)
            clipped_at[at] = surrogate < ratio * a
            if clip.dual is not None and a < 0 and surrogate < clip.dual * a:
                surrogate, clipped_at[at] = clip.dual * a, True
            total -= surrogate
        ratios.append(ratio)
        clipped_units += any(clipped_at[at] for at in positions)
    rows = [[clipped_at[row, c] for c in range(SHAPE[1]) if (row, c) in clipped_at] for row in range(SHAPE[0])]
    rows = [row for row in rows if row]
    return total / normalizer, {
        "units": len(ratios),
        "clipped_units": clipped_units,
        "responses": len(rows),
        "kept_responses": sum(not any(row) for row in rows),
        "clipped_responses": sum(all(row) for row in rows),
        "ratio_sum": sum(ratios),
        "ratio_square_sum": sum(ratio**2 for ratio in ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def loss_of(batch, level: str, logp: torch.Tensor, clip=CLIP, alpha=ALPHA, normalizer=4.0, **options):
    tensors = {name: torch.tensor(values) for name, values in batch.items()}
    mask = tensors["mask"]
    index = unit_index(level, mask.shape, tensors["unit_ids"])
    scale = entropy_scale(tensors["entropy"], mask, index, tensors["entropy"][mask].mean().item(), alpha)
    return spo_loss(
        logp,
        tensors["old_logp"],
        tensors["adv"],
        mask,
        clip=clip,
        normalizer=normalizer,
        index=index,
        clip_scale=scale if alpha else None,
        **options,
    )


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
@pytest.mark.parametrize("clip", [Clip(), CLIP], ids=str)
@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_loss_gradient_and_statistics_match_the_formulas(level, clip, alpha) -> None:
    for seed in range(3):
        batch = random_batch(seed)
        logp = torch.tensor(batch["logp"], requires_grad=True)
        terms = loss_of(batch, level, logp, clip, alpha)
        terms.loss.backward()
        expected, statistics = reference(batch, level, clip, alpha, 4.0)
        assert terms.loss.item() == pytest.approx(expected, rel=1e-12)
        assert {name: value.item() for name, value in vars(terms.units).items()} == pytest.approx(statistics, rel=1e-12)

        step = 1e-6
        for at in np.ndindex(*SHAPE):
            up, down = batch["logp"].copy(), batch["logp"].copy()
            up[at] += step
            down[at] -= step
            losses = [reference({**batch, "logp": logp}, level, clip, alpha, 4.0)[0] for logp in (up, down)]
            assert logp.grad[at].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6, abs=1e-7)


def test_the_formulas_take_every_branch() -> None:
    fully = {"kept_responses": 0, "clipped_responses": 0, "clipped_units": 0}
    for seed in range(20):
        statistics = reference(random_batch(seed), "sequence", CLIP, ALPHA, 4.0)[1]
        fully = {name: count + statistics[name] for name, count in fully.items()}
    assert all(fully.values())


def test_one_token_per_unit_is_the_token_level() -> None:
    batch = random_batch(0)
    batch["unit_ids"] = np.broadcast_to(np.arange(1, SHAPE[1] + 1), SHAPE)
    logp = torch.tensor(batch["logp"])
    by_unit, by_token = (loss_of(batch, level, logp).loss for level in ("segment", "token"))
    assert by_unit.item() == by_token.item()


def test_one_unit_per_response_is_the_sequence_level() -> None:
    batch = random_batch(0)
    batch["unit_ids"] = np.ones(SHAPE, dtype=int)
    logp = torch.tensor(batch["logp"])
    by_unit, by_sequence = (loss_of(batch, level, logp).loss for level in ("subsentence", "sequence"))
    assert by_unit.item() == by_sequence.item()


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_padding_joins_no_units_and_its_values_do_not_matter(level) -> None:
    batch = random_batch(1)
    wider = {name: np.pad(values, ((0, 0), (0, 4))) for name, values in batch.items()}
    wider["logp"][:, SHAPE[1] :] = np.nan
    narrow, wide = (torch.tensor(b["logp"], requires_grad=True) for b in (batch, wider))
    terms = [loss_of(b, level, logp) for b, logp in ((batch, narrow), (wider, wide))]
    for one in terms:
        one.loss.backward()
    assert terms[0].loss.item() == pytest.approx(terms[1].loss.item(), rel=1e-12)
    assert {k: v.item() for k, v in vars(terms[0].units).items()} == pytest.approx(
        {k: v.item() for k, v in vars(terms[1].units).items()}, rel=1e-12
    )
    np.testing.assert_allclose(wide.grad[:, : SHAPE[1]], narrow.grad, rtol=1e-12)
    assert (wide.grad[:, SHAPE[1] :] == 0).all()


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_samples_do_not_share_units(level) -> None:
    batch = random_batch(2)
    batch["unit_ids"] = np.ones(SHAPE, dtype=int)  # the same id in every row
    mask, index = torch.tensor(batch["mask"]), unit_index(level, SHAPE, torch.tensor(batch["unit_ids"]))
    together = unit_mean(torch.tensor(batch["logp"]), mask, index)
    for row in range(SHAPE[0]):
        alone = unit_index(level, (1, SHAPE[1]), torch.tensor(batch["unit_ids"][[row]]))
        of_row = unit_mean(torch.tensor(batch["logp"][[row]]), mask[[row]], alone)
        torch.testing.assert_close(together[[row]], of_row)


def test_token_weights_multiply_the_objective() -> None:
    batch = random_batch(0)
    logp, weight = torch.tensor(batch["logp"]), torch.rand(SHAPE, dtype=torch.float64)
    per_token = [
        loss_of({**batch, "adv": np.where(at, batch["adv"], 0)}, "segment", logp).loss.item()
        for at in (np.arange(21).reshape(SHAPE) == i for i in range(21))
    ]
    expected = (np.array(per_token).reshape(SHAPE) * weight.numpy()).sum()
    assert loss_of(batch, "segment", logp, weight=weight).loss.item() == pytest.approx(expected, rel=1e-12)


def test_bounds_are_wider_for_high_and_tighter_for_low_entropy() -> None:
    entropy, mask = torch.tensor([[0.0, 0.5, 1.0, 1.5, 2.0, 9.0]]), torch.ones(1, 6, dtype=torch.bool)
    index = unit_index("token", mask.shape)
    scale = entropy_scale(entropy, mask, index, batch_mean=1.0, alpha=0.5)
    assert scale.tolist() == [[0.5, 0.75, 1.0, 1.25, 1.5, 1.5]]
    assert (entropy_scale(entropy, mask, index, batch_mean=1.0, alpha=0.0) == 1).all()
    assert (entropy_scale(entropy * 0, mask, index, batch_mean=0.0, alpha=0.5) == 1).all()


def test_missing_ids_and_unknown_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="needs unit ids"):
        unit_index("segment", SHAPE)
    with pytest.raises(ValueError, match="unknown ratio level 'word'"):
        unit_index("word", SHAPE)


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_rows_never_share_a_number_not_even_that_of_the_padding(level) -> None:
    index = unit_index(level, SHAPE, torch.tensor([[0, 1, 2, 3, 4, 5, SHAPE[1]]] * SHAPE[0]))
    rows = [set(row.tolist()) for row in index]
    assert sum(map(len, rows)) == len(set.union(*rows))
    assert index.min() >= 0 and index.max() < SHAPE[0] * (SHAPE[1] + 1)


def test_a_response_without_a_trained_token_is_no_response() -> None:
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    clipped = torch.tensor([[True, True], [True, False], [False, True]])
    stats = unit_stats(torch.full((3, 2), 0.5), clipped, mask, unit_index("sequence", (3, 2)))
    assert {name: value.item() for name, value in vars(stats).items()} == {
        "units": 2,
        "clipped_units": 1,
        "responses": 2,
        "kept_responses": 1,
        "clipped_responses": 1,
        "ratio_sum": 1.0,
        "ratio_square_sum": 0.5,
        "ratio_min": 0.5,
        "ratio_max": 0.5,
    }


def test_statistics_of_no_unit_are_neutral_and_each_says_how_it_is_joined() -> None:
    empty = unit_stats(
        torch.full((1, 2), 0.5), torch.ones(1, 2).bool(), torch.zeros(1, 2).bool(), torch.arange(2)[None]
    )
    assert {name: value.item() for name, value in vars(empty).items() if value} == {"ratio_min": 1, "ratio_max": 1}
    how = UnitStats.reductions()
    assert {name: way for name, way in how.items() if way != "sum"} == {"ratio_min": "min", "ratio_max": "max"}
    assert list(how) == list(vars(empty))
