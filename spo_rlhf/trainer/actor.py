"""The policy actor: OpenRLHF's, with the masked SPO loss and one normaliser per optimizer step."""

import copy
from typing import Iterator

import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.loss import Clip, LossTerms, spo_loss
from spo_rlhf.trainer.experience import trained_tokens


class LossWindows:
    """In place of OpenRLHF's iterator over optimizer steps: its normaliser counts the tokens under the policy loss.

    A window is the micro-batches of one optimizer step. Z is the same number on every rank, so all ranks skip a window without
    a trained token alike; skipped windows are counted.
    """

    def __init__(self, spo: SpoConfig):
        self.spo, self.skipped = spo, 0

    def __call__(self, data_iter, strategy, accumulated_gradient: int, mask_fn) -> Iterator[tuple]:
        def mask_of(experience):
            return trained_tokens(experience, self.spo)

        skipped_micro_batches = 0
        for experience, info in upstream.iter_grad_accum_global_norm(data_iter, strategy, accumulated_gradient, mask_of):
            if info["batch_num_tokens"] > 0:
                yield experience, info
            else:
                skipped_micro_batches += 1
        self.skipped += skipped_micro_batches // max(int(accumulated_gradient), 1)


class SegmentReplayBuffer(upstream.NaiveReplayBuffer):
    """With dynamic batches OpenRLHF takes the normalisers from here: they count the tokens under the policy loss."""

    def __init__(self, *args, spo: SpoConfig, **kwargs):
        super().__init__(*args, **kwargs)
        self.spo, self.skipped = spo, 0

    def setup_dynamic_batch(self, strategy) -> None:
        action_masks = [item.action_mask for item in self.items]
        for item in self.items:
            item.action_mask = trained_tokens(item, self.spo)
        try:
            super().setup_dynamic_batch(strategy)
        finally:
            for item, action_mask in zip(self.items, action_masks):
                item.action_mask = action_mask
        # A step without a trained token on any rank is left out whole: all its micro-batches have Z = 0, on every rank.
        kept = [i for i, num_tokens in enumerate(self.dynamic_batch_num_tokens) if num_tokens > 0]
        steps_before = sum(self.dynamic_optimizer_step)
        for name in ("indices", "sample_loss_scale", "batch_num_tokens", "global_batch_size", "optimizer_step"):
            values = getattr(self, f"dynamic_{name}")
            setattr(self, f"dynamic_{name}", [values[i] for i in kept])
        self.skipped += steps_before - sum(self.dynamic_optimizer_step)


class MaskedTotals:
    """Sums over the masked tokens of an iteration. OpenRLHF weights its metrics by action tokens, which depends on the split."""

    def __init__(self):
        self.sums = {"policy_loss": 0.0, "ppo_clip_ratio": 0.0, "ppo_kl": 0.0, "masked_tokens": 0.0}

    def add(self, terms: LossTerms, normalizer) -> None:
        masked = float(terms.masked_tokens)
        self.sums["policy_loss"] += float(terms.policy * normalizer)
        self.sums["ppo_clip_ratio"] += float(terms.clip_fraction) * masked
        self.sums["ppo_kl"] += float(terms.approx_kl) * masked
        self.sums["masked_tokens"] += masked

    def take(self, strategy) -> dict[str, float]:
        """Means per masked token over all ranks, and start anew."""
        sums = strategy.all_reduce(self.sums, op="sum")
        self.__init__()
        masked_tokens = sums.pop("masked_tokens")
        return {name: value / masked_tokens for name, value in sums.items()} if masked_tokens else {}


