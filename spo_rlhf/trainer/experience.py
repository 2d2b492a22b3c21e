"""From sampled responses to what the actor trains on: advantages per token, and which tokens the policy loss covers."""

import copy
import itertools

import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SEGMENT_MODES, SpoConfig
from spo_rlhf.core.advantages import normalize
from spo_rlhf.core.loss import policy_mask
from spo_rlhf.core.ratio import entropy_scale, unit_index
from spo_rlhf.trainer.trees import fill_from


def trained_tokens(experience: upstream.Experience, spo: SpoConfig) -> torch.Tensor:
    """M (B, T-1), bool: the tokens under the policy loss, and the one definition of it.

    The probabilities are the behaviour policy's own, from the engine, as for the cutpoints; without the mask, all action tokens.
    """
    if spo.mask_threshold is None:
        return experience.action_mask.bool()
    return policy_mask(experience.rollout_log_probs, experience.action_mask, spo.mask_threshold)


class SegmentExperienceMaker(upstream.RemoteExperienceMaker):
    """Keeps the segment advantages that came with the samples; in group mode OpenRLHF computes its own."""

    def make_experience_batch(self, samples):
        if self.args.spo.mode == "tree":  # `add_log_probs` was called when they were sampled
            return self.compute_advantages_and_returns(self.split_rollout_samples(samples))
        return super().make_experience_batch(samples)

    def add_log_probs(self, samples: list[upstream.Experience]) -> None:
        """Old log-probs, and those of the reference, of single samples, in place: by the policy that sampled them."""
        ranks = upstream.policy_ranks(self.args)
        # Every rank has to take part in every forward pass: repeat the last sample, or batch, where there are too few.
        spare = [copy.copy(samples[-1]) for _ in range(ranks - len(samples))]
        batches = self.split_rollout_samples(samples + spare)
        batches += batches[-1:] * (-len(batches) % ranks)
        for batch in self.make_experience(batches):
            for row, number in enumerate(batch.index):
                if number < len(samples):
                    fill_from(samples[number], batch, row)

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
        if spo.mode in SEGMENT_MODES:
            for experience in experiences:
                experience.returns = experience.advantages.clone()
                experience.info["return"] = experience.rewards.float()
                experience.kl = None
        else:
            experiences = super().compute_advantages_and_returns(experiences)
        masks = [trained_tokens(experience, spo) for experience in experiences]
        self.logprob_gap_max = max(logprob_gap(experience) for experience in experiences)
        if spo.advantage_norm == "batch":
            whiten(experiences, masks)
        for experience, mask in zip(experiences, masks):
            response_tokens = experience.action_mask.sum(-1).clamp(min=1)
            nonzero = (experience.advantages != 0) & mask
            experience.info["mask_density"] = mask.sum(-1) / response_tokens
            experience.info["zero_advantage"] = 1 - nonzero.sum(-1) / mask.sum(-1).clamp(min=1)
        return experiences


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


def whiten(experiences: list[upstream.Experience], masks: list[torch.Tensor]) -> None:
    """`--spo.advantage_norm batch`, in place: one affine map from the masked tokens of the whole rollout batch."""
    adv_N = torch.cat([experience.advantages.flatten() for experience in experiences]).double().numpy()
    mask_N = torch.cat([mask.flatten() for mask in masks]).numpy()
    whitened_N = torch.from_numpy(normalize(adv_N, mask_N)).float()
    sizes = [experience.advantages.numel() for experience in experiences]
    for experience, adv in zip(experiences, whitened_N.split(sizes)):
        experience.advantages = adv.view_as(experience.advantages) * experience.action_mask
