"""The policy actor: OpenRLHF's, with the masked SPO loss and one normaliser per optimizer step."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import ray
import torch

from spo_rlhf import upstream, upstream_checkpoints, upstream_steps, upstream_weights
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.finite import Fault
from spo_rlhf.core.metrics import METRICS
from spo_rlhf.trainer import packed
from spo_rlhf.trainer.faults import faults_of_step
from spo_rlhf.trainer.guard import FiniteWeights, StepGuard
from spo_rlhf.trainer.micro_batches import MicroBatches, filler
from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss
from spo_rlhf.trainer.rank_state import SavedRank
from spo_rlhf.trainer.sketch import Sketch
from spo_rlhf.trainer.trained import has_gradient, trained_tokens, wanted_by


class LossWindows:
    """In place of OpenRLHF's iterator over optimizer steps: its normaliser counts the tokens under the policy loss.

    A window is the micro-batches of one optimizer step. Z is the same number on every rank, so all ranks skip a window without
    a trained token alike; skipped windows are counted. `form` makes the micro-batches to compute of those of a window, as
    many on every rank; without any the window is skipped too.
    """

    def __init__(self, spo: SpoConfig, form: Callable[[list, object], list] | None = None):
        self.spo, self.form = spo, form
        self.skipped = 0
        self.ends_step = True  # the micro-batch handed out last is the last of its optimizer step

    def __call__(self, data_iter, strategy, accumulated_gradient: int, mask_fn) -> Iterator[tuple]:
        def mask_of(experience):
            return trained_tokens(experience, self.spo)

        size = max(int(accumulated_gradient), 1)
        pairs = upstream.iter_grad_accum_global_norm(data_iter, strategy, accumulated_gradient, mask_of)
        while window := list(itertools.islice(pairs, size)):
            batches, info = [experience for experience, _ in window], window[0][1]
            if info["batch_num_tokens"] <= 0:
                batches = []
            elif self.form:
                batches = self.form(batches, strategy)
            self.skipped += not batches
            for number, experience in enumerate(batches, start=1):
                self.ends_step = number == len(batches) and len(window) == size
                yield experience, info


class SegmentReplayBuffer(upstream.NaiveReplayBuffer):
    """With dynamic batches OpenRLHF takes the normalisers from here: they count the tokens under the policy loss.

    `leaves_out`: what has no gradient is counted in them and left out of the micro-batches.
    """

    def __init__(self, *args, spo: SpoConfig, leaves_out: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.spo, self.leaves_out, self.skipped = spo, leaves_out, 0

    def setup_dynamic_batch(self, strategy) -> None:
        kept = [not self.leaves_out or bool(has_gradient(item, self.spo).any()) for item in self.items]
        before = [(item.action_mask, item.total_length) for item in self.items]
        for item, keep in zip(self.items, kept):
            item.action_mask = trained_tokens(item, self.spo)
            if not keep:  # so it takes no place among the tokens of a micro-batch
                item.total_length = torch.ones_like(item.total_length)
        try:
            super().setup_dynamic_batch(strategy)
        finally:
            for item, (action_mask, total_length) in zip(self.items, before):
                item.action_mask, item.total_length = action_mask, total_length
        if self.dynamic_indices:
            self._leave_out([[i for i in indices if kept[i]] for indices in self.dynamic_indices], strategy)

    def _leave_out(self, indices: list[list[int]], strategy) -> None:
        """Leave out micro-batches that are empty on every rank, and steps without a trained token: Z = 0 on every rank."""
        rows = strategy.all_reduce(torch.tensor([float(len(part)) for part in indices]), op="max")
        computed = [i for i, tokens in enumerate(self.dynamic_batch_num_tokens) if tokens > 0 and rows[i] > 0]
        step_of = list(itertools.accumulate(self.dynamic_optimizer_step, initial=0))  # before micro-batch i
        self.dynamic_indices = indices
        for name in ("indices", "sample_loss_scale", "batch_num_tokens", "global_batch_size"):
            values = getattr(self, f"dynamic_{name}")
            setattr(self, f"dynamic_{name}", [values[i] for i in computed])
        steps = [step_of[i] for i in computed]
        steps_before = sum(self.dynamic_optimizer_step)
        self.dynamic_optimizer_step = [int(one != other) for one, other in zip(steps, [*steps[1:], None])]
        self.skipped += steps_before - sum(self.dynamic_optimizer_step)
        if not all(self.dynamic_indices):
            self.items.append(filler(self.items))
            self.dynamic_indices = [part or [len(self.items) - 1] for part in self.dynamic_indices]


class SegmentActorTrainer(upstream.ActorPPOTrainer):
    """OpenRLHF's actor trainer with the loss, the normaliser and the buffer above."""

    def __init__(self, strategy, *args, **kwargs):
        super().__init__(strategy, *args, **kwargs)
        spo: SpoConfig = self.args.spo
        self.actor_loss_fn = SegmentPolicyLoss(self.args)
        buffer, leaves_out = self.replay_buffer, wanted_by(self.args) is None
        self.replay_buffer = SegmentReplayBuffer(
            buffer.sample_batch_size,
            buffer.limit,
            buffer.cpu_offload,
            buffer.packing_samples,
            buffer.dynamic_batch,
            spo=spo,
            leaves_out=leaves_out,
        )
        # The KL term is in actor_loss_fn; OpenRLHF would add one of its own over all action tokens.
        self.args = copy.copy(self.args)
        self.args.algo = copy.copy(self.args.algo)
        self.args.algo.kl = copy.copy(self.args.algo.kl)
        self.args.algo.kl.use_loss = False
        self.form = MicroBatches(
            spo,
            leaves_out=leaves_out,
            size=buffer.sample_batch_size,
            packing_samples=buffer.packing_samples,
            pack_tokens=spo.pack_tokens if spo.packs else None,
        )
        self.windows = LossWindows(spo, self.form)
        self.packed: packed.PackedActor | None = None
        self.guard = StepGuard(strategy, self._faults)
        self.report: tuple[list[bool], list[Fault]] = [], []  # of the guard, from the last `ppo_train`

    def ppo_train(self, kl_ctl: float) -> dict:
        skipped_before = self.windows.skipped + self.replay_buffer.skipped
        self.micro_batches = 0
        self.take_packed()  # the passes for old log-probs
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
        status["micro_batches"] = self.micro_batches
        return status | self.take_packed()

    def pack(self) -> None:
        """Compute packed rows from now on, where that is asked for; what else changes the Actor's forward has done so."""
        spo: SpoConfig = self.args.spo
        self.packed = packed.install(self.actor, spo) if spo.packs else None

    def take_packed(self) -> dict[str, float]:
        """Metrics of packing since the last call, over all ranks; none without packing."""
        if self.packed is None:
            return {}
        counts = {**self.packed.take(), "distinct": self.form.take_distinct()}
        return packed.metrics(self.strategy.all_reduce(counts, op="sum"))

    def training_step(self, experience, kl_ctl: float, step: int, loss_batch_info=None) -> dict:
        totals = self.actor_loss_fn.totals
        if self.guard.micro_batches == 0:
            self._totals_before = dict(totals.values)
        self.actor_loss_fn.bind(experience, kl_ctl)
        self.micro_batches += 1
        if not self.args.train.dynamic_batch_enable:
            # DeepSpeed would count micro-batches, and windows have different numbers of them.
            self.actor.model.set_gradient_accumulation_boundary(self.windows.ends_step)
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        if self.guard.micro_batches == 0 and self.guard.left_out:
            totals.values = self._totals_before  # those of what was trained
        return status

    def broadcast_to_vllm(self) -> None:
        spo: SpoConfig = self.args.spo
        if spo.weight_bucket_mib:
            upstream_weights.broadcast(self, spo.weight_bucket_mib << 20, spo.engine_timeout)
        else:
            super().broadcast_to_vllm()

    def _faults(self, number: str) -> list[Fault]:
        return faults_of_step(number, self.actor_loss_fn.experience, self.actor_loss_fn.log_probs)


