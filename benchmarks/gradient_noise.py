"""How many tokens a method needs for a policy gradient as precise as RLOO's, at one policy, without training.

Every method estimates the gradient of the same model again and again from fresh prompts, with this project's samplers,
partitions, values and advantages (pure PyTorch, no Ray). The variance of the estimates, summed over all parameters, times
the tokens sampled for them, in units of RLOO's, is the number in the table: 0.5 means half the tokens for the same noise.

The methods of a group have one expected gradient: without the mask the exact one, with it that of the tokens that pass it.
(Cutpoints deviate a little, see core/partition.py.) For that, nodes of a tree and continuations are weighed here by the
number of samples that cover the same part of a response, while training weighs them alike.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed

from torch_engine import TextGrader, TorchEngine

from spo_rlhf.cli import prepare
from spo_rlhf.core import tree as tree_core
from spo_rlhf.core import values
from spo_rlhf.core.loss import policy_mask
from spo_rlhf.core.partition import (
    PROB_THRESHOLD,
    Cutpoint,
    Fixed,
    Newline,
    Partition,
    inner_states,
    newline_boundaries,
)
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.errors import UserError
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import write_json
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.rollout.tree import TreeRollout

PROGRAM = "gradient_noise"
MICRO_BATCH = 128
REFERENCES = ("rloo, 8 responses", "rloo, 8 responses, mask")
EXAMPLES = """examples:
  python -m spo_rlhf.cli.prepare --output runs/short/task --min-steps 2 --max-steps 4
  python benchmarks/gradient_noise.py --task runs/short/task --output runs/short/gradients
  python benchmarks/gradient_noise.py --task runs/short/task --match cutpoint --repeats 8 --output runs/short/few
"""


@dataclass(frozen=True)
class Setting:
    """One way to estimate the gradient. `tree`: a tree instead of responses. `continuations`: with newline segments only."""

    responses: int = 8
    mask: float | None = None
    partition: Partition | None = None
    rollouts: int = 4
    continuations: bool = False
    tree: TreeShape | None = None


def settings(segment_tokens: int, intervals: list[int], interval: int) -> dict[str, Setting]:
    """By name, `responses x rollouts`; the others are compared with the first. At `interval`, responses and rollouts vary."""
    lines, fixed = Newline(), Fixed(segment_length=max(segment_tokens // 2, 1))
    chain = Setting(responses=4, partition=Cutpoint(interval=interval))
    cutpoints = {
        f"cutpoint {between}, 4 x 4, mask": replace(chain, partition=Cutpoint(interval=between))
        for between in sorted({*intervals, interval})
    }
    tree = Setting(tree=TreeShape((4, 3, 2), (segment_tokens,)))
    unmasked = {
        "rloo, 8 responses": Setting(),
        "rloo, 4 responses": Setting(responses=4),
        "rloo, 16 responses": Setting(responses=16),
        "vineppo (newline), 4 x 4": replace(chain, partition=lines),
        "vineppo (newline), 4 x 9": replace(chain, partition=lines, rollouts=9),
        "fixed segments, 4 x 4": replace(chain, partition=fixed),
        f"cutpoint {interval}, 4 x 4": chain,
        "vineppo (newline), 4 x 4, continuations": replace(chain, partition=lines, continuations=True),
        "tree 4-3-2, loo": tree,
    }
    masked = {
        "rloo, 8 responses, mask": Setting(),
        "rloo, 4 responses, mask": Setting(responses=4),
        **cutpoints,
        f"cutpoint {interval}, 4 x 2, mask": replace(chain, rollouts=2),
        f"cutpoint {interval}, 4 x 9, mask": replace(chain, rollouts=9),
        f"cutpoint {interval}, 2 x 4, mask": replace(chain, responses=2),
        f"cutpoint {interval}, 8 x 4, mask": replace(chain, responses=8),
        f"cutpoint {interval}, 8 x 9, mask (paper)": replace(chain, responses=8, rollouts=9),
        "newline, 4 x 4, mask": replace(chain, partition=lines),
        "newline, 4 x 4, mask, continuations": replace(chain, partition=lines, continuations=True),
        "tree 4-3-2, loo, mask": tree,
    }
    return unmasked | {name: replace(setting, mask=PROB_THRESHOLD) for name, setting in masked.items()}


@dataclass
class Piece:
    """Tokens under the loss: context ids, own tokens (T,), their log-probs, their advantages with the sample's weight."""

    context: list[int]
    token_T: list[int]
    logp_T: list[float]
    adv_T: np.ndarray


