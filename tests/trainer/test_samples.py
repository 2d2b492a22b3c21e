"""Rollouts on the controller: logs of a batch, dynamic filtering, steps that can be planned."""

from types import SimpleNamespace

import pytest
import torch
from batches import SPO, experience

from spo_rlhf.core.finite import Fault
from spo_rlhf.core.values import Prior
from spo_rlhf.rollout.protocol import Completion
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.loop import planned_steps
from spo_rlhf.trainer.samples import RolloutBatch, SegmentSamplesGenerator, is_informative, with_equal_logs


def generator_of(args, engines=None):
    strategy = SimpleNamespace(args=args)
    checks = {"check_rewards": lambda: None, "check_stop": lambda: None}
    return SegmentSamplesGenerator(strategy, None, None, None, [], engines=engines, reporter=Reporter(None), **checks)


def test_a_sample_brings_its_weight_and_the_most_likely_tokens_in_the_columns_of_its_own():
    args = SimpleNamespace(spo=SPO, data=SimpleNamespace(max_len=99))
    generator = generator_of(args)
    rollout = Rollout("p", "l", 3, 0, RolloutCounts())
    completion = Completion([8, 9], [-1.0, -2.0], False, top_logprobs=[-0.5, -2.0])
    made = generator.to_experience(rollout, Sample.after([5, 6, 7], completion, None, weight=0.25, adv_T=[1.0, 2.0]))
    assert made.top_log_probs.tolist() == [[0, 0, -0.5, -2.0]] and made.rollout_log_probs.tolist() == [[0, 0, -1, -2]]
    assert made.advantages.tolist() == [[0, 0, 1, 2]] and made.info["loss_weight"].tolist() == [0.25]
    plain = Completion([8, 9], [-1.0, -2.0], False)
    made = generator.to_experience(rollout, Sample.after([5, 6, 7], plain, None))
    assert made.top_log_probs is None and made.info["loss_weight"].tolist() == [1.0]


def test_prompts_are_skipped_by_chance():
    args = SimpleNamespace(spo=SPO, train=SimpleNamespace(seed=1))
    generator = generator_of(args)
    known = Prior(0.9, 2.0)
    generator.judge = lambda prompt, label, iteration: (1.0, None) if prompt.startswith("new") else (0.25, known)

    def data(total: int):
        return iter([(None, [f"{'new' if n % 2 else 'old'} {n}"], ["label"], [None]) for n in range(total)])

    batch = RolloutBatch([])
    kept = list(generator._kept(data(2000), 500, ("train", 3), batch))
    assert len(kept) == 500 and not batch.exhausted
    old = [one for one in kept if one[0].startswith("old")]
    assert {one[3:] for one in old} == {(0.25, known)} and {one[3:] for one in kept if one not in old} == {(1.0, None)}
    # Half of the prompts are kept with 1/4: a fifth of those kept are old ones, and 500 take 800.
    assert 70 < len(old) < 130 and 740 < batch.prompts < 860
    again = list(generator._kept(data(2000), 500, ("train", 3), RolloutBatch([])))
    other = list(generator._kept(data(2000), 500, ("train", 4), RolloutBatch([])))
    assert again == kept != other, "the draw depends on the iteration, and on nothing else"
    batch = RolloutBatch([])
    assert len(list(generator._kept(data(20), 500, ("eval", 0), batch))) == 20 == batch.prompts and batch.exhausted
    assert not generator.has_only_spare, "an episode that has not begun"
    generator._spare = [Rollout("p", "l", 0, 0, RolloutCounts())]
    assert generator.has_only_spare and generator.place()["prompts"] is None, (
        "a checkpoint of now begins the next episode"
    )


class Answering:
    """Answers every request, and keeps them."""

    def __init__(self):
        self.requests = []
        self.unanswered = []

    def submit(self, request):
        self.requests.append(request)
        self.unanswered.append(request)

    def take(self, limit_s):
        taken, self.unanswered = self.unanswered, []
        return [(one, Rollout(one.prompt, one.label, one.slot, 0, RolloutCounts())) for one in taken]


def test_every_held_out_prompt_has_seeds_of_its_own():
    """Whatever the batch of training: with `rollout.batch_size` 4, prompts 0, 4, 8, ... had shared theirs."""
    args = SimpleNamespace(
        spo=SPO,
        train=SimpleNamespace(seed=1),
        data=SimpleNamespace(max_len=99),
        rollout=SimpleNamespace(batch_size=4, n_samples_per_prompt=2),
        vllm=SimpleNamespace(enable_sleep=False),
    )
    engines = Answering()
    generator = generator_of(args, engines)
    generator.eval_dataloader = [(None, [f"problem {n}"], ["label"], [None]) for n in range(10)]
    generator.eval_step = 7
    assert generator.generate_eval_samples(temperature=1.0) == []
    assert [one.prompt for one in engines.requests] == [f"problem {n}" for n in range(10)]
    assert {one.seed for one in engines.requests} == {(1, "eval", 7)}
    assert [one.slot for one in engines.requests] == list(range(10))


def test_logs_that_some_samples_lack_count_as_zero():
    graded, truncated = experience([[0.5] * 4], [[1.0] * 4]), experience([[0.5] * 4], [[1.0] * 4])
    graded.info, truncated.info = {"exact": torch.tensor([1.0])}, {}
    assert [one.info["exact"].item() for one in with_equal_logs([graded, truncated])] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("scores", "informative"),
    [([1.0, 1.0], False), ([0.0, 0.0], False), ([1.0, 0.0], True), ([None, None], True), ([1.0, None], True)],
)
def test_dynamic_filtering_keeps_prompts_that_are_neither_solved_nor_hopeless(scores, informative):
    samples = [Sample([1], [(0, 1)], None, truncated=False, reward=None, score=score) for score in scores]
    assert is_informative(Rollout("", "", 0, 0, RolloutCounts(), samples), (0.0, 1.0)) == informative


def test_dynamic_filtering_keeps_what_is_not_finite_for_somebody_to_see():
    samples = [Sample([1], [(0, 1)], None, truncated=False, reward=0.0, score=0.0)]
    rollout = Rollout("", "", 0, 0, RolloutCounts(), samples, faults=[Fault("reward", float("nan"))])
    assert is_informative(rollout, (0.0, 1.0)) and RolloutBatch([rollout]).faults == rollout.faults


@pytest.mark.parametrize(
    ("prompts", "episodes", "steps"),
    [(64, 1, 1), (128, 3, 6), (7473, 9, 9 * 117), (65, 1, 1), (80, 2, 4), (10, 2, 0)],
)
def test_an_episode_ends_with_what_is_left_if_that_fills_a_step(prompts, episodes, steps):
    """64 prompts x 8 responses an iteration, 64 or 128 samples a step."""
    assert planned_steps(prompts, episodes, 64, fills_step=lambda rest: rest * 8 >= 128) == steps


def test_a_weight_that_some_samples_lack_is_one():
    old, new = SimpleNamespace(info={}), SimpleNamespace(info={"loss_weight": torch.tensor([0.25])})
    assert [one.info["loss_weight"].item() for one in with_equal_logs([old, new])] == [1.0, 0.25]
