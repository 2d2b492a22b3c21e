"""From sampled responses to what the actor trains on: advantages per token, and which tokens the policy loss covers."""

import copy
import itertools
import math
from collections.abc import Sequence

import ray
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.advantages import Normalizer
from spo_rlhf.core.packing import plan
from spo_rlhf.core.ratio import entropy_scale, unit_index
from spo_rlhf.trainer.faults import faults_in_batch
from spo_rlhf.trainer.micro_batches import dealt
from spo_rlhf.trainer.packed import input_rows
from spo_rlhf.trainer.trained import has_gradient, may_get_gradient, row_means, trained_tokens, wanted_by
from spo_rlhf.trainer.watch import NonFinite


class SegmentExperienceMaker(upstream.RemoteExperienceMaker):
    """Keeps the segment advantages that came with the samples; in group mode OpenRLHF computes its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.leaves_out = wanted_by(self.args) is None
        self.batch: list[upstream.Experience] = []  # of the last update
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
            for sample in samples:  # the pass has given those it computed one again
                sample.kl = None
        ranks, together = upstream.policy_ranks(self.args), self.args.spo.packs
        gradient = [not self.leaves_out or bool(has_gradient(sample, self.args.spo).any()) for sample in samples]
        if self.args.spo.old_logprobs == "actor":
            self.measure_gaps(samples, list(itertools.compress(samples, gradient)))
        if not all(gradient) or together:  # packed, a rank may have a filler
            self.batch_metrics |= row_means(samples)
        return self.split_rollout_samples(dealt(samples, gradient, ranks, together=together))

    def add_log_probs(self, samples: list[upstream.Experience]) -> None:
        """Old log-probs, and those of the reference, of single samples, in place: by the policy that sampled them.

        Where nothing else wants them, samples that cannot get a gradient have no pass; the engine's stand in for theirs, and
        with `--spo.old_logprobs engine` for all. Raises NonFinite.
        """
        if self.args.spo.old_logprobs == "engine":
            take_from_engine(samples)
            refuse_faults(samples)
            return
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
        refuse_faults(samples)

    @torch.no_grad()
    def log_probs_of(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        """Log-probs of the tokens behind their contexts, by the present policy alone."""
        if not rows:
            return []
        size, ranks = self.args.rollout.micro_batch_size, upstream.policy_ranks(self.args)
        order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]) + len(rows[number][1]))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [padded([rows[number] for number in part], self.tokenizer.pad_token_id) for part in parts]
        batches += batches[-1:] * (-len(batches) % ranks)  # every rank takes part in every pass
        columns = {name: [batch[name] for batch in batches] for name in batches[0]}
        together = self.args.train.colocate_all or self.args.train.colocate_actor_ref
        passes = self._dispatch_forward(self.actor_model_group, together, **columns)
        copies = self.args.ds.ring_attn_size * self.args.ds.tensor_parallel_size
        found: list[list[float]] = [[] for _ in rows]
        for part, log_probs in zip(parts, self._flatten_results(passes, copies)):
            for row, number in enumerate(part):
                context, tokens = rows[number]
                start = len(context) - 1  # column t - 1 is of token t
                found[number] = log_probs[row, start : start + len(tokens)].tolist()
        # What the actors keep of every pass belongs to no sample here.
        for kept, wanted in (("take_entropies", self.args.spo.entropy_clip > 0), ("take_features", True)):
            if wanted:
                self.of_passes(kept)
        return found

    def measure_gaps(self, experiences: list[upstream.Experience], computed: list[upstream.Experience]) -> None:
        """Gaps of those that the actor has `computed`, as logs of all `experiences`."""
        gaps = [logprob_gaps(experience, self.args.rollout.top_p) for experience in computed]
        gap_N = torch.cat(gaps) if gaps else torch.empty(0)
        self.logprob_gap_max = gap_N.max().item() if gap_N.numel() else math.nan
        log_gaps(experiences, gap_N)

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
            scale_clip(experiences, self.of_passes("take_entropies"), self.args.spo)
        if self.args.spo.method.hidden_features:
            for experience, features in zip(experiences, self.of_passes("take_features"), strict=True):
                experience.hidden = features
        return experiences

    def of_passes(self, method_name: str) -> list[torch.Tensor]:
        """What the policy actors kept of their forward passes, in the order of the batches."""
        # Ranks that share a batch hold the same ones.
        copies = self.args.ds.ring_attn_size * self.args.ds.tensor_parallel_size
        per_rank = ray.get(self.actor_model_group.async_run_method(method_name))[::copies]
        return list(itertools.chain.from_iterable(per_rank))

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences):
        spo: SpoConfig = self.args.spo
        if spo.method.brings_advantages:
            keep_segment_advantages(experiences)
        else:
            experiences = super().compute_advantages_and_returns(experiences)
        if not self.leaves_out:
            self.measure_gaps(experiences, experiences)
        finish_batch(experiences, spo)
        refuse_faults(experiences)
        idle = sum(int((~has_gradient(experience, spo)).sum()) for experience in experiences)
        self.batch_metrics = {"samples_without_gradient": float(idle)}
        self.batch = experiences
        return experiences


def padded(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Contexts and the tokens behind them as what a forward pass of the policy takes."""
    length = max(len(context) + len(tokens) for context, tokens in rows)
    sequences = torch.full((len(rows), length), pad, dtype=torch.long)
    attention_mask, action_mask = torch.zeros_like(sequences), torch.zeros_like(sequences)
    for row, (context, tokens) in enumerate(rows):
        end = len(context) + len(tokens)
        sequences[row, :end] = torch.tensor([*context, *tokens])
        attention_mask[row, :end] = 1
        action_mask[row, len(context) : end] = 1
    return {"sequences": sequences, "action_mask": action_mask[:, 1:], "attention_mask": attention_mask}


