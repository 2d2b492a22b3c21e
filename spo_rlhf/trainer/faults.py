"""Which sample of a batch a number that is not finite belongs to."""

from collections.abc import Iterator
from typing import Any

import torch

from spo_rlhf import upstream
from spo_rlhf.core.finite import MOST, Fault

MOST_VALUES = 64  # told of a sample in which none stands out


def faults_in_batch(experience: upstream.Experience, log_probs: torch.Tensor | None = None) -> list[Fault]:
    """Rows of a batch with a reward, or at an action a log-prob, an advantage, a value or a return, that is not finite.

    The first such number of each is told, with those beside it. `log_probs`: (B, T - 1) of the policy that is trained.
    """
    faults = []
    rewards = experience.rewards if isinstance(experience.rewards, torch.Tensor) else torch.zeros(0)
    for row, sample, values_T, mask_T in _rows(experience, log_probs):
        if row < len(rewards) and not torch.isfinite(rewards[row]).all():
            faults.append(Fault("reward", float(rewards[row].flatten()[0]), **sample))
            continue
        for name, value_T in values_T.items():
            bad = (~torch.isfinite(value_T) & mask_T).nonzero()
            if len(bad):
                lists = {name: value_T.tolist() for name, value_T in values_T.items()}
                faults.append(Fault.at_token(name, int(bad[0]), lists, **sample))
                break
    return faults


def faults_of_step(number: str, experience: upstream.Experience, log_probs: torch.Tensor | None) -> list[Fault]:
    """What to tell of a micro-batch where `number`, which is of all of it, is not finite.

    `faults_in_batch` of it; where all numbers of its tokens are finite, its first rows.
    """
    faults = faults_in_batch(experience, log_probs)
    for _, sample, values_T, _ in _rows(experience, log_probs) if not faults else ():
        around = {name: value_T[:MOST_VALUES].tolist() for name, value_T in values_T.items()}
        faults.append(Fault(number, float("nan"), around=around, **sample))
        if len(faults) == MOST:
            break
    return faults


def _rows(
    experience: upstream.Experience, log_probs: torch.Tensor | None
) -> Iterator[tuple[int, dict[str, Any], dict[str, torch.Tensor], torch.Tensor]]:
    """Row, its tokens, its values (T,) by name, and which of them are actions, for all rows with an action."""
    named = {
        "log-prob": log_probs,
        "old log-prob": experience.action_log_probs,
        "reference log-prob": experience.base_action_log_probs,
        "engine log-prob": experience.rollout_log_probs,
        "advantage": experience.advantages,
        "value": experience.values,
        "return": experience.returns,
    }
    values = {name: value.detach().float().cpu() for name, value in named.items() if isinstance(value, torch.Tensor)}
    mask = experience.action_mask.bool().cpu()
    for row in range(len(mask)):
        columns = mask[row].nonzero().flatten()
        if not len(columns):
            continue
        begin, end = int(columns[0]), int(columns[-1]) + 1
        tokens, real = experience.sequences[row].cpu(), experience.attention_mask[row].bool().cpu()
        sample = {
            "context_ids": tokens[: begin + 1][real[: begin + 1]].tolist(),  # column j is about token j + 1
            "token_ids": tokens[begin + 1 : end + 1].tolist(),
        }
        yield row, sample, {name: value[row, begin:end] for name, value in values.items()}, mask[row, begin:end]
