"""One estimate of a policy gradient, in pure PyTorch: what a prompt gives to train on, and the gradient of all of it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch_engine import TextGrader, TorchEngine

from spo_rlhf.core import probe, values
from spo_rlhf.core import tree as tree_core
from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.history import NOTHING_KNOWN, Outcomes, PromptHistory
from spo_rlhf.core.loss import policy_mask
from spo_rlhf.core.partition import Partition, inner_states, newline_boundaries
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.core.values import Prior
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.protocol import Completion
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.rollout.tree import TreeRollout
from spo_rlhf.tasks.task import Task
from spo_rlhf.trainer.sketch import Sketch

MICRO_BATCH = 128
TextOf = Callable[[Sequence[int]], list[str]]


@dataclass(frozen=True)
class Setting:
    """One way to estimate the gradient. `tree`: a tree instead of responses, its nodes compared by `advantage`.

    `continuations`: with newline segments only. `by_state`: mask and cutpoints by the most likely token. `history`: outcomes
    of the prompt that are known beforehand; what they took is not counted. `probe`: the states where `partition` cuts have
    values from so many features of their hidden states, a baseline, instead of Monte Carlo.
    """

    responses: int = 8
    mask: float | None = None
    partition: Partition | None = None
    rollouts: int = 4
    continuations: bool = False
    tree: TreeShape | None = None
    advantage: str | tree_core.NodeAdvantage = "loo"
    by_state: bool = False
    history: int = 0
    probe: int = 0


@dataclass(frozen=True)
class Subject:
    """What the gradients are of: a model, and the problems (`rows`) of the task that it solves a part of."""

    model: Any
    tokenizer: Any
    task: Task
    rows: list[dict[str, Any]]
    max_tokens: int


@dataclass
class Piece:
    """Tokens under the loss: context ids, own tokens (T,), log-probs that decide about the mask, advantages with the sample's weight."""

    context: list[int]
    token_T: list[int]
    logp_T: list[float]
    adv_T: np.ndarray

    def length(self) -> int:
        return len(self.context) + len(self.token_T)


def sampler_options(engine: TorchEngine, subject: Subject, row: dict[str, Any], slot: int) -> dict[str, Any]:
    """Of a sampler of one problem."""
    question, ids = Question(row["answer"], kind=subject.task.kind), prompt_tokens(subject, row)
    grader = TextGrader(subject.tokenizer, lambda text: grade_here(question, text).correct)
    limits = {"max_tokens": subject.max_tokens, "seed": (0,), "slot": slot}
    return {"engine": engine, "grader": grader, "prompt_ids": ids, **limits}


def prompt_tokens(subject: Subject, row: dict[str, Any]) -> list[int]:
    """Tokens of a problem as the policy reads it."""
    text = (subject.task.template or "{}").format(row["problem"])
    return subject.tokenizer(text, add_special_tokens=False)["input_ids"]


async def sample_prompts(
    engine: TorchEngine, subject: Subject, rows: Sequence[dict[str, Any]], setting: Setting
) -> tuple[list[Piece], int]:
    """What the prompts of one estimate give to train on, and how many tokens that took."""
    sampled = await asyncio.gather(
        *(sample_prompt(engine, subject, row, setting, slot) for slot, row in enumerate(rows))
    )
    if setting.probe:
        give_values(subject.model, [traced for _, _, traced in sampled], setting)
    return [piece for pieces, _, _ in sampled for piece in pieces], sum(tokens for _, tokens, _ in sampled)


async def sample_prompt(
    engine: TorchEngine, subject: Subject, row: dict[str, Any], setting: Setting, slot: int
) -> tuple[list[Piece], int, "list[Judged]"]:
    """What one prompt gives to train on, how many tokens that took, and what a probe is to judge."""
    shared = sampler_options(engine, subject, row, slot)
    ids = shared["prompt_ids"]
    prior = await known_beforehand(PromptRollout(**shared), setting.history)
    if setting.tree is not None:
        rollout = TreeRollout(**shared)
        pieces = await tree_pieces(rollout, setting, ids, prior)
        return pieces, rollout.counts.generated_tokens, []

    def text_of(token_ids: Sequence[int]) -> list[str]:
        return token_texts(subject.tokenizer, token_ids)

    rollout = PromptRollout(**shared, token_texts=text_of, keep_continuations=setting.continuations)
    if setting.probe:
        judged = await judged_responses(rollout, setting, ids, text_of, prior)
        return [one.piece for one in judged], rollout.counts.generated_tokens, judged
    pieces = await response_pieces(rollout, setting, ids, text_of, prior)
    return pieces, rollout.counts.generated_tokens, []


