"""Metrics of the loss: what is measured at every token under it, and how an iteration's numbers become one.

Sums, largest and smallest values do not depend on how a batch is split into micro-batches and over ranks; a mean is the
sum over the number of tokens. To add a metric, write a function of `LossTokens` and enter it into ``METRICS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from spo_rlhf.core.registry import Registry

Reduce = Literal["mean", "sum", "max", "min"]
LOG_RATIO_LIMIT = 20.0  # exp stays finite in float32
EMPTY: dict[Reduce, float] = {"mean": 0.0, "sum": 0.0, "max": -torch.inf, "min": torch.inf}  # of no token


@dataclass(frozen=True)
class LossTokens:
    """The positions (B, A) of one micro-batch, without gradients. What stands outside ``mask_T`` means nothing."""

    logp_T: torch.Tensor  # of the policy that is trained
    old_logp_T: torch.Tensor  # of the policy that sampled
    adv_T: torch.Tensor
    ratio_T: torch.Tensor  # importance ratio of the unit that the token belongs to
    objective_T: torch.Tensor  # its share of the policy loss, before the normaliser
    clipped_T: torch.Tensor  # bool: a clip is active
    mask_T: torch.Tensor  # bool: under the loss


@dataclass(frozen=True)
class TokenMetric:
    """One number per token, (B, A), and how those of an iteration are reduced. ``unit`` and ``healthy`` are for readers."""

    of: Callable[[LossTokens], torch.Tensor]
    reduce: Reduce
    unit: str
    healthy: str = ""

    def reduced(self, tokens: LossTokens) -> torch.Tensor:
        """Sum, largest or smallest value of one micro-batch, float64; a mean is divided at the end, by the tokens."""
        value_T = self.of(tokens).double()
        if self.reduce in ("mean", "sum"):
            return torch.where(tokens.mask_T, value_T, 0).sum()
        value_N = value_T[tokens.mask_T]
        if not len(value_N):
            return value_N.new_tensor(EMPTY[self.reduce])
        return value_N.max() if self.reduce == "max" else value_N.min()


def k3(logp: torch.Tensor, ref_logp: torch.Tensor) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) from tokens of the policy: exp(d) - d - 1, d = ref - logp.

    http://joschu.net/blog/kl-approx.html
    """
    diff_T = (at_least_float32(ref_logp) - at_least_float32(logp)).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return diff_T.expm1() - diff_T


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """bfloat16 and float16 as float32; what is finer stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


METRICS: Registry[TokenMetric] = Registry(
    "metric",
    {
        "policy_loss": TokenMetric(
            lambda tokens: tokens.objective_T, "mean", "reward", "near 0, falling within an iteration of several epochs"
        ),
        "ppo_clip_ratio": TokenMetric(
            lambda tokens: tokens.clipped_T, "mean", "share of tokens", "below 0.2; 0 with one update a batch"
        ),
        "ppo_kl": TokenMetric(
            lambda tokens: k3(tokens.old_logp_T, tokens.logp_T),
            "mean",
            "nats",
            "below 0.05; more means steps too large",
        ),
        "trained_tokens": TokenMetric(
            lambda tokens: torch.ones_like(tokens.ratio_T), "sum", "tokens, each as often as it was trained on"
        ),
    },
)
