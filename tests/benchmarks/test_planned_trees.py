"""The benchmark of planned trees: it plans, measures the first shape and the planned one, and writes both."""

import json

import planned_trees

from spo_rlhf.core.tree import TreeShape


def test_the_command_measures_the_planned_shape_beside_the_first(prepared, tmp_path, monkeypatch):
    """An untrained model is never right: the planner has to be told what it would see of one that is sometimes."""

    async def grow(subject, rows, shapes, grown=planned_trees.grow):
        trees = await grown(subject, rows, shapes)
        for tree in trees:
            for leaf in tree.leaves():
                tree.reward_N[leaf] = float(tree.token_S[-1 - leaf % len(tree.token_S)] % 2)
        return trees

    monkeypatch.setattr(planned_trees, "grow", grow)
    options = ["--task", str(prepared["arithmetic-short"]), "--output", str(tmp_path), "--cut", "4"]
    options += ["--trees", "8", "--plans", "2", "--prompts", "2", "--repeats", "3"]
    noise = iter([2.0, 1.0, 0.5])
    monkeypatch.setattr(
        planned_trees,
        "measure_setting",
        lambda *given: {"noise": next(noise), "noise_error": 0.1, "tokens_per_prompt": 10.0},
    )
    assert planned_trees.main(options) == 0
    made = json.loads((tmp_path / "results.json").read_text())
    assert [one["relative"] for one in made["results"].values()] == [1.0, 0.5, 0.25]
    assert made["over_first"]["relative"] == 0.5 and 0 < made["over_first"]["predicted"] <= 1
    assert made["profile"]["plan/trees"] == (8 * 0.5 + 8) * 0.5
    assert "measured 0.50 ± 0.07" in (tmp_path / "results.md").read_text()


def test_a_model_that_is_never_right_plans_nothing(prepared, tmp_path, capsys):
    options = ["--task", str(prepared["arithmetic-short"]), "--output", str(tmp_path), "--cut", "4"]
    assert planned_trees.main([*options, "--trees", "8", "--plans", "1"]) == 2
    assert "nothing was planned" in "".join(capsys.readouterr())


def test_a_setting_has_the_baseline_of_its_shape():
    made = planned_trees.setting_of(TreeShape((4, 3), (9,), (0.2,)))
    assert made.tree is not None and made.advantage.branching == (4, 3) and made.advantage.settled == (0.2,)
