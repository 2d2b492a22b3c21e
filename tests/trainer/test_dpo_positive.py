"""DPO-positive against its formula, and against plain DPO where it has nothing to add."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spo_rlhf import upstream
from spo_rlhf.trainer.dpo_positive import DPOPositiveLoss

LOGPS = st.lists(st.tuples(*[st.floats(-20, -0.01)] * 4), min_size=1, max_size=5)


@settings(max_examples=60)
@given(LOGPS, st.floats(0, 100), st.floats(0.01, 1))
def test_loss_and_gradient_are_those_of_the_formula(rows, penalty, beta):
    columns = [torch.tensor(column, dtype=torch.float64, requires_grad=True) for column in zip(*rows)]
    chosen, rejected, reference_chosen, reference_rejected = columns
    loss, chosen_reward, rejected_reward = DPOPositiveLoss(penalty, beta)(*columns)
    expected = torch.stack(
        [
            torch.nn.functional.softplus(-beta * ((c - rc) - (r - rr) - penalty * max(rc - c, rc * 0)))
            for c, r, rc, rr in zip(*columns)
        ]
    ).mean()
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-9, abs_tol=1e-12)
    assert torch.equal(chosen_reward, beta * (chosen - reference_chosen))
    assert torch.equal(rejected_reward, beta * (rejected - reference_rejected))
    mine, formula = (torch.autograd.grad(value, [chosen, rejected], retain_graph=True) for value in (loss, expected))
    kink = (chosen == reference_chosen).detach()
    assert torch.allclose(mine[0][~kink], formula[0][~kink]) and torch.allclose(mine[1], formula[1])


@given(LOGPS)
@settings(max_examples=30)
def test_it_is_dpo_without_penalty_and_where_chosen_responses_are_likelier_than_before(rows):
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows)]
    plain = upstream.DPOLoss(0.3)
    assert all(torch.equal(one, other) for one, other in zip(DPOPositiveLoss(0.0, 0.3)(*columns), plain(*columns)))
    columns[2] = columns[0] - 0.5
    assert all(torch.equal(one, other) for one, other in zip(DPOPositiveLoss(50.0, 0.3)(*columns), plain(*columns)))
