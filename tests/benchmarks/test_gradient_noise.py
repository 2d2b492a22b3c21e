"""The gradient-noise benchmark: the gradient it takes, the weights that make methods comparable, the command."""

import asyncio
import json
from types import SimpleNamespace

import diagnosed
import estimates
import gradient_noise as noise
import numpy as np
import pytest
import torch
from estimates import Piece, Setting

from spo_rlhf.core.partition import Cutpoint, Newline, Places
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.toy_engine import ToyEngine, ToyGrader, ToyLanguageModel


@pytest.fixture(scope="module")
def task(prepared):
    return prepared["arithmetic-short"]


@pytest.fixture(scope="module")
def model(task):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(task / "model", dtype=torch.float32).eval()


def test_the_gradient_is_that_of_the_log_probabilities_of_own_tokens(model):
    one = Piece([5, 6, 7], [8, 9], [-0.05, -3.0], np.array([2.0, -1.0]))
    other = Piece([5], [9, 8, 7], [-1.0, -1.0, -1.0], np.array([0.0, 1.0, 0.0]))
    for threshold, kept in ((None, [(0, 1.0), (1, 1.0)]), (0.9, [(0, 0.0), (1, 1.0)])):
        model.zero_grad()
        logp = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[0].log_softmax(-1)
        loss = sum(weight * adv * logp[2 + t, token] for (t, weight), adv, token in zip(kept, (2.0, -1.0), (8, 9)))
        logp = model(input_ids=torch.tensor([[5, 9, 8, 7]])).logits[0].log_softmax(-1)
        (loss + logp[1, 8]).backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()]).numpy().copy()
        np.testing.assert_allclose(estimates.gradient(model, [one, other], threshold), expected, rtol=1e-3, atol=1e-5)


def test_a_part_of_a_response_weighs_one_over_its_samples():
    setting = Setting(partition=Newline(), rollouts=4, continuations=True)
    texts = {1: "x", 2: "\n"}

    def text_of(ids):
        return [texts[i] for i in ids]

    # Boundaries behind each line: 0, 1 and 2 inner states before its tokens.
    np.testing.assert_allclose(estimates.coverage(setting, [1, 2, 1, 2, 1], (), text_of), [1, 1, 1 / 5, 1 / 5, 1 / 9])
    np.testing.assert_allclose(estimates.coverage(setting, [1, 2, 1], (1, 2), text_of), [1 / 5, 1 / 5, 1 / 9])
    assert estimates.coverage(Setting(), [1, 2, 1], (), text_of).tolist() == [1, 1, 1]


def test_what_is_known_beforehand_is_the_mean_of_so_many_responses_and_one_half():
    model = ToyLanguageModel(3, 6, lambda response: float(sum(response) % 2))

    def sampler() -> PromptRollout:
        return PromptRollout(ToyEngine(model, 1), ToyGrader(model), [7], max_tokens=6, seed=(0,), slot=0)

    rewards = [one.grade.reward for one in asyncio.run(sampler().group(8))]
    prior = asyncio.run(estimates.known_beforehand(sampler(), 8))
    assert prior is not None and prior.count == 9 and prior.mean == pytest.approx((sum(rewards) + 0.5) / 9)
    assert asyncio.run(estimates.known_beforehand(sampler(), 0)) is None


def judged(reward: float, base: float, ids: tuple[int, ...] = (8, 9, 8)) -> estimates.Judged:
    """A response of three tokens and two segments."""
    return estimates.Judged(Piece([5, 6], [*ids], [-1.0] * 3, np.zeros(3)), [0, 1, 3], base, 1.0, reward)


def test_a_probe_gives_each_segment_the_reward_minus_the_value_where_it_starts(model):
    setting = Setting(responses=2, partition=Newline(), probe=8)
    few = [[judged(1.0, 0.25), judged(0.0, 0.75)]]  # of one prompt: no other to learn from
    estimates.give_values(model, few, setting)
    np.testing.assert_allclose(few[0][0].piece.adv_T, 0.75 / 2)
    np.testing.assert_allclose(few[0][1].piece.adv_T, -0.75 / 2)
    # What the first token is decides: values behind it get near to the rewards, those before it cannot.
    many = [[judged(1.0, 0.5, (8, 9, 9)), judged(0.0, 0.5, (10, 9, 9))] for _ in range(20)]
    estimates.give_values(model, many, setting)
    adv_RT = np.abs([one.piece.adv_T for pair in many for one in pair]) * setting.responses
    assert adv_RT[:, 0].min() > 0.3 and adv_RT[:, 1:].max() < 0.2
    # The own prompt's outcome is in none of its values.
    changed = [[judged(1.0, 0.5, (8, 9, 9)), judged(0.0, 0.5, (10, 9, 9))] for _ in range(20)]
    changed[0] = [judged(0.0, 0.5, (8, 9, 9)), judged(0.0, 0.5, (10, 9, 9))]
    estimates.give_values(model, changed, setting)
    np.testing.assert_allclose(changed[0][0].piece.adv_T, many[0][0].piece.adv_T - 0.5, atol=1e-9)


