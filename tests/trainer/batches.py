"""What the tests of the trainer share: small batches in OpenRLHF's layout, and the arguments a loss is built from."""

from types import SimpleNamespace

import numpy as np
import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.methods.chain import Chain
from spo_rlhf.trainer.samples import to_columns

SPO = SpoConfig(method=Chain(mc_rollouts=3), prob_threshold=0.5)
PROMPT, RESPONSE = 3, 4


def experience(prob_BT, adv_BT, seed=0) -> upstream.Experience:
    """B responses of RESPONSE tokens to a prompt of PROMPT tokens, with these behaviour probabilities and advantages."""
    generator = torch.Generator().manual_seed(seed)
    total = PROMPT + RESPONSE
    rows = [to_columns(np.log(prob_T), PROMPT, total) for prob_T in prob_BT]
    action_mask = torch.cat([to_columns(np.ones(RESPONSE), PROMPT, total) for _ in prob_BT]).bool()
    shape = action_mask.shape
    return upstream.Experience(
        sequences=torch.ones(shape[0], total, dtype=torch.long),
        attention_mask=torch.ones(shape[0], total, dtype=torch.long),
        action_mask=action_mask,
        rollout_log_probs=torch.cat(rows),
        action_log_probs=torch.cat(rows) + 0.01 * torch.randn(shape, generator=generator) * action_mask,
        base_action_log_probs=torch.cat(rows) + 0.2 * torch.randn(shape, generator=generator) * action_mask,
        advantages=torch.cat([to_columns(adv_T, PROMPT, total) for adv_T in adv_BT]),
        rewards=torch.ones(shape[0]),
        total_length=torch.full((shape[0],), float(total)),
        info={},
    )


PROB = [[0.4, 0.51, 0.9, 0.1], [0.9, 0.8, 0.7, 0.6]]
ADV = [[1.0, 1.0, -0.5, -0.5], [0.25, 0.25, 0.25, 0.25]]


def arguments(spo=SPO, **actor):
    return SimpleNamespace(
        spo=spo,
        actor=SimpleNamespace(
            **{
                "eps_clip_low_high": (0.2, 0.2),
                "dual_clip": None,
                "loss_agg_mode": "token-mean",
                "policy_loss_type": "ppo",
                **actor,
            }
        ),
        algo=SimpleNamespace(
            kl=SimpleNamespace(use_loss=True, estimator="k3", unbiased_gradient=False),
            advantage=SimpleNamespace(
                is_correction_level="off",
                is_correction_mode="mask",
                is_correction_gating="ratio",
                is_correction_threshold=[0.5, 5.0],
            ),
        ),
    )
