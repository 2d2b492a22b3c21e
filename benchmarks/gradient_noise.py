"""How many tokens a method needs for a policy gradient as precise as RLOO's, at one policy, without training.

Every method estimates the gradient of the same model again and again from fresh prompts, with this project's samplers,
partitions, values and advantages (pure PyTorch, no Ray). The variance of the estimates, summed over all parameters, times
the tokens sampled for them, in units of RLOO's, is the number in the table: 0.5 means half the tokens for the same noise.

The methods of a group have one expected gradient: without the mask the exact one, with that by the state its share of the
states that hesitate, with that by the sampled token nearly one (a baseline moves it, see docs/credit.md; cutpoints deviate a
little, see core/partition.py). For that, nodes of a tree and continuations are weighed here by the
number of samples that cover the same part of a response, while training weighs them alike.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from diagnosed import Diagnosed, diagnosed
from estimates import Setting, Subject, gradient, sample_prompts
from torch_engine import TorchEngine

from spo_rlhf.core.partition import PROB_THRESHOLD, Cutpoint, Fixed, Newline
from spo_rlhf.core.tree import TreeShape
from spo_rlhf.core.tree_baselines import Shrunk
from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import add_number, whole
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import read_json, read_jsonl
from spo_rlhf.tasks.registry import TASKS

PROGRAM = "gradient_noise"
REFERENCES = ("rloo, 8 responses", "rloo, 8 responses, mask", "rloo, 8 responses, state mask")
FEATURES = 64  # of a hidden state, --spo.probe_features' default
KNOWN = 8  # outcomes of a prompt that a history holds
EXAMPLES = """examples:
  python -m spo_rlhf.cli.prepare --output runs/short/task --min-steps 2 --max-steps 4
  python benchmarks/gradient_noise.py --task runs/short/task --output runs/short/gradients
  python benchmarks/gradient_noise.py --task runs/short/task --match cutpoint --repeats 8 --output runs/short/few
  python benchmarks/gradient_noise.py --task runs/short/task --diagnosis runs/short/diagnosis/diagnosis.json --repeats 24 --output runs/short/told
