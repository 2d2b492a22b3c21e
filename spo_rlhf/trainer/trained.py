"""What is trained: the tokens under the policy loss, and the samples that it has a gradient of.

Samples without a gradient count in the normaliser, and nothing is computed of them. A token under the loss whose advantage is 0 has objective 0 at every ratio, so a sample without any other trained token
(or without any trained token) changes neither gradient nor weights. A term that looks at such samples all the same keeps
them: `wanted_by` says which.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.loss import policy_mask


def trained_tokens(experience: upstream.Experience, spo: SpoConfig) -> torch.Tensor:
    """M (B, T-1), bool: the tokens under the policy loss, and the one definition of it.

    The probabilities are the behaviour policy's own, from the engine, as for the cutpoints: of the sampled token, or, with
    `--spo.hesitation state`, of the most likely one. Without the mask, all action tokens.
    """
    if spo.mask_threshold is None:
        return experience.action_mask.bool()
    logp = experience.top_log_probs if spo.by_state else experience.rollout_log_probs
    return policy_mask(logp, experience.action_mask, spo.mask_threshold)


def wanted_by(args: SimpleNamespace) -> str | None:
    """The option that needs every sample computed, as the command says it; None where samples may be left out."""
    reasons = {
        "algo.kl.init_coef": args.algo.kl.init_coef > 0,  # a loss term, or a part of the rewards
        "actor.entropy_coef": args.actor.entropy_coef is not None,  # 0: it is logged
        "actor.aux_loss_coef": args.actor.aux_loss_coef > 0,
        "spo.entropy_clip": args.spo.entropy_clip > 0,  # compares with the mean entropy of the whole batch
        "critic.model_name_or_path": bool(args.critic.model_name_or_path),
        "reward.model_name_or_path": bool(args.reward.model_name_or_path) and not args.reward.remote_url,
        "train.enable_ema": args.train.enable_ema,  # OpenRLHF averages after a fixed number of micro-batches
    }
    return next((f"--{name}" for name, wants in reasons.items() if wants), None)


def has_gradient(experience: upstream.Experience, spo: SpoConfig) -> torch.Tensor:
    """Rows (B,), bool, with a trained token whose advantage is not 0; of a single row without its batch dimension (1,)."""
    tokens = trained_tokens(experience, spo) & (experience.advantages != 0)
    return tokens.reshape(-1, tokens.shape[-1]).any(-1)


def may_get_gradient(sample: upstream.Experience, spo: SpoConfig) -> bool:
    """Of a sample before its advantages are normalised: it may have a gradient after."""
    if spo.advantage_norm.moves_zero:
        return bool(trained_tokens(sample, spo).any())
    return bool(has_gradient(sample, spo).any())


def row_means(samples: Sequence[upstream.Experience]) -> dict[str, float]:
    """Means over the rows of what OpenRLHF logs of each sample: it would take them over those that are trained."""
    columns: dict[str, list[torch.Tensor]] = {}
    for sample in samples:
        episode = {n: v for n, v in vars(sample).items() if upstream.Experience.is_episode_tensor_field(n)}
        for name, value in ({n: v for n, v in episode.items() if n not in ("rewards", "scores")} | sample.info).items():
            if value is not None:
                columns.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float32).flatten())
    return {name: torch.cat(values).mean().item() for name, values in columns.items()}
