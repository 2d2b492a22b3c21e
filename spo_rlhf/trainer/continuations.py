"""`--spo.train_continuations`: Monte Carlo continuations as further samples of the batch.

A continuation of a state is on-policy, has a reward, and has siblings from the same state: its advantage is its reward minus
the mean of theirs (core/advantages.py). What it adds to the expected gradient is that of the value of its state, the state
held fixed; later parts of a response, which more continuations pass through, so weigh more than early ones.
"""

import random
from collections.abc import Sequence

import torch

from spo_rlhf import upstream
from spo_rlhf.core.seeds import derive_seed


def join(
    responses: Sequence[upstream.Experience],
    continuations: Sequence[upstream.Experience],
    *,
    batch_size: int,
    seed: tuple,
    keep_responses: bool = False,
) -> tuple[list[upstream.Experience], dict[str, float]]:
    """`responses` and `continuations` in whole optimizer steps of `batch_size` samples, and metrics.

    `responses` fill theirs already. What does not fill a step is left out: first responses without an advantage, which have no
    policy gradient (but count in the normaliser and under a KL term), unless `keep_responses`; then continuations. Both are
    drawn at random; the draw depends on `seed` and on what was sampled, not on the order it came in.
    """
    rng = random.Random(derive_seed(*seed, "continuations"))
    excess = (len(responses) + len(continuations)) % batch_size
    idle = [] if keep_responses else [row for row, sample in enumerate(responses) if not sample.advantages.any()]
    left_out = set(rng.sample(idle, min(len(idle), excess, len(continuations))))
    # By their tokens: equal prompts ask for a shared state in any order.
    ordered = sorted(continuations, key=lambda sample: (sample.sequences.tolist(), sample.action_mask.tolist()))
    drawn = rng.sample(ordered, max(len(ordered) - (excess - len(left_out)), 0))
    kept = [sample for row, sample in enumerate(responses) if row not in left_out]
    metrics = {
        "continuations/with_advantage": len(continuations),
        "continuations/trained": len(drawn),
        "continuations/left_out_responses": len(left_out),
    }
    # The metrics of a batch remain those of its responses: continuations start wherever the policy hesitated.
    names = responses[0].info if responses else ()
    metrics |= {name: torch.cat([sample.info[name] for sample in responses]).float().mean().item() for name in names}
    if responses:
        reward, length, truncated = (
            torch.cat([getattr(sample, name) for sample in responses]).float()
            for name in ("rewards", "response_length", "truncated")
        )
        metrics |= {
            "rollout/reward_mean": reward.mean().item(),
            "rollout/reward_std": reward.std().item() if len(reward) > 1 else 0.0,
            "rollout/response_length_mean": length.mean().item(),
            "rollout/truncated_rate": truncated.mean().item(),
        }
    return [*kept, *drawn], metrics
