"""Parts of one's own on the real stack: the examples of docs/extending.md, trained with in one run."""

import pytest
import stack
from documented import examples

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture
def task(tmp_path):
    return stack.make_task(tmp_path / "task", train=16, test=1)


def test_a_run_with_a_partition_an_estimator_a_norm_and_a_metric_of_ones_own(task, tmp_path):
    files = []
    for name in ("doubling.py", "thinned.py", "scaled.py", "pushed.py"):
        path = tmp_path / name
        path.write_text(examples()[name], encoding="utf-8")
        files += ["--spo.plugin", str(path)]
    chosen = dict(
        spo__partition="doubling",
        spo__first_length=3,
        spo__estimator="thinned",
        spo__keep_every=2,
        spo__advantage_norm="scaled",
        spo__scale_floor=0.5,
    )
    run = stack.train(
        [*stack.options(task, tmp_path, **chosen), *files], tmp_path, own_metrics=frozenset({"pushed_up"})
    )
    assert run["config"]["spo.partition"] == "doubling" and run["config"]["spo.first_length"] == 3
    assert run["config"]["spo.estimator"] == "thinned" and run["config"]["spo.scale_floor"] == 0.5
    assert len(run["config"]["spo.plugin"]) == 4
    for metrics in run["steps"]:
        # Boundaries of a response of 24 tokens: 3, 9, 21; of its three inner states every second one has a value.
        inner = round(metrics["segments"] * 32) - 32
        assert metrics["rollout/mc_states"] == inner <= 32 and 1 < metrics["segments"] <= 2
        assert 0 <= metrics["pushed_up"] <= 1
    assert any(metrics["pushed_up"] > 0 for metrics in run["steps"])