async def known_beforehand(rollout: PromptRollout, outcomes: int) -> Prior | None:
    """What so many earlier responses of the same policy say of the prompt; None without one."""
    if not outcomes:
        return None
    history = PromptHistory(half_life=1.0, strength=1.0)  # of one iteration, so nothing fades
    history.overall = Outcomes(NOTHING_KNOWN, 1.0)
    history.of_prompt["it"] = Outcomes().with_rewards([one.grade.reward for one in await rollout.group(outcomes)])
    return history.prior("it", 0)


async def tree_pieces(
    rollout: TreeRollout, setting: Setting, prompt_ids: list[int], prior: Prior | None
) -> list[Piece]:
    """The nodes of a tree that have an advantage, each weighed by one over the number of nodes on its level."""
    assert setting.tree is not None
    grown = await rollout.grow(setting.tree)
    value_N = tree_core.values(grown.parent_N, grown.reward_N)
    adv_N = tree_core.advantages(grown.parent_N, value_N, setting.advantage, prior)
    nodes_on_level = np.cumprod(setting.tree.branching)
    pieces = []
    for n in tree_core.trained(adv_N):
        adv = adv_N[n] / nodes_on_level[len(grown.path(n)) - 1]
        tokens = grown.tokens(n)
        logp_T = grown.top_logprobs(n) or grown.logprobs(n)
        pieces.append(Piece([*prompt_ids, *grown.prefix(n)], tokens, logp_T, np.full(len(tokens), adv)))
    return pieces


async def response_pieces(
    rollout: PromptRollout, setting: Setting, prompt_ids: list[int], text_of: TextOf, prior: Prior | None = None
) -> list[Piece]:
    """The responses to a prompt, by segments or (RLOO) as wholes, and their continuations where those are kept."""
    if setting.partition is not None:
        samples = await rollout.chain(setting.responses, setting.partition, setting.rollouts, prior=prior)
        adv_ST = [sample.adv_T for sample in samples]
    else:
        samples = await rollout.group(setting.responses)
        reward_S = np.array([sample.grade.reward for sample in samples])
        adv_S = reward_S - values.leave_one_out(reward_S, prior)
        adv_ST = [np.full(len(sample.completion.token_ids), adv) for adv, sample in zip(adv_S, samples)]
    pieces = []
    for sample, adv_T in zip(samples, adv_ST):
        tokens = sample.completion.token_ids
        weight_T = coverage(setting, tokens, (), text_of) / setting.responses
        pieces.append(Piece(prompt_ids, tokens, deciding(sample.completion), np.asarray(adv_T) * weight_T))
    users = Counter(tuple(s.completion.token_ids[:b]) for s in samples for b in inner_states(s.boundaries))
    for one in rollout.continuations:
        tokens = one.completion.token_ids
        weight_T = coverage(setting, tokens, one.prefix, text_of) * users[one.prefix] / setting.responses
        pieces.append(Piece([*prompt_ids, *one.prefix], tokens, deciding(one.completion), one.advantage * weight_T))
    return pieces


def deciding(completion: Completion) -> list[float]:
    """The log-probs that decide about the mask; TorchEngine always gives them."""
    assert completion.deciding_logprobs is not None
    return completion.deciding_logprobs


@dataclass
class Judged:
    """A response whose states are to get values: its piece, where its segments end, and what the others came to."""

    piece: Piece
    boundaries: list[int]
    base: float
    spread: float
    reward: float