"""


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
    credit = credit_settings(segment_tokens, interval)
    return {
        **unmasked,
        **credit,
        **{name: replace(setting, mask=PROB_THRESHOLD) for name, setting in masked.items()},
        **{f"{name}, mask": replace(one, mask=PROB_THRESHOLD) for name, one in credit.items()},
        "rloo, 8 responses, state mask": replace(Setting(), mask=PROB_THRESHOLD, by_state=True),
        **{f"{name}, state mask": replace(one, mask=PROB_THRESHOLD, by_state=True) for name, one in credit.items()},
    }


def credit_settings(segment_tokens: int, interval: int) -> dict[str, Setting]:
    """Baselines that know the prompt, and trees of two levels, cut where half of a response is over."""
    half = (segment_tokens * 3 // 2,)

    def tree(*branching: int, **more: Any) -> Setting:
        return Setting(tree=TreeShape(branching, half), advantage=Shrunk(branching=branching), **more)

    return {
        "rloo, 1 response, history": Setting(responses=1, history=KNOWN),
        "rloo, 2 responses, history": Setting(responses=2, history=KNOWN),
        "rloo, 4 responses, history": Setting(responses=4, history=KNOWN),
        f"cutpoint {interval}, 2 x 2, history": Setting(
            responses=2, rollouts=2, partition=Cutpoint(interval=interval), history=KNOWN
        ),
        "tree 4-2, loo": Setting(tree=TreeShape((4, 2), half)),
        "tree 4-2, shrunk": tree(4, 2),
        "tree 8-2, shrunk": tree(8, 2),
        "tree 1-2, shrunk, history": tree(1, 2, history=KNOWN),
        "tree 2-2, shrunk, history": tree(2, 2, history=KNOWN),
        "probe (newline), 4 responses": Setting(responses=4, partition=Newline(), probe=FEATURES),
        "probe (newline), 8 responses": Setting(responses=8, partition=Newline(), probe=FEATURES),
        "probe (newline), 1 response, history": Setting(1, None, Newline(), history=KNOWN, probe=FEATURES),
        "probe (newline), 2 responses, history": Setting(2, None, Newline(), history=KNOWN, probe=FEATURES),
    }


def measure_setting(
    subject: Subject, setting: Setting, args: argparse.Namespace, report: Callable[[int], None]
) -> dict[str, float]:
    """`args.repeats` gradients from `args.prompts` prompts each, no prompt twice in one: their noise, its error, tokens.

    report: called with the number of gradients so far.
    """
    engine, rng = TorchEngine(subject.model, subject.tokenizer, setting.by_state), np.random.default_rng(args.seed)
    torch.manual_seed(args.seed)
    gradient_RD, tokens = [], 0
    for repeat in range(args.repeats):
        chosen = [subject.rows[i] for i in rng.choice(len(subject.rows), args.prompts, replace=False)]
        pieces, sampled = asyncio.run(sample_prompts(engine, subject, chosen, setting))
        tokens += sampled
        gradient_RD.append(gradient(subject.model, pieces, setting.mask) / args.prompts)
        report(repeat + 1)
    mean, error = variance(np.stack(gradient_RD).astype(np.float64))
    tokens_per_estimate = tokens / args.repeats
    # noise_error is a share of the noise; a result's `error` has the unit of its `relative`.
    return {
        "noise": mean * tokens_per_estimate,  # the number of prompts cancels
        "noise_error": error,
        "tokens_per_prompt": tokens_per_estimate / args.prompts,
    }


def variance(gradient_RD: np.ndarray) -> tuple[float, float]:
    """Variance of R estimates summed over the D parameters, and its standard error as a share of it.

    Unbiased: each squared deviation from the mean of the *others*, times (R - 1) / R, has the variance as its expectation.
    """
    repeats = len(gradient_RD)
    others_RD = (gradient_RD.sum(0) - gradient_RD) / (repeats - 1)
    variance_R = ((gradient_RD - others_RD) ** 2).sum(1) * (repeats - 1) / repeats
    mean = float(variance_R.mean())
    return mean, float(variance_R.std(ddof=1) / (mean or 1.0) / np.sqrt(repeats))


def numbers(text: str) -> list[int]:
    """Type of an option that lists whole numbers from 1, with commas between them."""
    return [whole(1)(part) for part in text.split(",")]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """--task, which `load` reads, and --output."""
    parser.add_argument("--task", type=Path, required=True, metavar="DIR", help="made by spo_rlhf.cli.prepare")
    common.add_output(parser, "results.json and results.md go there")


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add_folders(parser)
    match = (
        "only the method of this name, or those with this in their names, and RLOO of the same mask; may be given again"
    )
    parser.add_argument("--match", action="append", default=[], metavar="TEXT", help=match)

    told = "of spo-diagnose: what it chose is measured beside what it predicted, and nothing else without --match"
    parser.add_argument("--diagnosis", type=Path, metavar="FILE", help=told)

    add = parser.add_argument
    add_number(add, "--prompts", 1, 16, "in an estimate")
    add_number(add, "--repeats", 3, 12, "estimates of a method")
    add_number(add, "--segment-tokens", 1, 10, "of a tree")
    between = "between cutpoints, with commas between the numbers; default: %(default)s"
    add("--intervals", type=numbers, default="1,2,3,5", metavar="N", help=between)
    add_number(add, "--interval", 1, 3, "the one at which responses and rollouts vary")
    add_number(add, "--seed", 0, 0, "of the prompts and the responses")
    return parser


def chosen_settings(args: argparse.Namespace) -> dict[str, Setting]:
    """What is measured, the references first. Raises UserError for a --match that no name has."""
    known = settings(args.segment_tokens, args.intervals, args.interval)
    for text in args.match:
        if not any(text in name for name in known):
            raise UserError(f"--match {text}: not in any name; there are {'; '.join(known)}")
    if args.diagnosis and not args.match:
        return {REFERENCES[0]: known[REFERENCES[0]]}
    matched = {
        name: setting
        for name, setting in known.items()
        if any(name == text or (text not in known and text in name) for text in args.match or [""])
    }
    groups = {(setting.mask, setting.by_state) for setting in matched.values()}
    references = {name: known[name] for name in REFERENCES if (known[name].mask, known[name].by_state) in groups}
    return {**references, **matched}


def load(folder: Path, prompts: int) -> tuple[Subject, dict[str, Any]]:
    """A folder of spo_rlhf.cli.prepare, and its record. Raises UserError where it is none, or has fewer problems."""
    if not (folder / "prepare.json").exists() or not (folder / "train.jsonl").exists():
        raise UserError(f"--task {folder}: no prepare.json and train.jsonl; make it with spo_rlhf.cli.prepare")
    prepared, rows = read_json(folder / "prepare.json"), list(read_jsonl(folder / "train.jsonl"))
    if len(rows) < prompts:
        raise UserError(f"--task {folder}: has {len(rows)} problems for training, fewer than --prompts {prompts}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    task = TASKS[prepared["settings"]["task"]]
    return Subject(model, tokenizer, task, rows, prepared["warm_up"]["max_new_tokens"]), prepared


def relative_to(reference: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
    """The noise in units of the reference's, and its standard error."""
    relative = measured["noise"] / reference["noise"]
    both = float(np.hypot(measured["noise_error"], reference["noise_error"]))
    return {"relative": relative, "error": 0.0 if measured is reference else relative * both}


