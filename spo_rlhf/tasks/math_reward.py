"""The reward of mathematics: 1 where the answer in a box or after `####` is the label's, else 0.

Hand this file to the trainer as `--reward.remote_url spo_rlhf/tasks/math_reward.py`; GSM8K, MATH and the arithmetic
task share it. It grades as the evaluation does, in strict mode (docs/graders.md), and runs inside the trainer's reward
processes, whose time limit and memory limit bound it. Use it as the pattern for a reward of your own.
"""

import functools

from spo_rlhf.graders import algebra
from spo_rlhf.graders.extract import opens_thought
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.normalize import normalize
from spo_rlhf.graders.strict import gold_answer
from spo_rlhf.graders.verdict import Question
from spo_rlhf.tasks.queries import response_of

algebra.warm_up()  # a second, once per process, and before the first answer's time limit runs


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict:
    """Grade responses: lists of B texts to {"rewards": B floats, "scores": B floats, "extra_logs": {}}.

    A query is its prompt followed by the response, special tokens included. A label is the answer, or a solution that
    ends in `#### answer` or has it in a box. An answer copied from the prompt earns nothing, and nothing counts inside
    a thought (`<think>`), also one that the prompt opened.

    Raises:
        ValueError: a query does not contain its prompt, or a label is empty: mistakes in the set-up that a reward of 0
            would hide.
    """
    rewards = [
        float(is_correct(response_of(query, prompt), label, prompt))
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": rewards, "scores": list(rewards), "extra_logs": {}}


def is_correct(response: str, label: str, prompt: str) -> bool:
    """Tell whether the response answers the prompt with the label, by the shared grader's strict mode."""
    question = Question(answer_in(label), problem=prompt, in_thought=opens_thought(prompt))
    return grade_here(question, response).correct


@functools.lru_cache(maxsize=4096)
def answer_in(label: str) -> str:
    """Return the answer that a label is or holds; raises ValueError where there is none."""
    gold = gold_answer(label)
    if not normalize(gold) or gold.rstrip().endswith("####"):
        raise ValueError(f"the label {label[:80]!r} has no answer: check --data.label_key")
    return gold
