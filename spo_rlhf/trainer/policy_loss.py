"""The objective of one micro-batch, spo_rlhf.core.loss on OpenRLHF's tensors, and its metrics over an iteration."""

from typing import Any

import torch

from spo_rlhf import upstream
from spo_rlhf.core.loss import Clip, LossTerms, spo_loss
from spo_rlhf.core.metrics import EMPTY, METRICS, Reduce
from spo_rlhf.core.ratio import UnitStats, unit_index
from spo_rlhf.trainer.trained import trained_tokens


class SegmentPolicyLoss:
    """What OpenRLHF's actor calls in place of its PolicyLoss.

    `bind` hands over what OpenRLHF's call does not pass. Ratio level, clip, mask, KL and `--actor.loss_agg_mode` are core's; the
    weights of `--algo.advantage.is_correction_*` are computed by OpenRLHF's own loss.
    Raises ValueError for clip bounds or a correction that cannot be.
    """

    def __init__(self, args):
        self.kl_options, self.spo = args.algo.kl, args.spo
        low, high = args.actor.eps_clip_low_high
        self.clip = Clip(low, high, args.actor.dual_clip)
        if low * (1 + self.spo.entropy_clip) > 1:
            raise ValueError(
                f"clip low {low} x (1 + entropy clip {self.spo.entropy_clip}) is above 1: no ratio is that low"
            )
        self.per_response = args.actor.loss_agg_mode == "seq-mean-token-mean"
        correction = args.algo.advantage
        self.correction = None
        if correction.is_correction_level != "off":
            self.correction = Correction(
                level=correction.is_correction_level,
                mode=correction.is_correction_mode,
                gating=correction.is_correction_gating,
                threshold=correction.is_correction_threshold,
            )
        self.totals = MaskedTotals()
        self.log_probs: torch.Tensor | None = None  # (B, A) of the last call

    def bind(self, experience: upstream.Experience, kl_coef: float) -> None:
        """The micro-batch that the next call is about, and the KL coefficient of this iteration."""
        self.experience, self.kl_coef = experience, kl_coef

    def __call__(
        self,
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        action_mask: Any = None,
        rollout_log_probs: Any = None,
        dp_size: int = 1,
        batch_num_tokens: Any = None,
        global_batch_size: Any = None,
    ):
        """(loss, clip fraction, approximate KL, None, None): what OpenRLHF unpacks, all of the masked tokens."""
        mask = trained_tokens(self.experience, self.spo)
        self.log_probs = log_probs.detach()
        weight = None
        if self.per_response:
            # The mean over responses of their token means, in terms of the sum over tokens divided by Z.
            weight = batch_num_tokens / global_batch_size.clamp(min=1e-9) / mask.sum(-1, keepdim=True).clamp(min=1)
        if self.correction:
            correction_T, statistics = self.correction(old_log_probs, rollout_log_probs, mask)
            self.totals.add_sums(statistics)
            weight = correction_T if weight is None else weight * correction_T
        kl_T, kl_mask = self._kl(log_probs, old_log_probs), action_mask if self.spo.kl_scope == "all" else mask
        terms = spo_loss(
            log_probs,
            old_log_probs,
            advantages,
            mask,
            clip=self.clip,
            normalizer=batch_num_tokens,
            kl_T=kl_T,
            kl_mask=kl_mask,
            kl_coef=self.kl_coef,
            scale=dp_size,
            action_mask=action_mask,
            index=unit_index(self.spo.ratio_level, mask.shape, self.experience.unit_ids, mask.device),
            weight=weight,
            clip_scale=self.experience.clip_scale,
        )
        if kl_T is not None:
            covered = kl_mask.float()
            self.experience.info["kl"] = ((kl_T.detach() * covered).sum(-1) / covered.sum(-1).clamp(min=1)).float()
        self.totals.add(terms)
        clip_fraction, approx_kl = (terms.mean(name).float() for name in ("ppo_clip_ratio", "ppo_kl"))
        return terms.loss, clip_fraction, approx_kl, None, None

    def _kl(self, log_probs, old_log_probs) -> torch.Tensor | None:
        """Per-token KL to the reference, by OpenRLHF's estimator; None where it is no loss term."""
        if not self.kl_options.use_loss or self.experience.base_action_log_probs is None:
            return None
        return upstream.compute_approx_kl(
            log_probs,
            self.experience.base_action_log_probs,
            log_probs_old=old_log_probs,
            kl_estimator=self.kl_options.estimator,
            unbiased_gradient=self.kl_options.unbiased_gradient,
        )