async def sample_prompt(
    engine: TorchEngine, task: prepare.Task, row: dict, setting: Setting, max_tokens: int, slot: int
) -> tuple[list[Piece], int]:
    """What one prompt gives to train on, and how many tokens that took."""
    tokenizer = engine.tokenizer
    prompt_ids = tokenizer(task.module.PROMPT_TEMPLATE.format(row["problem"]), add_special_tokens=False)["input_ids"]
    question = Question(row["answer"], kind=task.kind)
    grader = TextGrader(tokenizer, lambda text: grade_here(question, text).correct)
    common = dict(engine=engine, grader=grader, prompt_ids=prompt_ids, max_tokens=max_tokens, seed=(0,), slot=slot)
    if setting.tree is not None:
        job = TreeRollout(**common)
        grown = await job.grow(setting.tree)
        adv_N = tree_core.advantages(grown.parent_N, tree_core.values(grown.parent_N, grown.reward_N), "loo")
        nodes_on_level = np.cumprod(setting.tree.branching)
        pieces = []
        for n in tree_core.trained(adv_N):
            adv = adv_N[n] / nodes_on_level[len(grown.path(n)) - 1]
            tokens = grown.tokens(n)
            pieces.append(Piece([*prompt_ids, *grown.prefix(n)], tokens, grown.logprobs(n), np.full(len(tokens), adv)))
        return pieces, job.counts.generated_tokens

    def text_of(token_ids) -> list[str]:
        return token_texts(tokenizer, token_ids)

    job = PromptRollout(**common, token_texts=text_of, keep_continuations=setting.continuations)
    if setting.partition is not None:
        samples = await job.chain(setting.responses, setting.partition, setting.rollouts)
        adv_ST = [sample.adv_T for sample in samples]
    else:
        samples = await job.group(setting.responses)
        reward_S = np.array([sample.grade.reward for sample in samples])
        adv_S = reward_S - values.leave_one_out(reward_S)
        adv_ST = [np.full(len(sample.completion.token_ids), adv) for adv, sample in zip(adv_S, samples)]
    pieces = []
    for sample, adv_T in zip(samples, adv_ST):
        weight_T = coverage(setting, sample.completion.token_ids, (), text_of) / setting.responses
        completion = sample.completion
        pieces.append(Piece(prompt_ids, completion.token_ids, completion.logprobs, np.asarray(adv_T) * weight_T))
    users = Counter(tuple(s.completion.token_ids[:b]) for s in samples for b in inner_states(s.boundaries))
    for one in job.continuations:
        tokens = one.completion.token_ids
        weight_T = coverage(setting, tokens, one.prefix, text_of) * users[one.prefix] / setting.responses
        pieces.append(Piece([*prompt_ids, *one.prefix], tokens, one.completion.logprobs, one.advantage * weight_T))
    return pieces, job.counts.generated_tokens


def coverage(setting: Setting, tokens: list[int], prefix: tuple[int, ...], text_of) -> np.ndarray:
    """Weights (T,) of the tokens after `prefix`: 1 over the number of samples of the same part of a response.

    A token behind k inner boundaries of its response is sampled once as itself and `rollouts` times from each boundary.
    """
    if not setting.continuations:
        return np.ones(len(tokens))
    path = [*prefix, *tokens]
    inner = inner_states(newline_boundaries(text_of(path)))
    return 1 / (1 + setting.rollouts * np.searchsorted(inner, np.arange(len(prefix), len(path)), side="right"))