def test_one_name_means_one_method_and_its_reference():
    args = SimpleNamespace(
        match=["rloo, 1 response, history"], segment_tokens=10, intervals=[3], interval=3, diagnosis=None
    )
    assert list(noise.chosen_settings(args)) == [noise.REFERENCES[0], "rloo, 1 response, history"]
    args.match = ["rloo, 1 response, his"]
    assert len(noise.chosen_settings(args)) == 2 * len(noise.REFERENCES)


def test_intervals_are_those_asked_for_and_the_one_at_which_the_rest_varies():
    known = noise.settings(10, [5, 30], 15)
    cutpoints = {name for name, one in known.items() if isinstance(one.partition, Cutpoint)}
    assert {name.split(",")[0] for name in cutpoints} == {"cutpoint 5", "cutpoint 15", "cutpoint 30"}
    assert known["cutpoint 30, 4 x 4, mask"].partition.interval == 30
    assert known["cutpoint 15, 8 x 9, mask (paper)"].partition.interval == 15


def test_the_variance_of_estimates_is_unbiased():
    gradient_RD = np.random.default_rng(0).normal(scale=[1.0, 2.0], size=(4000, 2))
    mean, error = noise.variance(gradient_RD)
    assert mean == pytest.approx(5, rel=4 * error) and error < 0.03
    assert mean == pytest.approx(gradient_RD.var(0, ddof=1).sum(), rel=1e-6)


def test_a_model_that_is_never_right_is_said(task, tmp_path, capsys):
    assert (
        noise.main(
            ["--task", str(task), "--output", str(tmp_path), "--match", "tree", "--repeats", "3", "--prompts", "1"]
        )
        == 2
    )
    assert "never right" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_a_small_run_writes_a_table(task, tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "grade_here", coin)
    options = ["--task", str(task), "--output", str(tmp_path), "--repeats", "3", "--prompts", "4"]
    options += ["--match", "tree 4-3-2", "--match", "tree 2-2", "--match", "rloo, 1 response, history, state"]
    options += ["--match", "probe (newline), 2 responses, history"]
    assert noise.main(options) == 0
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["task"]["settings"]["task"] == "arithmetic" and told["machine"]["torch"] == torch.__version__
    results = told["results"]
    trees = {"tree 4-3-2, loo", "tree 4-3-2, loo, mask"}
    trees |= {f"tree 2-2, shrunk, history{mask}" for mask in ("", ", mask", ", state mask")}
    others = {"rloo, 1 response, history, state mask", "probe (newline), 2 responses, history"}
    assert set(results) == {*noise.REFERENCES, *trees, *others}
    one, eight = (results[f"rloo, {name}, state mask"] for name in ("1 response, history", "8 responses"))
    assert one["tokens_per_prompt"] < eight["tokens_per_prompt"] / 5, "what it knew is not counted"
    assert all(one["tokens_per_prompt"] > 0 for one in results.values())
    assert "tree 4-3-2" in (tmp_path / "results.md").read_text()


def coin(question, text):
    """An untrained model is never right; this is as good a reward for trying the benchmark."""
    return SimpleNamespace(correct=sum(text.encode()) % 2 == 0)


def test_what_a_diagnosis_chose_is_measured_beside_its_prediction(task, tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "grade_here", coin)
    file = noise.common.ROOT / "benchmarks" / "results" / "credit-diagnose" / "check_last.json"
    told = diagnosed.diagnosed(file)
    tree = told["tree 4-4, shrunk, cut at token 93, history"]
    assert tree.setting.tree == TreeShape((4, 4), (93,)) and tree.setting.history == 8
    assert tree.setting.advantage == Shrunk(branching=(4, 4), settled=(0.2,))
    chain = told["chain, 8 responses, 4 rollouts at token 130"].setting
    assert (chain.responses, chain.rollouts, chain.history) == (8, 4, 0) and chain.partition == Places(places=(130,))
    options = ["--task", str(task), "--output", str(tmp_path), "--repeats", "3", "--prompts", "4"]
    assert noise.main([*options, "--diagnosis", str(file)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert set(results) == {"rloo, 8 responses", *told}
    measured = results["tree 4-4, shrunk, cut at token 93, history"]
    assert measured["predicted"] == tree.price == 0.4808 and measured["predicted_low"] == 0.3182
    assert "| 0.48 (0.32 to 0.67) |" in (tmp_path / "results.md").read_text()


def test_a_design_of_unknown_options_is_no_setting():
    with pytest.raises(ValueError, match="spo.mode"):
        diagnosed.as_setting("--spo.mode forest", 0)


WRONG = (
    "--diagnosis nothing.json",
    "--task nothing",
    "--repeats 1",
    "--prompts 601",
    "--interval 0",
    "--intervals 1,x",
    "--intervals 0",
    "--match none",
    "--nothing",
)


@pytest.mark.parametrize("changes", [options.split() for options in WRONG], ids=WRONG)
def test_wrong_usage_is_one_line(task, tmp_path, capsys, changes):
    status = noise.main(["--task", str(task), "--output", str(tmp_path), *changes])
    assert status == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
