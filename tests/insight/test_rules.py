"""Health rules: each speaks where its number is bad, and is silent where it is not."""

import json
import re

import made_up_run
import pytest
from documented import DOCS

from spo_rlhf.insight.credit import Calibration, Credit
from spo_rlhf.insight.rules import RULES, warnings
from spo_rlhf.insight.runs import Point, Run, load


def healthy(
    steps: int = 8, *, credit: Credit | None = None, evals=((0, 0.25), (8, 0.5)), config=None, **changes
) -> Run:
    """A run whose metrics are HEALTHY but for the changes: a number, or one a step."""
    points = []
    for step in range(1, steps + 1):
        changed = {
            name.replace("__", "/"): value[step - 1] if isinstance(value, list) else value
            for name, value in changes.items()
        }
        points.append(Point(step, 100.0 * step, 10.0 * step, {**made_up_run.HEALTHY, **changed}))
    measured = [
        Point(step, 0.0, 0.0, {"eval_default_pass1": value, "eval_num_samples": 256.0}) for step, value in evals
    ]
    return Run(
        "a run",
        config={**made_up_run.CONFIG, **(config or {})},
        summary={"finished": True},
        steps=points,
        evals=measured,
        credit=credit or Credit(),
    )


def unfinished() -> Run:
    run = healthy()
    run.summary = {}
    return run


def calibrated(gap: float, stderr: float) -> Credit:
    return Credit(calibration=Calibration([], 100, 50, gap, stderr, 1.0, 1.0))


# Rule -> a run that it speaks of and a piece of what it says; runs close by that it is silent about.
CASES = {
    "unfinished": (unfinished(), "8 steps are recorded", [healthy()]),
    "not_a_number": (healthy(kl=float("nan")), "kl became infinite or not a number", [healthy()]),
    "groups_agree": (healthy(credit=Credit(agreeing=[0.1] * 6 + [0.92] * 2)), "92 % of the groups agree", [healthy(credit=Credit(agreeing=[0.95] * 6 + [0.7] * 2)), healthy()]),
    "no_advantage": (healthy(zero_advantage=0.96), "96 % of the tokens under the loss have no advantage", [healthy(zero_advantage=[0.99] * 6 + [0.6] * 2)]),
    "reward_fell": (healthy(rollout__reward_mean=[0.3, 0.5, 0.6, 0.6, 0.5, 0.3, 0.2, 0.2]), "fell from 0.600 to 0.200", [healthy(rollout__reward_mean=[0.6, 0.6, 0.6, 0.6, 0.5, 0.5, 0.55, 0.55]), healthy(3)]),
    "worse_than_before": (healthy(evals=[(0, 0.5), (8, 0.3)]), "fell from 50.0% to 30.0%", [healthy(evals=[(0, 0.5), (8, 0.45)]), healthy(evals=[(0, 0.5)])]),
    "truncated": (healthy(rollout__truncated_rate=0.4), "40 % of the responses are cut", [healthy(rollout__truncated_rate=0.1)]),
    "skipped_steps": (
        healthy(skipped_steps=[0.0] * 7 + [3.0]),
        "3 optimizer steps were skipped, as no token",
        [healthy(), healthy(skipped_steps=[0.0] * 7 + [3.0], nonfinite_steps=[0.0] * 7 + [3.0])],
    ),
    "nonfinite_steps": (
        healthy(skipped_steps=[0.0] * 7 + [2.0], nonfinite_steps=[0.0] * 7 + [2.0]),
        "2 optimizer steps were skipped, as a number was not finite",
        [healthy(), healthy(skipped_steps=[0.0] * 7 + [3.0])],
    ),
    "mask_fell": (healthy(mask_density=[0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.02, 0.02]), "hesitates at 2 % of its tokens, at first at 20 %", [healthy(mask_density=[0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]), healthy(mask_density=[0.2, 0.2, 0, 0, 0, 0, 0, 0], config={"spo.prob_mask": False})]),
    "gradient_spike": (healthy(actor_grad_norm=[1.0] * 5 + [40.0, 1.0, 1.0]), "40 at step 6, 40 times its median", [healthy(actor_grad_norm=[1.0] * 5 + [4.0, 1.0, 1.0])]),
    "policy_jumps": (healthy(ppo_kl=[0.0] * 7 + [0.3]), "0.3 nats", [healthy(ppo_kl=0.01)]),
    "far_from_reference": (healthy(kl=2.5), "2.5 nats from the reference", [healthy(kl=0.5)]),
    "clipping": (healthy(ppo_clip_ratio=0.4), "40 % of the trained tokens are clipped", [healthy(ppo_clip_ratio=0.1)]),
    "mismatch": (healthy(rollout__logprob_gap_p99=2.0), "differ by 2 nats", [healthy(rollout__logprob_gap_max=2.0, rollout__logprob_gap_p99=0.08), healthy()]),
    "stale_nodes": (healthy(replay__expired=[300.0] * 8, replay__trained=[100.0] * 8), "27 % of the nodes", [healthy(replay__expired=[10.0] * 8, replay__trained=[100.0] * 8), healthy()]),
    "duplicates": (healthy(rollout__nodes=100.0, rollout__duplicate_siblings=50.0), "50 % of the nodes repeat a sibling", [healthy(rollout__nodes=100.0, rollout__duplicate_siblings=5.0)]),
    "dear_monte_carlo": (healthy(rollout__mc_tokens=8000.0), "8 times the responses' tokens", [healthy()]),
    "one_segment": (healthy(segments=1.1), "1.1 segments", [healthy(segments=2.0)]),
    "cache_misses": (healthy(rollout__cache_hit_rate=0.1), "10 % of the prefix tokens", [healthy(rollout__cache_hit_rate=0.1, rollout__mc_tokens=0.0)]),
    "reward_timeouts": (healthy(rollout__reward_timeouts=[0.0] * 6 + [2.0, 5.0]), "5 rewards ran past", [healthy()]),
    "engine_deaths": (healthy(rollout__engine_restarts=[0.0] * 6 + [2.0, 1.0]), "3 times an engine died", [healthy()]),
    "values_off": (healthy(credit=calibrated(0.1, 0.02)), "0.100 above the rewards of their responses, over 5 standard errors", [healthy(credit=calibrated(0.05, 0.02)), healthy(credit=calibrated(0.01, 0.001))]),
}  # fmt: skip


def test_every_rule_has_its_cases_and_its_row_on_the_page() -> None:
    assert set(CASES) == set(RULES)
    table = DOCS.joinpath("metrics.md").read_text(encoding="utf-8").partition("## Health")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_speaks_where_it_has_to_and_says_what_to_do(name: str) -> None:
    bad, says, good = CASES[name]
    text = RULES[name](bad)
    assert text is not None and says in text and "\n" not in text
    assert [rule.rule for rule in warnings(bad)] == [name], "no other number is bad"
    assert [RULES[name](run) for run in good] == [None] * len(good)


def test_a_healthy_run_gets_no_warning(tmp_path) -> None:
    assert warnings(load(made_up_run.write(tmp_path / "run", gain=0.02))) == []


def test_a_run_without_any_number_is_no_error() -> None:
    assert [one.rule for one in warnings(Run("empty"))] == ["unfinished"]
    assert json.dumps([rule(Run("empty", summary={"finished": True})) for rule in RULES.values()]) == json.dumps(
        [None] * len(RULES)
    )