class SegmentPolicyLoss(upstream.PolicyLoss):
    """The whole objective of one micro-batch: spo_rlhf.core.loss.spo_loss on OpenRLHF's tensors.

    `bind` hands over what OpenRLHF's call does not pass. Policy losses that core does not have (`--actor.policy_loss_type gspo`,
    `--algo.advantage.is_correction_*`, `seq-mean-token-mean`) are OpenRLHF's own, on the masked tokens.
    """

    def __init__(self, args):
        advantage, actor = args.algo.advantage, args.actor
        super().__init__(
            clip_eps_low=actor.eps_clip_low_high[0],
            clip_eps_high=actor.eps_clip_low_high[1],
            dual_clip=actor.dual_clip,
            token_level_loss=actor.loss_agg_mode == "token-mean",
            policy_loss_type=actor.policy_loss_type,
            is_correction_level=advantage.is_correction_level,
            is_correction_mode=advantage.is_correction_mode,
            is_correction_gating=advantage.is_correction_gating,
            is_correction_threshold=advantage.is_correction_threshold,
        )
        self.clip = Clip(*actor.eps_clip_low_high, actor.dual_clip)
        self.kl_options, self.spo = args.algo.kl, args.spo
        self.totals = MaskedTotals()
        self.in_core = actor.policy_loss_type == "ppo" and self.token_level_loss and self.is_correction_level == "off"

    def bind(self, experience: upstream.Experience, kl_coef: float) -> None:
        """The micro-batch that the next call is about, and the KL coefficient of this iteration."""
        self.experience, self.kl_coef = experience, kl_coef

    def forward(
        self,
        log_probs,
        old_log_probs,
        advantages,
        action_mask=None,
        rollout_log_probs=None,
        dp_size=1,
        batch_num_tokens=None,
        global_batch_size=None,
    ):
        mask = trained_tokens(self.experience, self.spo)
        kl_T, kl_mask = self._kl(log_probs, old_log_probs), action_mask if self.spo.kl_scope == "all" else mask
        # Where OpenRLHF computes the policy term, core's share is the KL term alone.
        terms = spo_loss(
            log_probs,
            old_log_probs,
            advantages,
            mask if self.in_core else torch.zeros_like(mask),
            clip=self.clip,
            normalizer=batch_num_tokens,
            kl_T=kl_T,
            kl_mask=kl_mask,
            kl_coef=self.kl_coef,
            scale=dp_size,
            action_mask=action_mask,
        )
        if kl_T is not None:
            self._log_kl(kl_T, kl_mask)
        if self.in_core:
            self.totals.add(terms, batch_num_tokens)
            return terms.loss, terms.clip_fraction, terms.approx_kl, None, None
        return self._with_upstream_policy_term(
            terms, mask, log_probs, old_log_probs, advantages, rollout_log_probs, dp_size, batch_num_tokens, global_batch_size
        )

    def _with_upstream_policy_term(self, terms: LossTerms, mask, log_probs, old_log_probs, advantages, rollout, *normalizers):
        if not mask.any():  # OpenRLHF's metrics divide by the number of masked tokens
            zero = terms.loss.detach() * 0
            correcting = self.is_correction_level != "off"
            return terms.loss + 0 * log_probs.sum(), zero, zero, *((zero, zero) if correcting else (None, None))
        policy, *metrics = super().forward(log_probs, old_log_probs, advantages, mask.float(), rollout, *normalizers)
        return policy + terms.loss, *metrics

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

    def _log_kl(self, kl_T, kl_mask) -> None:
        covered = kl_mask.float()
        self.experience.info["kl"] = ((kl_T.detach() * covered).sum(-1) / covered.sum(-1).clamp(min=1)).float()


class SegmentActorTrainer(upstream.ActorPPOTrainer):
    """OpenRLHF's actor trainer with the loss, the normaliser and the buffer above."""

    def __init__(self, strategy, *args, **kwargs):
        super().__init__(strategy, *args, **kwargs)
        spo: SpoConfig = self.args.spo
        self.actor_loss_fn = SegmentPolicyLoss(self.args)
        buffer = self.replay_buffer
        self.replay_buffer = SegmentReplayBuffer(
            buffer.sample_batch_size, buffer.limit, buffer.cpu_offload, buffer.packing_samples, buffer.dynamic_batch, spo=spo
        )
        # The KL term is in actor_loss_fn; OpenRLHF would add one of its own over all action tokens.
        self.args = copy.copy(self.args)
        self.args.algo = copy.copy(self.args.algo)
        self.args.algo.kl = copy.copy(self.args.algo.kl)
        self.args.algo.kl.use_loss = False
        self.windows = LossWindows(spo)

    def ppo_train(self, kl_ctl: float) -> dict:
        skipped_before = self.windows.skipped + self.replay_buffer.skipped
        with upstream.loss_windows(self.windows):
            status = super().ppo_train(kl_ctl)
        status |= self.actor_loss_fn.totals.take(self.strategy)
        status["skipped_steps"] = self.windows.skipped + self.replay_buffer.skipped - skipped_before
        return status

    def training_step(self, experience, kl_ctl: float, step: int, loss_batch_info=None) -> dict:
        self.actor_loss_fn.bind(experience, kl_ctl)
        return super().training_step(experience, kl_ctl, step, loss_batch_info)


class SegmentPolicyActor(upstream.PolicyModelActor):
    """OpenRLHF's policy actor around SegmentActorTrainer; tells the engines which weights they have."""

    def init_model_from_pretrained(self, *args, **kwargs):
        self.weight_version = 0
        with upstream.actor_trainer(SegmentActorTrainer):
            super().init_model_from_pretrained(*args, **kwargs)

    def broadcast_to_vllm(self) -> None:
        super().broadcast_to_vllm()
        self.weight_version += 1
        if torch.distributed.get_rank() == 0:
            ray.get([engine.set_weight_version.remote(self.weight_version) for engine in self.vllm_engines])


class ReferenceActor(upstream.ReferenceModelActor):
    """OpenRLHF's reference model; a class of this project, so that the worker that unpickles it is adapted."""


class CriticActor(upstream.CriticModelActor):
    """OpenRLHF's critic, likewise."""


class RewardActor(upstream.RewardModelActor):
    """OpenRLHF's reward model, likewise."""


RemotePolicyActor = ray.remote(num_gpus=1)(SegmentPolicyActor)
RemoteReferenceActor = ray.remote(num_gpus=1)(ReferenceActor)
RemoteCriticActor = ray.remote(num_gpus=1)(CriticActor)
RemoteRewardActor = ray.remote(num_gpus=1)(RewardActor)
