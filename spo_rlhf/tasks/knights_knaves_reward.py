"""The reward of knights and knaves: 1 where the conclusion gives everybody the right role, else 0.

Hand this file to the trainer as `--reward.remote_url spo_rlhf/tasks/knights_knaves_reward.py`, with the answers of
`knights_knaves.py` or of the benchmark as labels. It grades as the evaluation does, in strict mode.
"""

from spo_rlhf.graders import roles
from spo_rlhf.graders.verdict import Question
from spo_rlhf.tasks.queries import response_of


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict:
    """Grade responses: lists of B texts to {"rewards": B floats, "scores": B floats, "extra_logs": {}}.

    A query is its prompt followed by the response; only the response is looked at. A label says "NAME is a ROLE" of
    everybody. Raises ValueError where a query does not contain its prompt or a label names no roles.
    """
    rewards = [
        float(is_correct(response_of(query, prompt), label))
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": rewards, "scores": list(rewards), "extra_logs": {}}


def is_correct(response: str, label: str) -> bool:
    """Tell whether what follows the last "CONCLUSION:" gives each person of the label that role, and no other.

    A conclusion that is cut short, has a condition or a negation in it, gives somebody both roles, or is about
    somebody else is wrong, whatever an earlier conclusion said.
    """
    if not roles.names_roles(label):
        raise ValueError(f"the label {label[:80]!r} names no roles: check --data.label_key")
    return roles.grade(Question(label, kind="roles"), response).correct
