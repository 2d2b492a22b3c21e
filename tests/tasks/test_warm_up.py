"""The supervised warm-up: it learns, repeats, stops where it should, and looks at the responses only."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from spo_rlhf.tasks.small_model import build_model, build_tokenizer
from spo_rlhf.tasks.warm_up import WarmUpSettings, greedy_accuracy, warm_up

# Simple enough to be learned in a second: repeat a digit.
EXAMPLES = [(f"{'xyz'[n % 3] * (1 + n % 7)} {n % 10}:\n", f"#### {n % 10}") for n in range(210)]
ANSWERS = [(prompt, response.removeprefix("#### ")) for prompt, response in EXAMPLES[:40]]
QUICK = WarmUpSettings(target_accuracy=1.0, max_seconds=120, max_steps=300, evaluate_every=20, max_new_tokens=8)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(prompt + response for prompt, response in EXAMPLES)


def small(tokenizer, seed=0):
    return build_model(tokenizer, seed, hidden_size=64, layers=1)


@pytest.fixture(scope="module")
def trained(tokenizer):
    """The model after QUICK, where it ended, and all that was reported on the way."""
    model, seen = small(tokenizer), []
    return model, warm_up(model, tokenizer, EXAMPLES, ANSWERS, QUICK, seen.append), seen


def test_it_learns_and_stops_at_the_target(tokenizer, trained):
    model, end, seen = trained
    assert end.accuracy == 1.0 and end.step < QUICK.max_steps
    assert greedy_accuracy(model, tokenizer, ANSWERS, 8) == 1.0
    steps = [progress for progress in seen if progress.stage == "training"]
    assert [progress.step for progress in steps] == list(range(1, end.step + 1))
    assert steps[-1].loss < 0.1 * steps[0].loss
    assert all(progress.seconds + progress.seconds_left == pytest.approx(120) for progress in seen)
    measured = [progress.step for progress in seen if progress.stage == "evaluating"]
    assert measured[0] == 20 and {b - a for a, b in pairwise(measured)} <= {20, 10}


def test_a_run_repeats_exactly_and_depends_on_the_seed(tokenizer):
    def weights(seed):
        model = small(tokenizer)
        warm_up(model, tokenizer, EXAMPLES, ANSWERS, WarmUpSettings(max_steps=3, seed=seed, max_new_tokens=4))
        return model.state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_muon_trains_the_matrices_of_the_layers_and_adamw_the_rest(tokenizer):
    def weights(optimizer):
        model = small(tokenizer)
        warm_up(model, tokenizer, EXAMPLES, ANSWERS, replace(QUICK, optimizer=optimizer, max_steps=1))
        return model.state_dict()

    before, adamw, muon = small(tokenizer).state_dict(), weights("adamw"), weights("muon")
    for name, weight in before.items():
        in_layers = ".layers." in name and weight.ndim == 2
        assert not torch.equal(muon[name], weight), name
        assert torch.equal(muon[name], adamw[name]) != in_layers, name


def test_muon_learns(tokenizer):
    end = warm_up(small(tokenizer), tokenizer, EXAMPLES, ANSWERS, replace(QUICK, optimizer="muon"))
    assert end.accuracy == 1.0 and end.step < QUICK.max_steps


def test_the_average_of_the_weights_is_kept(tokenizer):
    def weights(steps, averaged_steps):
        model = small(tokenizer)
        settings = replace(QUICK, max_steps=steps, averaged_steps=averaged_steps)
        warm_up(model, tokenizer, EXAMPLES, ANSWERS, settings)
        return model.state_dict()

    first, second, average, last = weights(1, 0), weights(2, 0), weights(2, 4), weights(2, 1)
    for name, weight in average.items():
        torch.testing.assert_close(weight, 0.75 * first[name] + 0.25 * second[name])
        assert torch.equal(last[name], second[name])


def test_no_steps_leave_the_weights_alone(tokenizer):
    model = small(tokenizer)
    end = warm_up(model, tokenizer, EXAMPLES, ANSWERS, WarmUpSettings(max_steps=0, max_new_tokens=4))
    assert (end.step, end.stage) == (0, "finished") and math.isnan(end.loss) and 0 <= end.accuracy <= 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), small(tokenizer).parameters(), strict=True))


def test_the_clock_stops_it(tokenizer):
    settings = WarmUpSettings(target_accuracy=1.0, max_seconds=1e-9, max_new_tokens=4)
    end = warm_up(small(tokenizer), tokenizer, EXAMPLES, ANSWERS, settings)
    assert end.step == 0 and end.accuracy is not None


def test_the_end_of_text_is_learned(tokenizer, trained):
    model, _, _ = trained
    prompt, response = EXAMPLES[3]
    tokens = model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=20)
    assert tokenizer.decode(tokens[0]) == prompt + response + tokenizer.eos_token


def test_the_prompt_is_not_learned(tokenizer):
    """The first loss is the mean over response tokens alone, whatever the prompt."""
    model, losses = small(tokenizer), []
    pair = [("x 1:\n", "#### 1")]
    settings = WarmUpSettings(max_steps=1, max_new_tokens=4)
    warm_up(model, tokenizer, pair, ANSWERS, settings, lambda progress: losses.append(progress.loss))
    prompt, response = (tokenizer(text)["input_ids"] for text in (pair[0][0], pair[0][1] + tokenizer.eos_token))
    with torch.no_grad():
        log_probs = small(tokenizer)(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    picked = [log_probs[len(prompt) + i - 1, token] for i, token in enumerate(response)]
    assert losses[0] == pytest.approx(-sum(picked).item() / len(picked), rel=1e-5)


def test_accuracy_does_not_depend_on_the_batch(tokenizer):
    """Left padding must not change what a prompt gives."""
    model = small(tokenizer)
    warm_up(model, tokenizer, EXAMPLES, ANSWERS, WarmUpSettings(max_steps=60, evaluate_every=1000, max_new_tokens=8))
    together = greedy_accuracy(model, tokenizer, ANSWERS[:28], 8)
    for count in (1, 7):
        parts = [greedy_accuracy(model, tokenizer, ANSWERS[i : i + count], 8) for i in range(0, 28, count)]
        assert 0 < together == pytest.approx(sum(parts) / len(parts))
