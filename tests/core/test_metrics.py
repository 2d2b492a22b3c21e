"""Metrics of the loss: each way to make one number of many, over any split of the tokens, and of no token."""

import pytest
import torch

from spo_rlhf.core.metrics import EMPTY, LossTokens, TokenMetric

VALUES = torch.tensor([[3.0, -1.0, 2.0, 5.0]])
REDUCED = {"mean": 4.0, "sum": 4.0, "max": 3.0, "min": -1.0}  # of a mean the sum: it is divided at the very end


def reduced(how: str, mask: list[bool]) -> float:
    kept = torch.tensor([mask])
    return TokenMetric(lambda tokens: tokens.adv_T, how, "").reduced(LossTokens(*[VALUES] * 5, kept, kept)).item()


@pytest.mark.parametrize("how", EMPTY)
def test_a_metric_is_reduced_over_the_tokens_under_the_loss(how: str) -> None:
    assert reduced(how, [True, True, True, False]) == REDUCED[how]


@pytest.mark.parametrize("how", EMPTY)
def test_no_token_changes_nothing_when_it_is_joined_with_others(how: str) -> None:
    join = {"max": max, "min": min}.get(how, lambda one, other: one + other)
    assert reduced(how, [False] * 4) == EMPTY[how]
    assert [join(EMPTY[how], value) for value in (7.0, -7.0)] == [7.0, -7.0]
