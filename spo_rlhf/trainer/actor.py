"""The policy actor: OpenRLHF's, with the masked SPO loss and one normaliser per optimizer step."""

import copy
from collections.abc import Iterator

import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.finite import Fault
from spo_rlhf.core.metrics import METRICS
from spo_rlhf.trainer.experience import trained_tokens
from spo_rlhf.trainer.faults import faults_of_step
from spo_rlhf.trainer.guard import FiniteWeights, StepGuard
from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss


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
        for experience, info in upstream.iter_grad_accum_global_norm(
            data_iter, strategy, accumulated_gradient, mask_of
        ):
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


class SegmentActorTrainer(upstream.ActorPPOTrainer):
    """OpenRLHF's actor trainer with the loss, the normaliser and the buffer above."""

    def __init__(self, strategy, *args, **kwargs):
        super().__init__(strategy, *args, **kwargs)
        spo: SpoConfig = self.args.spo
        self.actor_loss_fn = SegmentPolicyLoss(self.args)
        buffer = self.replay_buffer
        self.replay_buffer = SegmentReplayBuffer(
            buffer.sample_batch_size,
            buffer.limit,
            buffer.cpu_offload,
            buffer.packing_samples,
            buffer.dynamic_batch,
            spo=spo,
        )
        # The KL term is in actor_loss_fn; OpenRLHF would add one of its own over all action tokens.
        self.args = copy.copy(self.args)
        self.args.algo = copy.copy(self.args.algo)
        self.args.algo.kl = copy.copy(self.args.algo.kl)
        self.args.algo.kl.use_loss = False
        self.windows = LossWindows(spo)
        self.guard = StepGuard(strategy, self._faults)
        self.report: tuple[list[bool], list[Fault]] = [], []  # of the guard, from the last `ppo_train`

    def ppo_train(self, kl_ctl: float) -> dict:
        skipped_before = self.windows.skipped + self.replay_buffer.skipped
        with upstream.loss_windows(self.windows):
            status = super().ppo_train(kl_ctl)
        for name in METRICS:
            status.pop(name, None)  # OpenRLHF's, of micro-batches that were not trained too
        status |= self.actor_loss_fn.totals.take(self.strategy)
        self.report = self.guard.take()
        status["nonfinite_steps"] = self.report[0].count(False)
        status["optimizer_steps"] = self.report[0].count(True)
        without_tokens = self.windows.skipped + self.replay_buffer.skipped - skipped_before
        status["skipped_steps"] = without_tokens + status["nonfinite_steps"]
        return status

    def training_step(self, experience, kl_ctl: float, step: int, loss_batch_info=None) -> dict:
        totals = self.actor_loss_fn.totals
        if self.guard.micro_batches == 0:
            self._totals_before = dict(totals.values)
        self.actor_loss_fn.bind(experience, kl_ctl)
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        if self.guard.micro_batches == 0 and self.guard.left_out:
            totals.values = self._totals_before  # those of what was trained
        return status

    def _faults(self, number: str) -> list[Fault]:
        return faults_of_step(number, self.actor_loss_fn.experience, self.actor_loss_fn.log_probs)


class SegmentPolicyActor(FiniteWeights, upstream.PolicyModelActor):
    """OpenRLHF's policy actor around SegmentActorTrainer; tells the engines which weights they have."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        self.weight_version = 0
        self.entropy_clip, self.entropies = strategy.args.spo.entropy_clip > 0, []
        with upstream.actor_trainer(SegmentActorTrainer):
            super().init_model_from_pretrained(strategy, *args, **kwargs)

    def forward(self, *args, **kwargs):
        """Log-probabilities under the old policy; the entropies of the same pass stay here until `take_entropies`."""
        if not self.entropy_clip:
            return super().forward(*args, **kwargs)
        with upstream.entropies(self.actor) as seen:
            log_probs = super().forward(*args, **kwargs)
        self.entropies += [entropy.cpu() for entropy in seen]
        return log_probs

    def take_entropies(self) -> list[torch.Tensor]:
        """Entropies (B, T - 1) of the forward passes since the last call, in their order."""
        entropies, self.entropies = self.entropies, []
        return entropies

    def fit(self, kl_ctl: float = 0) -> dict:
        self.weights_are_finite = False
        return super().fit(kl_ctl)

    def take_report(self) -> tuple[list[bool], list[Fault]]:
        """Which optimizer steps of the last `fit` were made, in their order, and what this rank saw of the others."""
        return self.trainer.report

    def save_model(self) -> None:
        self.require_finite_weights(self.strategy, self.actor, self.ema_model)
        super().save_model()

    def save_checkpoint(self, *args, **kwargs) -> None:
        self.require_finite_weights(self.strategy, self.actor, self.ema_model)
        super().save_checkpoint(*args, **kwargs)

    def broadcast_to_vllm(self) -> None:
        self.require_finite_weights(self.strategy, self.actor, self.ema_model)
        super().broadcast_to_vllm()
        self.weight_version += 1
        if torch.distributed.get_rank() == 0:
            ray.get([engine.set_weight_version.remote(self.weight_version) for engine in self.vllm_engines])


class ReferenceActor(upstream.ReferenceModelActor):
    """OpenRLHF's reference model; a class of this project, so that the worker that unpickles it is adapted."""


class CriticActor(FiniteWeights, upstream.CriticModelActor):
    """OpenRLHF's critic, likewise; its optimizer steps and weights are guarded as the policy's are."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        self.guard = StepGuard(self.trainer.strategy, self._faults)
        training_step = self.trainer.training_step

        def bound_training_step(experience, *args, **kwargs):
            self.experience = experience
            return training_step(experience, *args, **kwargs)

        self.trainer.training_step = bound_training_step

    def fit(self) -> dict:
        self.weights_are_finite = False
        status = super().fit()
        self.report = self.guard.take()
        status["critic_nonfinite_steps"] = self.report[0].count(False)
        return status

    def take_report(self) -> tuple[list[bool], list[Fault]]:
        """As of the policy."""
        return self.report

    def save_model(self) -> None:
        self.require_finite_weights(self.strategy, self.critic)
        super().save_model()

    def save_checkpoint(self, *args, **kwargs) -> None:
        self.require_finite_weights(self.strategy, self.critic)
        super().save_checkpoint(*args, **kwargs)

    def _faults(self, number: str) -> list[Fault]:
        return faults_of_step(f"critic {number}", self.experience, None)


class RewardActor(upstream.RewardModelActor):
    """OpenRLHF's reward model, likewise."""


RemotePolicyActor = ray.remote(num_gpus=1)(SegmentPolicyActor)
RemoteReferenceActor = ray.remote(num_gpus=1)(ReferenceActor)
RemoteCriticActor = ray.remote(num_gpus=1)(CriticActor)
RemoteRewardActor = ray.remote(num_gpus=1)(RewardActor)