def refuse_faults(experiences: list[upstream.Experience]) -> None:
    """Raise NonFinite for a number of these batches that is not finite."""
    if faults := [fault for experience in experiences for fault in faults_in_batch(experience)]:
        raise NonFinite(faults)


def keep_segment_advantages(experiences: list[upstream.Experience]) -> None:
    """The advantages that came with the samples are those to train on, in place: what OpenRLHF's estimators would set."""
    for experience in experiences:
        experience.returns = experience.advantages.clone()
        experience.info["return"] = experience.rewards.float()
        experience.kl = None


def finish_batch(experiences: list[upstream.Experience], spo: SpoConfig) -> None:
    """Advantages normalized over the whole rollout batch and times their sample's weight, in place, and what of it will
    be trained, as logs. The clipped objective is proportional to the advantage, so its weight may as well be multiplied in.
    """
    masks = [trained_tokens(experience, spo) for experience in experiences]
    normalize_batch(experiences, masks, spo.advantage_norm)
    for experience, mask in zip(experiences, masks, strict=True):
        weight = experience.info.get("loss_weight")
        if weight is not None:
            experience.advantages = experience.advantages * weight.to(experience.advantages).unsqueeze(-1)
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


GAP_QUANTILES = {"p50": 0.5, "p99": 0.99}


def logprob_gaps(experience: upstream.Experience, top_p: float = 1.0) -> torch.Tensor:
    """Differences (N,) between the engine's and the actor's log-probability of the sampled tokens, in nats, never negative.

    Near 0 when the engine has the actor's weights. With top-p the engine's probabilities are those of the nucleus, whose mass m
    lies in [top_p, 1]: log q = log p - log m. The actor does not know m (it would have to sort the vocabulary at each token), so
    what counts is the distance of the difference from [0, -log top_p]: 0 where a nucleus can explain it.
    """
    if experience.rollout_log_probs is None:
        return torch.empty(0)
    actions = experience.action_mask.bool()
    difference_N = (experience.rollout_log_probs.double() - experience.action_log_probs.double())[actions]
    return (difference_N - difference_N.clamp(0, -math.log(top_p))).abs()


def log_gaps(experiences: list[upstream.Experience], gap_N: torch.Tensor) -> None:
    """Mean and quantiles of the gaps of the whole batch as logs of every sample, in place: their mean over samples is the same."""
    if not gap_N.numel():
        return
    # Sorted here: torch.quantile refuses more than 16 million numbers.
    sorted_N = gap_N.sort().values
    values = {name: sorted_N[math.ceil(share * len(sorted_N)) - 1] for name, share in GAP_QUANTILES.items()}
    for name, value in {"mean": gap_N.mean(), **values}.items():
        for experience in experiences:
            experience.info[f"rollout/logprob_gap_{name}"] = value.float().expand(len(experience.sequences)).clone()


def normalize_batch(experiences: list[upstream.Experience], masks: list[torch.Tensor], norm: Normalizer) -> None:
    """`--spo.advantage_norm`, in place: one map over the tokens of the whole rollout batch; 0 outside the actions."""
    adv_N = torch.cat([experience.advantages.flatten() for experience in experiences]).double().numpy()
    mask_N = torch.cat([mask.flatten() for mask in masks]).numpy()
    normalized_N = torch.from_numpy(norm(adv_N, mask_N)).float()
    sizes = [experience.advantages.numel() for experience in experiences]
    for experience, adv in zip(experiences, normalized_N.split(sizes), strict=True):
        experience.advantages = adv.view_as(experience.advantages) * experience.action_mask


def take_from_engine(samples: list[upstream.Experience]) -> None:
    """The log-probs that the engine sampled with as old ones, in place."""
    for sample in samples:
        assert sample.rollout_log_probs is not None, "every rollout carries the engine's log-probs"
        sample.action_log_probs = sample.rollout_log_probs.clone()


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
    # No field of Experience: what takes them takes them off at once, and no checkpoint has any.
    if (features := getattr(batch, "hidden", None)) is not None:
        sample.hidden = features[row : row + 1, :actions].clone()
    for name, value in batch.info.items():
        sample.info[name] = value[row : row + 1].clone() if isinstance(value, torch.Tensor) else value[row : row + 1]