class SegmentPolicyActor(FiniteWeights, SavedRank, upstream.PolicyModelActor):
    """OpenRLHF's policy actor around SegmentActorTrainer; tells the engines which weights they have."""

    folder_name = "_actor"

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        self.limit_s = strategy.args.spo.engine_timeout
        spo = strategy.args.spo
        self.entropy_clip, self.entropies = spo.entropy_clip > 0, []
        self.sketch = (
            Sketch(spo.method.hidden_features, strategy.args.train.seed) if spo.method.hidden_features else None
        )
        folder = strategy.args.resume_from
        with upstream.actor_trainer(SegmentActorTrainer), upstream_checkpoints.in_folder(strategy, folder):
            super().init_model_from_pretrained(strategy, *args, **kwargs)
        self.trainer.pack()
        self.sender = upstream.WeightSender(self.vllm_engines, self.limit_s)
        self.weight_version = self.load_rank(folder).get("weight_version", 0)  # updates behind the weights

    def forward(self, *args, **kwargs):
        """Log-probabilities under the old policy; what else is wanted of the same pass stays here until it is taken."""
        with contextlib.ExitStack() as more:
            entropies = more.enter_context(upstream.entropies(self.actor)) if self.entropy_clip else []
            hidden = more.enter_context(upstream.head_inputs(self.actor)) if self.sketch else []
            log_probs = super().forward(*args, **kwargs)
        self.entropies += [entropy.cpu() for entropy in entropies]
        if self.sketch:
            self.sketch.keep(hidden)
        return log_probs

    def take_entropies(self) -> list[torch.Tensor]:
        """Entropies (B, T - 1) of the forward passes since the last call, in their order."""
        entropies, self.entropies = self.entropies, []
        return entropies

    def take_features(self) -> list[torch.Tensor]:
        """Features (B, T - 1, D) of the states of the forward passes since the last call, in their order."""
        return self.sketch.take() if self.sketch else []

    def fit(self, kl_ctl: float = 0) -> dict:
        self.weights_are_finite = False
        self.weight_version += 1
        return super().fit(kl_ctl)

    def take_report(self) -> tuple[list[bool], list[Fault]]:
        """Which optimizer steps of the last `fit` were made, in their order, and what this rank saw of the others."""
        return self.trainer.report

    def save_model(self) -> None:
        self.require_finite_weights(self.strategy, self.actor, self.ema_model)
        super().save_model()

    def save_checkpoint(self, folder: str) -> None:
        """Write the policy's part of the checkpoint that is in the making in `folder`."""
        self.require_finite_weights(self.strategy, self.actor, self.ema_model)
        with upstream_checkpoints.in_folder(self.strategy, folder):
            super().save_checkpoint(upstream_checkpoints.TAG)
        self.save_rank(folder, weight_version=self.weight_version)

    def broadcast_to_vllm(self, engines: Sequence[int] = ()) -> tuple[int, int, list[int]]:
        """The weights of now to the engines of these numbers.

        Returns their version, the bytes of one copy, and the engines that did not take them whole.
        """
        self.require_finite_weights(self.strategy, self.actor, self.ema_model)
        failed = self.sender.send(self.trainer, list(engines), self.weight_version)
        return self.weight_version, upstream_steps.weight_bytes(self.actor), failed