def gradient(model, pieces: list[Piece], threshold: float | None) -> np.ndarray:
    """Gradient (D,) of sum_t M_t A_t log pi_t over all pieces."""
    model.zero_grad()
    pieces = sorted(
        (piece for piece in pieces if piece.adv_T.any()), key=lambda piece: len(piece.context) + len(piece.token_T)
    )
    for start in range(0, len(pieces), MICRO_BATCH):
        batch = pieces[start : start + MICRO_BATCH]
        width = max(len(piece.context) + len(piece.token_T) for piece in batch)
        ids, attention = (
            torch.zeros(len(batch), width, dtype=torch.long),
            torch.zeros(len(batch), width, dtype=torch.long),
        )
        adv, old, own = (torch.zeros(len(batch), width - 1) for _ in range(3))
        for row, piece in enumerate(batch):
            first, end = len(piece.context), len(piece.context) + len(piece.token_T)
            ids[row, :end], attention[row, :end] = torch.tensor(piece.context + piece.token_T), 1
            adv[row, first - 1 : end - 1] = torch.from_numpy(piece.adv_T).float()
            old[row, first - 1 : end - 1], own[row, first - 1 : end - 1] = torch.tensor(piece.logp_T), 1
        mask = own.bool() if threshold is None else policy_mask(old, own, threshold)
        logp = model(input_ids=ids, attention_mask=attention).logits[:, :-1].log_softmax(-1)
        logp = logp.gather(-1, ids[:, 1:, None])[..., 0]
        (adv * logp * mask).sum().backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.flatten() for part in parts]).numpy().copy()


