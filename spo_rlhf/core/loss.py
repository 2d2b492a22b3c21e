"""The SPO policy loss: probability mask, clipped objective, KL to the reference, one reduction.

    loss = scale / Z * [ sum_t M_t * w_t * objective_t + kl_coef * sum_t K_t * kl_t ]

M marks the tokens where the old policy hesitated (p < rho), K those under the KL term, and w weights tokens (1 unless
handed in). The objective clips the importance ratio of the unit that a token belongs to (``spo_rlhf.core.ratio``; each
token is one unless told otherwise). Z is one number for the whole optimizer step: the tokens with M = 1 over all ranks
and micro-batches. So the loss and its gradient do not depend on how the batch is split. All tensors are (B, A);
everything is computed in float32 at least.
"""

from dataclasses import dataclass

import torch

from spo_rlhf.core.metrics import LOG_RATIO_LIMIT, METRICS, LossTokens, at_least_float32
from spo_rlhf.core.partition import below_threshold
from spo_rlhf.core.ratio import UnitStats, unit_index, unit_mean, unit_stats


@dataclass(frozen=True)
class Clip:
    """PPO clip range [1 - low, 1 + high] of the ratio; ``dual`` > 1 bounds the loss at -dual * A where A < 0."""

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 or self.high < 0:
            raise ValueError(f"clip range ({self.low}, {self.high}): low must lie in [0, 1] and high be at least 0")
        if self.dual is not None and self.dual <= 1:
            raise ValueError(f"dual clip is {self.dual}: give a number above 1")


@dataclass
class LossTerms:
    """The loss of one micro-batch and what to log of it; all finite, also where the mask is empty.

    Only ``loss`` carries a gradient. ``policy`` and ``kl`` are sums divided by the normalizer (before ``kl_coef`` and
    ``scale``), so those of all micro-batches of a step add up. ``metrics`` holds every entry of
    ``spo_rlhf.core.metrics.METRICS``, reduced over the masked tokens of the micro-batch.
    """

    loss: torch.Tensor
    policy: torch.Tensor
    kl: torch.Tensor
    mask_density: torch.Tensor  # masked tokens / action tokens
    masked_tokens: torch.Tensor
    metrics: dict[str, torch.Tensor]
    units: UnitStats

    def mean(self, name: str) -> torch.Tensor:
        """The mean over the masked tokens of a metric that reduces by it; 0 without a masked token."""
        return self.metrics[name] / self.masked_tokens.clamp(min=1)


def policy_mask(logp_T_old: torch.Tensor, action_mask: torch.Tensor, threshold: float) -> torch.Tensor:
    """M (bool): action tokens to which the old policy gave a probability below ``threshold``."""
    return below_threshold(logp_T_old.double().exp(), threshold) & action_mask.bool()


def clipped_objective(
    ratio_T: torch.Tensor, adv: torch.Tensor, clip: Clip, clip_scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token PPO loss -min(r A, clip(r) A) and where (bool) a clip is active.

    ``clip_scale``: what ``clip.low`` and ``clip.high`` are multiplied with, per token; the dual clip stays as it is.
    """
    adv = at_least_float32(adv)
    free_T = ratio_T * adv
    if clip_scale is None:
        bounded_T = ratio_T.clamp(1 - clip.low, 1 + clip.high) * adv
    else:
        scale_T = clip_scale.to(ratio_T.dtype)
        bounded_T = ratio_T.clamp(1 - clip.low * scale_T, 1 + clip.high * scale_T) * adv
    objective_T = torch.min(free_T, bounded_T)
    clipped_T = bounded_T < free_T
    if clip.dual is not None:
        too_low_T = (adv < 0) & (objective_T < clip.dual * adv)
        objective_T = torch.where(too_low_T, clip.dual * adv, objective_T)
        clipped_T = clipped_T | too_low_T
    return -objective_T, clipped_T


def importance_ratio(
    logp: torch.Tensor, old_logp: torch.Tensor, mask: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """r_u of the unit of each position; 1 where no token of the unit is under ``mask``."""
    log_ratio_T = unit_mean(at_least_float32(logp) - at_least_float32(old_logp), mask, index)
    return log_ratio_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def masked_sum(value_T: torch.Tensor, mask_T: torch.Tensor) -> torch.Tensor:
    """Sum of ``value_T`` where ``mask_T`` holds; values outside do not matter, not even NaN."""
    return torch.where(mask_T.bool(), value_T, 0).sum()


def spo_loss(
    logp: torch.Tensor,
    old_logp: torch.Tensor,
    adv: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip: Clip,
    normalizer: float | torch.Tensor,
    kl_T: torch.Tensor | None = None,
    kl_mask: torch.Tensor | None = None,
    kl_coef: float = 0.0,
    scale: float = 1.0,
    action_mask: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    clip_scale: torch.Tensor | None = None,
) -> LossTerms:
    """Loss of one micro-batch (module docstring), to be summed over the micro-batches of an optimizer step.

    ``mask``: M. ``normalizer``: Z of the whole optimizer step; where the trainer divides each backward pass by the
    number of accumulation steps, hand in Z divided by it. A step without a masked token (Z = 0) has loss 0, its KL
    term included. ``kl_T``, ``kl_mask``: per-token KL to the reference and where it counts. ``scale``: data-parallel
    size, to undo the averaging of gradients over ranks. ``action_mask``: what ``mask_density`` is a share of
    (default: every position). ``index``: the ratio unit of each position (``unit_index``; default: each its own).
    ``weight``: w. ``clip_scale``: as of ``clipped_objective``.
    Raises ValueError for ``kl_T`` without ``kl_mask``.
    """
    if kl_T is not None and kl_mask is None:
        raise ValueError("kl_T without kl_mask: say on which tokens the KL term counts")
    mask = mask.bool()
    index = unit_index("token", mask.shape, device=mask.device) if index is None else index
    ratio_T = importance_ratio(logp, old_logp, mask, index)
    objective_T, clipped_T = clipped_objective(ratio_T, adv, clip, clip_scale)
    if weight is not None:
        objective_T = objective_T * weight
    normalizer = torch.as_tensor(normalizer, dtype=objective_T.dtype, device=objective_T.device)
    # Not clamp(min=1): Z over the number of accumulation steps may lie below 1.
    per_token = torch.where(normalizer > 0, 1 / normalizer, 0)
    policy = masked_sum(objective_T, mask) * per_token
    kl = policy.new_zeros(())
    if kl_T is not None and kl_mask is not None:
        kl = masked_sum(at_least_float32(kl_T), kl_mask) * per_token

    masked_tokens = mask.sum()
    action_tokens = masked_tokens.new_tensor(mask.numel()) if action_mask is None else action_mask.bool().sum()
    with torch.no_grad():
        tokens = LossTokens(logp, old_logp, adv.expand_as(ratio_T), ratio_T, objective_T, clipped_T, mask)
        metrics = {name: metric.reduced(tokens) for name, metric in METRICS.items()}
    return LossTerms(
        loss=scale * (policy + kl_coef * kl),
        policy=policy.detach(),
        kl=kl.detach(),
        mask_density=masked_tokens / action_tokens.clamp(min=1),
        masked_tokens=masked_tokens,
        metrics=metrics,
        units=unit_stats(ratio_T, clipped_T, mask, index),
    )