async def judged_responses(
    rollout: PromptRollout, setting: Setting, prompt_ids: list[int], text_of: TextOf, prior: Prior | None
) -> list[Judged]:
    """The responses to a prompt, without advantages."""
    assert setting.partition is not None
    samples = await rollout.group(setting.responses)
    reward_B = [one.grade.reward for one in samples]
    judged = []
    for one, base, spread in zip(samples, values.leave_one_out(reward_B, prior), probe.spreads(reward_B)):
        tokens, logp_T = one.completion.token_ids, deciding(one.completion)
        boundaries = setting.partition.boundaries(np.exp(logp_T), text_of(tokens))
        piece = Piece(prompt_ids, tokens, logp_T, np.zeros(len(tokens)))
        judged.append(Judged(piece, boundaries, float(base), float(spread), one.grade.reward))
    return judged


def give_values(model: Any, judged_PB: Sequence[Sequence[Judged]], setting: Setting) -> None:
    """Advantages of the responses' tokens, in place, as --spo.mode probe has them with --spo.probe_trace 1."""
    sketch = Sketch(setting.probe, seed=0)
    traced = []
    for prompt, judged_B in enumerate(judged_PB):
        ids_BL, attention_BL, *_ = padded([one.piece for one in judged_B])
        with torch.no_grad():
            passed = model(input_ids=ids_BL, attention_mask=attention_BL, output_hidden_states=True)
        sketch.keep([passed.hidden_states[-1]])
        for one, state_LD in zip(judged_B, sketch.take()[0]):
            columns = [len(one.piece.context) - 1 + boundary for boundary in one.boundaries[:-1]]
            traced.append(probe.Traced(prompt, state_LD[columns].double().numpy(), one.base, one.spread, one.reward))
    responses = [one for judged_B in judged_PB for one in judged_B]
    for one, value_K in zip(responses, probe.cross_fitted(traced).value_K, strict=True):
        adv_K = probe.advantages(value_K, one.reward, trace=1.0)
        one.piece.adv_T = to_tokens(adv_K, one.boundaries) / setting.responses


def coverage(setting: Setting, tokens: list[int], prefix: tuple[int, ...], text_of: TextOf) -> np.ndarray:
    """Weights (T,) of the tokens after `prefix`: 1 over the number of samples of the same part of a response.

    A token behind k inner boundaries of its response is sampled once as itself and `rollouts` times from each boundary.
    """
    if not setting.continuations:
        return np.ones(len(tokens))
    path = [*prefix, *tokens]
    inner = inner_states(newline_boundaries(text_of(path)))
    return 1 / (1 + setting.rollouts * np.searchsorted(inner, np.arange(len(prefix), len(path)), side="right"))


def gradient(model: Any, pieces: list[Piece], threshold: float | None) -> np.ndarray:
    """Gradient (D,) of sum_t M_t A_t log pi_t over all pieces; the mask M lets tokens below the threshold pass."""
    model.zero_grad()
    by_length = sorted((piece for piece in pieces if piece.adv_T.any()), key=Piece.length)
    for start in range(0, len(by_length), MICRO_BATCH):
        ids_BL, attention_BL, adv_BT, old_BT, own_BT = padded(by_length[start : start + MICRO_BATCH])
        mask_BT = own_BT.bool() if threshold is None else policy_mask(old_BT, own_BT, threshold)
        logp_BTV = model(input_ids=ids_BL, attention_mask=attention_BL).logits[:, :-1].log_softmax(-1)
        logp_BT = logp_BTV.gather(-1, ids_BL[:, 1:, None])[..., 0]
        (adv_BT * logp_BT * mask_BT).sum().backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.flatten() for part in parts]).numpy().copy()


def padded(batch: list[Piece]) -> tuple[torch.Tensor, ...]:
    """ids and attention (B, L), and of each token after the first, (B, L - 1): advantage, log-prob, whether it is a piece's own."""
    longest = max(piece.length() for piece in batch)
    ids_BL, attention_BL = (torch.zeros(len(batch), longest, dtype=torch.long) for _ in range(2))
    adv_BT, old_BT, own_BT = (torch.zeros(len(batch), longest - 1) for _ in range(3))
    for row, piece in enumerate(batch):
        end = piece.length()
        own = slice(len(piece.context) - 1, end - 1)
        ids_BL[row, :end], attention_BL[row, :end] = torch.tensor(piece.context + piece.token_T), 1
        adv_BT[row, own] = torch.from_numpy(piece.adv_T).float()
        old_BT[row, own], own_BT[row, own] = torch.tensor(piece.logp_T), 1
    return ids_BL, attention_BL, adv_BT, old_BT, own_BT