def measure(
    model, tokenizer, task, rows: list[dict], setting: Setting, args: argparse.Namespace, max_tokens: int, report
) -> dict:
    """`args.repeats` gradients from `args.prompts` prompts each, no prompt twice in one: their noise, its error, tokens."""
    engine, rng = TorchEngine(model, tokenizer), np.random.default_rng(args.seed)
    torch.manual_seed(args.seed)
    gradient_RD, tokens = [], 0
    for repeat in range(args.repeats):
        chosen = [rows[i] for i in rng.choice(len(rows), args.prompts, replace=False)]

        async def sample_all(chosen: list[dict]) -> list:
            jobs = (sample_prompt(engine, task, row, setting, max_tokens, slot) for slot, row in enumerate(chosen))
            return await asyncio.gather(*jobs)

        sampled = asyncio.run(sample_all(chosen))
        tokens += sum(number for _, number in sampled)
        gradient_RD.append(
            gradient(model, [piece for pieces, _ in sampled for piece in pieces], setting.mask) / args.prompts
        )
        report(repeat + 1)
    gradient_RD = np.stack(gradient_RD).astype(np.float64)
    # Unbiased: each squared deviation from the mean of the *others*, times (R - 1) / R, has the variance as its expectation.
    repeats = len(gradient_RD)
    others_RD = (gradient_RD.sum(0) - gradient_RD) / (repeats - 1)
    variance_R = ((gradient_RD - others_RD) ** 2).sum(1) * (repeats - 1) / repeats
    tokens_per_estimate = tokens / repeats
    # noise_error is a share of the noise; a result's `error` has the unit of its `relative`.
    return {
        "noise": variance_R.mean() * tokens_per_estimate,  # the number of prompts cancels
        "noise_error": variance_R.std(ddof=1) / (variance_R.mean() or 1.0) / np.sqrt(repeats),
        "tokens_per_prompt": tokens_per_estimate / args.prompts,
    }


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES
    )
    parser.add_argument("--task", type=Path, required=True, metavar="DIR", help="made by spo_rlhf.cli.prepare")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="results.json and results.md go there"
    )
    parser.add_argument(
        "--match",
        action="append",
        metavar="TEXT",
        help="only methods with this in their names, and the reference of each group; may be given again",
    )
    parser.add_argument("--prompts", type=int, default=16, metavar="N", help="in an estimate; default: %(default)s")
    parser.add_argument(
        "--repeats", type=int, default=12, metavar="N", help="estimates of a method; default: %(default)s"
    )
    parser.add_argument("--segment-tokens", type=int, default=10, metavar="N", help="of a tree; default: %(default)s")
    parser.add_argument("--intervals", default="1,2,3,5", metavar="A,B", help="between cutpoints; default: %(default)s")
    parser.add_argument(
        "--interval",
        type=int,
        default=3,
        metavar="N",
        help="the one at which responses and rollouts vary; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.error = lambda message: parser.exit(2, f"{PROGRAM}: error: {message}; see --help\n")
    return parser.parse_args(argv)


def table(results: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| method | tokens per prompt | tokens for the same noise, RLOO = 1 |", "|---|---|---|"]
    for name, one in results.items():
        lines.append(f"| {name} | {one['tokens_per_prompt']:.0f} | {one['relative']:.2f} ± {one['error']:.2f} |")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    args, console = parse(sys.argv[1:] if argv is None else argv), Console()
    try:
        run(args, console)
    except UserError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        console.line(f"{PROGRAM}: interrupted")
        return 130
    return 0


def run(args: argparse.Namespace, console: Console) -> None:
    for option, low in (("prompts", 1), ("repeats", 3), ("segment_tokens", 1), ("interval", 1)):
        if getattr(args, option) < low:
            raise UserError(f"--{option.replace('_', '-')} {getattr(args, option)}: must be at least {low}")
    if not all(part.isdecimal() and int(part) for part in args.intervals.split(",")):
        raise UserError(f"--intervals {args.intervals}: must be numbers from 1, with commas between them")
    known = settings(args.segment_tokens, [int(part) for part in args.intervals.split(",")], args.interval)
    for text in args.match or []:
        if not any(text in name for name in known):
            raise UserError(f"--match {text}: not in any name; there are {'; '.join(known)}")
    try:
        prepared = json.loads((args.task / "prepare.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (args.task / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    except OSError:
        raise UserError(
            f"--task {args.task}: no prepare.json and train.jsonl; make it with spo_rlhf.cli.prepare"
        ) from None
    if len(rows) < args.prompts:
        raise UserError(
            f"--task {args.task}: has {len(rows)} problems for training, fewer than --prompts {args.prompts}"
        )
    task = prepare.TASKS[prepared["settings"]["task"]]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(args.task / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.task / "model")
    results: dict[str, dict[str, float]] = {}
    references: dict[float | None, dict[str, float]] = {}  # of each group, by its mask
    told = {name: str(value) for name, value in vars(args).items()}
    args.output.mkdir(parents=True, exist_ok=True)
    chosen = {
        name: setting
        for name, setting in known.items()
        if name in REFERENCES or any(text in name for text in args.match or [""])
    }
    for number, (name, setting) in enumerate(chosen.items(), start=1):
        start = time.monotonic()

        def report(repeat: int, place: str = f"[{number}/{len(chosen)}] {name}", start: float = start) -> None:
            console.status(f"{place}  {repeat}/{args.repeats}  {duration(time.monotonic() - start)}")

        measured = measure(model, tokenizer, task, rows, setting, args, prepared["warm_up"]["max_new_tokens"], report)
        reference = references.setdefault(setting.mask, measured)
        if reference["noise"] == 0:
            raise UserError(f"--task {args.task}: its model is never right, or always: there is no gradient to measure")
        relative = measured["noise"] / reference["noise"]
        both = float(np.hypot(measured["noise_error"], reference["noise_error"]))
        error = 0.0 if measured is reference else relative * both
        results[name] = {**measured, "relative": relative, "error": error, "seconds": time.monotonic() - start}
        console.line(
            f"[{number}/{len(chosen)}] {name}  {relative:.2f} of RLOO's tokens  {duration(results[name]['seconds'])}"
        )
        # After each method: what is measured is kept, whatever ends the command.
        write_json(args.output / "results.json", {"settings": told, "task": prepared, "results": results})
        (args.output / "results.md").write_text("\n".join(table(results)) + "\n", encoding="utf-8")
    for line in table(results):
        console.line(line)
    console.line(f"results: {args.output / 'results.json'}   table: {args.output / 'results.md'}")


if __name__ == "__main__":
    sys.exit(main())