class Correction:
    """Weights for the mismatch of actor and engine, from OpenRLHF's own loss.

    At ratio 1 that loss is minus the sum of weight x advantage, so its gradient in the advantages is minus the weights: nothing of
    its gates and bounds is written here again. Raises ValueError for a combination that OpenRLHF refuses.
    """

    def __init__(self, level: str, mode: str, gating: str, threshold: list[float]):
        self.per_response = level == "seq"
        self.loss = upstream.PolicyLoss(
            is_correction_level=level,
            is_correction_mode=mode,
            is_correction_gating=gating,
            is_correction_threshold=threshold,
        )

    def __call__(self, old_logp, rollout_logp, mask) -> tuple[torch.Tensor, dict[str, float]]:
        """Weights (B, A), 0 outside `mask`, and sums to log. Rows without a masked token would make OpenRLHF's means NaN."""
        rows = mask.any(-1)
        weight = torch.zeros_like(old_logp)
        if not rows.any():
            return weight, {}
        old, rollout, masked = old_logp[rows].detach(), rollout_logp[rows], mask[rows]
        with torch.enable_grad():
            advantages = torch.zeros_like(old, requires_grad=True)
            total, _, _, gap, filtered = self.loss(old, old, advantages, masked.float(), rollout, batch_num_tokens=1)
            weight[rows] = -torch.autograd.grad(total, advantages)[0]
        tokens = float(mask.sum())
        units = float(rows.sum()) if self.per_response else tokens
        return weight, {"vllm_kl": float(gap) * tokens, "is_filtered": float(filtered) * units, "is_units": units}


class MaskedTotals:
    """Metrics of the loss over an iteration. OpenRLHF weights its own by action tokens, which depends on the split."""

    # What `add_sums` may add: sums over tokens or units of the mismatch correction.
    CORRECTION = ("vllm_kl", "is_filtered", "is_units")

    def __init__(self) -> None:
        self.reduce: dict[str, Reduce] = {
            **{name: metric.reduce for name, metric in METRICS.items()},
            **UnitStats.reductions(),
            **dict.fromkeys(self.CORRECTION, "sum"),
        }
        self.start()

    def start(self) -> None:
        """Forget the iteration."""
        self.values = {name: EMPTY[how] for name, how in self.reduce.items()}

    def add(self, terms: LossTerms) -> None:
        """One micro-batch."""
        if not float(terms.masked_tokens):
            return
        for name, value in terms.metrics.items():
            self._add(name, float(value))
        for name in UnitStats.reductions():
            self._add(name, float(getattr(terms.units, name)))

    def add_sums(self, sums: dict[str, float]) -> None:
        for name, value in sums.items():
            self._add(name, value)

    def _add(self, name: str, value: float) -> None:
        how = self.reduce[name]
        known = self.values[name]
        self.values[name] = max(known, value) if how == "max" else min(known, value) if how == "min" else known + value

    def take(self, strategy: Any) -> dict[str, float]:
        """Metrics over all ranks and optimizer steps of the iteration; start anew."""
        total = self._over_ranks(strategy)
        self.start()
        tokens, units, responses = total["trained_tokens"], total["units"], total["responses"]
        if not tokens:
            return {}
        metrics = {
            name: total[name] / tokens if metric.reduce == "mean" else total[name] for name, metric in METRICS.items()
        }
        if total["is_units"]:
            metrics["vllm_kl"] = total["vllm_kl"] / tokens
            metrics["is_filter_ratio"] = total["is_filtered"] / total["is_units"]
        return metrics | {
            "ratio/clipped_units": total["clipped_units"] / units,
            "ratio/kept_responses": total["kept_responses"] / responses,
            "ratio/clipped_responses": total["clipped_responses"] / responses,
            "ratio/units_per_response": units / responses,
            "ratio/min": total["ratio_min"],
            "ratio/max": total["ratio_max"],
            "ratio/effective_sample_size": total["ratio_sum"] ** 2 / (units * total["ratio_square_sum"]),
        }

    def _over_ranks(self, strategy: Any) -> dict[str, float]:
        """The values of all ranks together. The strategy knows no minimum: it is minus the maximum of the negatives."""
        sums = {name: value for name, value in self.values.items() if self.reduce[name] in ("mean", "sum")}
        largest = {name: value for name, value in self.values.items() if self.reduce[name] == "max"}
        negative = {name: -value for name, value in self.values.items() if self.reduce[name] == "min"}
        sums = strategy.all_reduce(sums, op="sum")
        extremes = strategy.all_reduce(largest | negative, op="max")
        return {**sums, **{name: -value if name in negative else value for name, value in extremes.items()}}
