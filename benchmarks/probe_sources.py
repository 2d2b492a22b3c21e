"""What --spo.mode probe's sources of values are worth: the share of the squared error of RLOO's baseline that each takes away.

At one policy, without training and without Ray: responses to fresh prompts, cut behind each line; features of the states where
segments start, from the hidden states (`hidden`), from the right answer's probability (`gold`), or from both; values from the
project's own cross-fitted regression. Measured again and again with other prompts; the error is that of the mean over them.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

import common
import numpy as np
import torch
from estimates import Subject, prompt_tokens, sampler_options
from gradient_noise import add_folders, load
from torch_engine import TorchEngine

from spo_rlhf.core import gold, probe
from spo_rlhf.core.partition import newline_boundaries
from spo_rlhf.core.values import leave_one_out
from spo_rlhf.host.arguments import add_number
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console, duration
from spo_rlhf.methods.probe import GOLD_TEMPLATE, SOURCES
from spo_rlhf.rollout.chain import PromptRollout, Response
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.trainer.sketch import Sketch

PROGRAM = "probe_sources"
BATCH = 64
EXAMPLES = """examples:
  python -m spo_rlhf.cli.prepare --task check_last --changes 6 --output runs/check/task
  python benchmarks/probe_sources.py --task runs/check/task --output runs/check/sources
"""


async def sample(subject: Subject, rows: Sequence[dict[str, Any]], responses: int) -> list[list[Response]]:
    """Responses to each prompt, graded."""
    engine = TorchEngine(subject.model, subject.tokenizer)

    samplers = [PromptRollout(**sampler_options(engine, subject, row, slot)) for slot, row in enumerate(rows)]
    return await asyncio.gather(*(one.group(responses) for one in samplers))


@torch.inference_mode()
def passes(subject: Subject, rows: Sequence[list[int]], hidden: bool) -> list[torch.Tensor]:
    """Of each list of tokens the last hidden states (L, H), or the log-probs (L - 1,) of the tokens behind the first."""
    order, pad = sorted(range(len(rows)), key=lambda number: len(rows[number])), subject.tokenizer.pad_token_id
    found: dict[int, torch.Tensor] = {}
    for start in range(0, len(rows), BATCH):
        numbers = order[start : start + BATCH]
        part = [rows[number] for number in numbers]
        length = max(map(len, part))
        ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in part])
        here = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in part])
        out = subject.model(input_ids=ids, attention_mask=here, output_hidden_states=hidden)
        made = (
            out.hidden_states[-1] if hidden else out.logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        )
        found |= {n: one[: len(row) - (not hidden)].clone() for n, one, row in zip(numbers, made, part, strict=True)}
    return [found[number] for number in range(len(rows))]


def gold_tokens(subject: Subject, label: str, template: str) -> tuple[list[int], int]:
    """Tokens that are put behind a state, and how many of them are the right answer's."""

    def encode(text: str) -> list[int]:
        return subject.tokenizer(text, add_special_tokens=False)["input_ids"]

    whole_ids = encode(template.replace("{label}", label))
    return whole_ids, len(whole_ids) - gold.answer_start(whole_ids, encode(template.partition("{label}")[0]))


def traced(
    subject: Subject, rows: Sequence[dict[str, Any]], groups: Sequence[list[Response]], args: argparse.Namespace
) -> dict[str, list[probe.Traced]]:
    """By source, the responses with the features of their states."""
    cases, texts, behind = [], [], []
    for prompt, (row, group) in enumerate(zip(rows, groups, strict=True)):
        ids, reward_B = prompt_tokens(subject, row), [one.grade.reward for one in group]
        more, answer = gold_tokens(subject, row["answer"], args.template)
        columns = (leave_one_out(reward_B).tolist(), probe.spreads(reward_B).tolist(), reward_B)
        for one, base, spread, reward in zip(group, *columns, strict=True):
            tokens = one.completion.token_ids
            at_K = newline_boundaries(token_texts(subject.tokenizer, tokens))[:-1]
            cases.append((prompt, base, spread, reward, [len(ids) + at for at in at_K], answer))
            texts.append([*ids, *tokens])
            behind += [[*ids, *tokens[:at], *more] for at in at_K]
    sketch, made = Sketch(args.features, seed=0), {source: list[probe.Traced]() for source in SOURCES}
    logps = iter(passes(subject, behind, hidden=False))
    for (prompt, base, spread, reward, at_K, answer), hidden in zip(cases, passes(subject, texts, hidden=True)):
        hidden_KD = sketch.projected(hidden[[at - 1 for at in at_K]]).double().numpy()
        gold_KG = gold.features([next(logps)[-answer:].tolist() for _ in at_K])
        of_source = {"hidden": hidden_KD, "gold": gold_KG, "both": np.concatenate([hidden_KD, gold_KG], axis=1)}
        for source, state_KD in of_source.items():
            made[source].append(probe.Traced(prompt, state_KD, base, spread, reward))
    return made


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add_folders(parser)
    parser.add_argument("--template", default=GOLD_TEMPLATE, metavar="TEXT", help="as --spo.gold_template")
    for flag, least, default, help in (
        ("--prompts", 8, 64, "in an iteration"),
        ("--responses", 2, 4, "to a prompt"),
        ("--repeats", 2, 8, "iterations, each with prompts of its own"),
        ("--features", 1, 64, "of a hidden state"),
        ("--seed", 0, 0, "of prompts and responses"),
    ):
        add_number(parser.add_argument, flag, least, default, help)
    return parser


def summary(explained_R: dict[str, list[float]], learned_R: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Mean, standard error and the learned share of each source."""
    return {
        source: {
            "explained": float(np.mean(values)),
            "error": float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan"),
            "learned": float(np.mean(learned_R[source])),
        }
        for source, values in explained_R.items()
    }


def measure(args: argparse.Namespace, console: Console) -> None:
    """All repeats; results after each from the second on. Raises UserError."""
    subject, prepared = load(args.task, args.prompts)
    rng, start = np.random.default_rng(args.seed), time.monotonic()
    torch.manual_seed(args.seed)
    explained, learned = ({source: list[float]() for source in SOURCES} for _ in range(2))
    lines: list[str] = []
    for repeat in range(1, args.repeats + 1):
        problems = [subject.rows[i] for i in rng.choice(len(subject.rows), args.prompts, replace=False)]
        groups = asyncio.run(sample(subject, problems, args.responses))
        for source, made in traced(subject, problems, groups, args).items():
            fit = probe.cross_fitted(made)
            explained[source].append(fit.explained)
            learned[source].append(fit.learned)
        results = summary(explained, learned)
        rows = [
            (name, f"{one['explained']:.3f} ± {one['error']:.3f}", f"{one['learned']:.2f}")
            for name, one in results.items()
        ]
        lines = common.markdown("source | explained | folds that learned", rows)
        if repeat > 1:
            common.write_results(args.output, args, lines, task=prepared, repeats=repeat, results=results)
        console.status(f"{repeat}/{args.repeats}  {duration(time.monotonic() - start)}")
    for line in lines:
        console.line(line)
    console.line(common.where(args.output, table="results.md"))


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