class ReferenceActor(upstream.ReferenceModelActor):
    """OpenRLHF's reference model, packed as the policy is."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        if strategy.args.spo.packs:
            packed.install(self.model, strategy.args.spo)


class CriticActor(FiniteWeights, SavedRank, upstream.CriticModelActor):
    """OpenRLHF's critic, likewise; its optimizer steps and weights are guarded as the policy's are."""

    folder_name = "_critic"

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        folder = strategy.args.resume_from
        with upstream_checkpoints.in_folder(strategy, folder):
            super().init_model_from_pretrained(strategy, *args, **kwargs)
        self.load_rank(folder)
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

    def save_checkpoint(self, folder: str) -> None:
        """As the policy's."""
        self.require_finite_weights(self.strategy, self.critic)
        with upstream_checkpoints.in_folder(self.strategy, folder):
            super().save_checkpoint(upstream_checkpoints.TAG)
        self.save_rank(folder)

    def _faults(self, number: str) -> list[Fault]:
        return faults_of_step(f"critic {number}", self.experience, None)


class RewardActor(upstream.RewardModelActor):
    """OpenRLHF's reward model, likewise."""


RemotePolicyActor = ray.remote(num_gpus=1)(SegmentPolicyActor)
RemoteReferenceActor = ray.remote(num_gpus=1)(ReferenceActor)
RemoteCriticActor = ray.remote(num_gpus=1)(CriticActor)
RemoteRewardActor = ray.remote(num_gpus=1)(RewardActor)