def table(results: dict[str, dict[str, float]], told: dict[str, Diagnosed]) -> list[str]:
    """`told`: what a diagnosis predicted of some, a column of its own."""
    head = "method | tokens per prompt | tokens for the same noise, RLOO = 1" + (" | predicted" if told else "")
    rows = []
    for name, one in results.items():
        cells = [name, f"{one['tokens_per_prompt']:.0f}", f"{one['relative']:.2f} ± {one['error']:.2f}"]
        if told:
            cells.append(told[name].price_text if name in told else "")
        rows.append(cells)
    return common.markdown(head, rows)


def measure(args: argparse.Namespace, console: Console) -> None:
    """Every setting in turn, results after each. Raises UserError."""
    told = diagnosed(args.diagnosis) if args.diagnosis else {}
    chosen = {**chosen_settings(args), **{name: one.setting for name, one in told.items()}}
    subject, prepared = load(args.task, args.prompts)
    results: dict[str, dict[str, float]] = {}
    references: dict[tuple[float | None, bool], dict[str, float]] = {}  # of each group, by its mask
    for number, (name, setting) in enumerate(chosen.items(), start=1):
        start, label = time.monotonic(), f"[{number}/{len(chosen)}] {name}"

        def report(repeat: int, start: float = start, label: str = label) -> None:
            console.status(f"{label}  {repeat}/{args.repeats}  {duration(time.monotonic() - start)}")

        measured = measure_setting(subject, setting, args, report)
        reference = references.setdefault((setting.mask, setting.by_state), measured)
        if reference["noise"] == 0:
            raise UserError(f"--task {args.task}: its model is never right, or always: there is no gradient to measure")
        seconds = time.monotonic() - start
        results[name] = {**measured, **relative_to(reference, measured), "seconds": seconds}
        if name in told:
            results[name] |= {f"predicted{end}": getattr(told[name], f"price{end}") for end in ("", "_low", "_high")}
        console.line(f"{label}  {results[name]['relative']:.2f} of RLOO's tokens  {duration(seconds)}")
        # After each method: what is measured is kept, whatever ends the command.
        common.write_results(args.output, args, table(results, told), task=prepared, results=results)
    for line in table(results, told):
        console.line(line)
    console.line(common.where(args.output, table="results.md"))


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
