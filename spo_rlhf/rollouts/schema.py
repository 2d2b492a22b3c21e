"""The rows of kept rollouts: one a line, gzip-compressed JSONL, a file a step. docs/rollouts.md describes every field.

Every field is there in every row, and has one type: readers that infer types from the first rows are right about the
others. A list that has no meaning for a method is empty; only `reward` may be null, at the inner nodes of a tree.
"""

from typing import TypedDict

SCHEMA = 1
FOLDER, PATTERN = "rollouts", "step-*.jsonl.gz"


def file_name(step: int) -> str:
    """The file of one step; the names sort as the steps do."""
    return f"step-{step:08d}.jsonl.gz"


def step_of(name: str) -> int:
    """The step of a file. Raises ValueError for a name of another form."""
    return int(name.removeprefix("step-").removesuffix(".jsonl.gz"))


class Part(TypedDict):
    """A number that the reward function gave beside or as the reward."""

    name: str
    value: float


class Row(TypedDict):
    """A response (chain, group) or a node of a tree: T tokens in K segments. A node has one segment."""

    schema: int  # version of this form
    step: int  # that trained on the batch; steps count from 1
    method: str  # --spo.mode
    slot: int  # position of the prompt in the batch of the step
    prompt_id: str  # of prompt and label together: equal at every step
    prompt: str
    label: str
    sample: int  # number of the response to its prompt, or of the node in its tree; both from 1
    parent: int  # number of the parent node, 0: the prompt
    level: int  # nodes from the prompt down to this one, itself included; 1 for a response
    response: str  # the texts of the tokens, joined
    token_ids: list[int]  # (T,)
    token_texts: list[str]  # (T,) what each token adds to the text
    logprobs: list[float]  # (T,) under the policy that sampled them, after temperature and top-p
    mask: list[int]  # (T,) 1: under the policy loss
    cuts: list[int]  # (T,) 1: the policy hesitated, p < --spo.prob_threshold
    advantages: list[float]  # (T,) where `trained` as the loss got them, else those of the segments
    trained: bool  # a row of this step's update
    boundaries: list[int]  # (K + 1,) [0, .., T]
    segment_advantages: list[float]  # (K,) before --spo.advantage_norm; empty where nothing gave any
    values: list[float]  # (K + 1,) V at the boundaries, the last of a response is its reward; empty without values
    value_stderrs: list[float]  # (K + 1,) standard errors; 0 where there is but one outcome
    value_counts: list[int]  # (K + 1,) outcomes behind each value
    reward: float | None  # null at inner nodes
    reward_parts: list[Part]  # score and logs of the reward function
    truncated: bool  # cut by the length limit
    weight_version: int  # policy updates behind the weights that sampled it, its first token at least
    token_versions: list[int]  # (T,) behind those of each token; empty where all have one
