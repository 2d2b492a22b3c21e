"""Importance ratios per unit, bounds that follow the entropy, and what to log of them.

For a unit u with n_u trained tokens (those under the policy loss):

    log r_u = 1/n_u * sum over the trained tokens t of u (log p_new(t) - log p_old(t)),

a geometric mean, as in GSPO (https://arxiv.org/abs/2507.18071), and r_u stands for r_t at every trained token of u. A
unit without a trained token contributes nothing. Tensors are (B, A) unless said otherwise; a row is one sample.
"""

from dataclasses import dataclass, field, fields

import torch

from spo_rlhf.core.metrics import Reduce
from spo_rlhf.core.units import RATIO_LEVELS, needs_ids


def unit_index(
    level: str, shape: torch.Size, unit_ids: torch.Tensor | None = None, device: torch.device | None = None
) -> torch.Tensor:
    """The unit of each position (B, A) as a number below B * (A + 1), so that rows never share one.

    ``unit_ids`` (B, A): as of ``spo_rlhf.core.units``, at most A; for the levels that need them.
    Raises ValueError for an unknown level and for one whose ids are missing.
    """
    if level not in RATIO_LEVELS:
        raise ValueError(f"unknown ratio level {level!r}: choose one of {', '.join(RATIO_LEVELS)}")
    rows, columns = shape
    row = torch.arange(rows, device=device).unsqueeze(-1) * (columns + 1)
    if needs_ids(level):
        if unit_ids is None:
            raise ValueError(f"ratio level {level!r} needs unit ids, and this batch has none")
        return row + unit_ids.long()
    unit = torch.arange(columns, device=device)
    return row + (unit if level == "token" else torch.zeros_like(unit))


def unit_sum(value_T: torch.Tensor, mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """At each position the sum of ``value_T`` over the masked positions of its unit; the others may be NaN."""
    kept = torch.where(mask, value_T, 0)
    size = index.shape[0] * (index.shape[1] + 1)
    total = kept.new_zeros(size).index_add(0, index.flatten(), kept.flatten())
    return total[index.flatten()].view(index.shape)


def unit_mean(value_T: torch.Tensor, mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Mean over the masked positions of the unit, at each position; 0 where the unit has none."""
    count = unit_sum(mask.to(value_T.dtype), mask, index)
    return unit_sum(value_T, mask, index) / count.clamp(min=1)


def entropy_scale(
    entropy_T: torch.Tensor, mask: torch.Tensor, index: torch.Tensor, batch_mean: float, alpha: float
) -> torch.Tensor:
    """What the clip bounds of each position are multiplied with: 1 + alpha * z, z = limit(H_u / H - 1, -1, 1).

    H_u: mean entropy of the trained tokens of the unit under the old policy; ``batch_mean``: H, that of all trained
    tokens of the rollout batch (where it is 0, z is 0). A unit of twice the mean entropy has the widest bounds.
    """
    if batch_mean <= 0:
        return torch.ones_like(entropy_T)
    return 1 + alpha * (unit_mean(entropy_T, mask, index) / batch_mean - 1).clamp(-1, 1)


@dataclass
class UnitStats:
    """Sums and extremes over the units of one micro-batch; the extremes are 1 where there is no unit."""

    units: torch.Tensor  # those with a trained token
    clipped_units: torch.Tensor  # with a clip active at one of their trained tokens
    responses: torch.Tensor  # rows with a trained token
    kept_responses: torch.Tensor  # no trained token clipped
    clipped_responses: torch.Tensor  # every trained token clipped
    ratio_sum: torch.Tensor  # of r_u
    ratio_square_sum: torch.Tensor  # of r_u^2
    ratio_min: torch.Tensor = field(metadata={"reduce": "min"})
    ratio_max: torch.Tensor = field(metadata={"reduce": "max"})

    @classmethod
    def reductions(cls) -> dict[str, Reduce]:
        """How each field's values over micro-batches and ranks become one; those that say nothing add up."""
        return {one.name: one.metadata.get("reduce", "sum") for one in fields(cls)}


@torch.no_grad()
def unit_stats(ratio_T: torch.Tensor, clipped_T: torch.Tensor, mask: torch.Tensor, index: torch.Tensor) -> UnitStats:
    """Statistics of the unit ratios (B, A) and of where (bool) a clip is active, over the trained tokens."""
    one_T = torch.ones_like(ratio_T, dtype=torch.float64)
    share_T = torch.where(mask, 1 / unit_sum(one_T, mask, index).clamp(min=1), 0)  # adds up to 1 over each unit
    hit_T = unit_sum(one_T, mask & clipped_T, index) > 0
    tokens, clipped = mask.sum(-1), (mask & clipped_T).sum(-1)
    ratio_N, share_N = ratio_T[mask].double(), share_T[mask]
    extremes = ratio_N if len(ratio_N) else ratio_T.new_ones(1, dtype=torch.float64)
    return UnitStats(
        units=share_N.sum().round(),
        clipped_units=(share_T * hit_T).sum().round(),
        responses=(tokens > 0).sum(),
        kept_responses=((tokens > 0) & (clipped == 0)).sum(),
        clipped_responses=((tokens > 0) & (clipped == tokens)).sum(),
        ratio_sum=(share_N * ratio_N).sum(),
        ratio_square_sum=(share_N * ratio_N**2).sum(),
        ratio_min=extremes.min(),
        ratio_max=extremes.max(),
    )
