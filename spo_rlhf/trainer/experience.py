"""From sampled responses to what the actor trains on: advantages per token, and which tokens the policy loss covers."""

import copy
import itertools
import math

import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.advantages import Normalizer
from spo_rlhf.core.packing import plan
from spo_rlhf.core.ratio import entropy_scale, unit_index
from spo_rlhf.trainer.micro_batches import dealt
from spo_rlhf.trainer.packed import input_rows
from spo_rlhf.trainer.trained import has_gradient, may_get_gradient, row_means, trained_tokens, wanted_by


class SegmentExperienceMaker(upstream.RemoteExperienceMaker):
    """Keeps the segment advantages that came with the samples; in group mode OpenRLHF computes its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.leaves_out = wanted_by(self.args) is None
        # Of the last batch; OpenRLHF's train_step has no way to hand it on.
        self.logprob_gap_max, self.batch_metrics = math.nan, {}

    def make_experience_batch(self, samples):
        known = all(
            sample.action_log_probs is not None for sample in samples
        )  # `add_log_probs`, when they were sampled
        if known or self.leaves_out:
            return self.advantages_first(samples, known)
        return super().make_experience_batch(samples)

    @torch.no_grad()
    def advantages_first(self, samples: list[upstream.Experience], known: bool) -> list[upstream.Experience]:
        """As `make_experience_batch` where no model has a say in the advantages: then they say what is to be computed."""
        for number, sample in enumerate(samples):
            sample.index = [number]
            sample.kl = torch.zeros_like(sample.action_mask, dtype=torch.float32)
        samples = self.compute_advantages_and_returns(samples)
        if not known:
            self.add_log_probs(samples)
        gradient = [not self.leaves_out or bool(has_gradient(sample, self.args.spo).any()) for sample in samples]
        if not all(gradient):
            self.batch_metrics |= row_means(samples)
        self.logprob_gap_max = max(map(logprob_gap, itertools.compress(samples, gradient)), default=0.0)
        ranks, together = upstream.policy_ranks(self.args), self.args.spo.packs
        return self.split_rollout_samples(dealt(samples, gradient, ranks, together=together))

    def add_log_probs(self, samples: list[upstream.Experience]) -> None:
        """Old log-probs, and those of the reference, of single samples, in place: by the policy that sampled them.

        Where nothing else wants them, samples that cannot get a gradient have no pass; the engine's stand in for theirs.
        """
        if self.leaves_out:
            idle = [sample for sample in samples if not may_get_gradient(sample, self.args.spo)]
            samples = [sample for sample in samples if may_get_gradient(sample, self.args.spo)]
            stand_in(idle)
        if not samples:
            return
        ranks = upstream.policy_ranks(self.args)
        # Every rank has to take part in every forward pass: repeat the last sample, or batch, where there are too few.
        spare = [copy.copy(samples[-1]) for _ in range(ranks - len(samples))]
        batches = self.pass_batches(samples + spare)
        batches += batches[-1:] * (-len(batches) % ranks)
        for batch in self.make_experience(batches):
            for row, number in enumerate(batch.index):
                if number < len(samples):
                    fill_from(samples[number], batch, row)

    def pass_batches(self, samples: list[upstream.Experience]) -> list[upstream.Experience]:
        """Batches for a forward pass; packed, those that share prefixes stand together. `index` numbers the samples."""
        batches = self.split_rollout_samples(samples)  # it numbers them
        spo: SpoConfig = self.args.spo
        if not spo.packs:
            return batches
        groups = plan(input_rows(samples), spo.pack_tokens)
        if len(groups) < upstream.policy_ranks(self.args):  # or all of them together: some ranks would have nothing
            return batches
        pad = self.tokenizer.pad_token_id
        return [upstream.Experience.concat_experiences([samples[number] for number in group], pad) for group in groups]

    @torch.no_grad()
    def make_experience(self, samples_list):
        experiences = super().make_experience(samples_list)
        if self.args.spo.entropy_clip > 0:
            # Kept by the policy actors in the order of their forward passes; ranks that share a batch hold the same ones.
            copies = self.args.ds.ring_attn_size * self.args.ds.tensor_parallel_size
            per_rank = ray.get(self.actor_model_group.async_run_method("take_entropies"))[::copies]
            scale_clip(experiences, list(itertools.chain.from_iterable(per_rank)), self.args.spo)
        return experiences

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences):
        spo: SpoConfig = self.args.spo
        if spo.method.brings_advantages:
            keep_segment_advantages(experiences)
        else:
            experiences = super().compute_advantages_and_returns(experiences)
        if experiences[0].action_log_probs is not None:
            self.logprob_gap_max = max(logprob_gap(experience) for experience in experiences)
        finish_batch(experiences, spo)
        idle = sum(int((~has_gradient(experience, spo)).sum()) for experience in experiences)
        self.batch_metrics = {"samples_without_gradient": float(idle)}
        return experiences


def keep_segment_advantages(experiences: list[upstream.Experience]) -> None:
    """The advantages that came with the samples are those to train on, in place: what OpenRLHF's estimators would set."""
    for experience in experiences:
        experience.returns = experience.advantages.clone()
        experience.info["return"] = experience.rewards.float()
        experience.kl = None


def finish_batch(experiences: list[upstream.Experience], spo: SpoConfig) -> None:
    """Advantages normalized over the whole rollout batch, in place, and what of it will be trained, as logs."""
    masks = [trained_tokens(experience, spo) for experience in experiences]
    normalize_batch(experiences, masks, spo.advantage_norm)
    for experience, mask in zip(experiences, masks, strict=True):
        response_tokens = experience.action_mask.sum(-1).clamp(min=1)
        nonzero = (experience.advantages != 0) & mask
        experience.info["mask_density"] = mask.sum(-1) / response_tokens
        experience.info["zero_advantage"] = 1 - nonzero.sum(-1) / mask.sum(-1).clamp(min=1)


def scale_clip(experiences: list[upstream.Experience], entropies: list[torch.Tensor], spo: SpoConfig) -> None:
    """`--spo.entropy_clip`, in place: the factor of the clip bounds, from the entropies (B, T - 1) of the old policy.

    The mean that a unit's entropy is compared with is that of the trained tokens of the whole rollout batch.
    """
    masks = [trained_tokens(experience, spo) for experience in experiences]
    batch_mean = torch.cat([entropy[mask] for entropy, mask in zip(entropies, masks, strict=True)]).double().mean()
    for experience, entropy, mask in zip(experiences, entropies, masks):
        index = unit_index(spo.ratio_level, mask.shape, experience.unit_ids)
        experience.clip_scale = entropy_scale(
            entropy.float(), mask, index, batch_mean.nan_to_num().item(), spo.entropy_clip
        )
        trained = mask.sum(-1).clamp(min=1)
        experience.info["entropy"] = torch.where(mask, entropy.float(), 0).sum(-1) / trained
        experience.info["clip_scale"] = torch.where(mask, experience.clip_scale, 0).sum(-1) / trained


def logprob_gap(experience: upstream.Experience) -> float:
    """Largest difference between the engine's and the actor's log-probability of a sampled token.

    Near 0 when the engine has the actor's weights; with top-p or top-k below everything, the engine's are renormalised.
    """
    if experience.rollout_log_probs is None:
        return float("nan")
    gap = (experience.rollout_log_probs.float() - experience.action_log_probs.float()).abs() * experience.action_mask
    return gap.max().item()


def normalize_batch(experiences: list[upstream.Experience], masks: list[torch.Tensor], norm: Normalizer) -> None:
    """`--spo.advantage_norm`, in place: one map over the tokens of the whole rollout batch; 0 outside the actions."""
    adv_N = torch.cat([experience.advantages.flatten() for experience in experiences]).double().numpy()
    mask_N = torch.cat([mask.flatten() for mask in masks]).numpy()
    normalized_N = torch.from_numpy(norm(adv_N, mask_N)).float()
    sizes = [experience.advantages.numel() for experience in experiences]
    for experience, adv in zip(experiences, normalized_N.split(sizes), strict=True):
        experience.advantages = adv.view_as(experience.advantages) * experience.action_mask


def stand_in(samples: list[upstream.Experience]) -> None:
    """Log-probs of samples of which none are computed, in place: those of the engine, and the logs of a pass as 0."""
    for sample in samples:
        given = sample.rollout_log_probs
        sample.action_log_probs = torch.zeros_like(sample.advantages) if given is None else given.clone()
        sample.info |= {"kl": torch.zeros(1), "logprobs_diff": torch.zeros(1)}


def fill_from(sample: upstream.Experience, batch: upstream.Experience, row: int) -> None:
    """Copy what the models computed for row `row` of a padded batch into the sample that the row came from."""
    actions = sample.action_mask.size(1)
    for name in ("action_log_probs", "base_action_log_probs", "kl", "clip_scale"):
        value = getattr(batch, name)
        setattr(sample, name, None if value is None else value[row : row + 1, :actions].clone())
    for name, value in batch.info.items():
        sample.info[name] = value[row : row + 1].clone() if isinstance(value, torch.Tensor) else value[row : row + 1]
