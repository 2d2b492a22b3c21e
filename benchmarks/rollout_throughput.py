"""How busy rollouts keep the engines: tokens per second of whole prompts, values and grades included, beside two others.

    pipeline  prompts go to the engines of a run, which continue, cut, ask for values and grade on their own (spo_rlhf/rollout)
    offline   vLLM's own `generate` with the very same requests, all known in advance and nothing graded: what can be reached
    staged    the same requests in stages, each waiting for the last one of the stage before, as the official code has it: the
              responses, their log-probs by a forward pass, the continuations (of a tree level by level), the grades

Every request has a seed of its own, so all three sample the same tokens. They take turns on the same machine, each from an
empty prefix cache; ratios are taken within a turn. With two engines the other two have two as well, half of the requests each.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import common
from rollout_engines import LIMIT_S, Asked, Engines, Workload, add_engine_options, check_task, ray_running

from spo_rlhf import cpu, upstream
from spo_rlhf.core.partition import Cutpoint
from spo_rlhf.errors import UserError
from spo_rlhf.host import device
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console
from spo_rlhf.methods.chain import Chain
from spo_rlhf.methods.group import Group
from spo_rlhf.methods.tree import Tree

PROGRAM = "rollout_throughput"
EXAMPLES = """examples:
  python benchmarks/rollout_throughput.py --task-dir runs/quickstart/task --output runs/throughput     # minutes on 2 cores
  python benchmarks/rollout_throughput.py --task-dir runs/quickstart/task --engines 2 --output runs/throughput2
  python benchmarks/rollout_throughput.py --task-dir runs/quickstart/task --quick --output runs/throughput
"""
WAYS = ("pipeline", "offline", "staged")


def workloads(interval: int, segment: int) -> dict[str, Workload]:
    """Group, chain and tree about as the quickstart and the benchmarks have them."""
    return {
        "group 8": Workload(Group(), 8),
        "chain 4 x 4": Workload(Chain(partition=Cutpoint(interval=interval), mc_rollouts=4), 4),
        "tree 4-4-4": Workload(Tree(branching=(4, 4, 4), segment_tokens=(segment, segment)), 1),
    }


class Offline:
    """vLLM's `LLM` in a Ray actor, built as the engine of a run is."""

    def __init__(self, engine_args: dict[str, Any]):
        from transformers import AutoModelForCausalLM
        from vllm import LLM

        self.llm = LLM(**engine_args, disable_log_stats=True)
        self.model_path = engine_args["model"]
        self.policy = AutoModelForCausalLM.from_pretrained(self.model_path).eval()
        self.tokenizer = upstream.get_tokenizer(self.model_path, None, "left")

    def generate(self, asked: Sequence[Asked]) -> list[list[list[int]]]:
        """Token ids of every continuation of every request."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = [
            SamplingParams(
                n=n,
                max_tokens=longest,
                seed=seed,
                logprobs=0 if logprobs else None,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for _, n, longest, seed, logprobs in asked
        ]
        prompts = [TokensPrompt(prompt_token_ids=state) for state, *_ in asked]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return [[list(one.token_ids) for one in output.outputs] for output in outputs]

    def offline(self, asked: Sequence[Asked]) -> tuple[int, float]:
        """Tokens and seconds of all requests at once."""
        self.llm.reset_prefix_cache()
        start = time.monotonic()
        outputs = self.generate(asked)
        return sum(len(ids) for output in outputs for ids in output), time.monotonic() - start

    def staged(self, stages: Sequence[Sequence[Asked]], reward_file: str, labels: dict) -> tuple[int, float]:
        """Tokens and seconds of the stages one after the other, a pass over the first one's responses, and all grades.

        labels: gold answer and prompt by the token ids of the prompt.
        """
        from spo_rlhf.rollout import reward_worker

        reward_worker.load(reward_file)
        self.llm.reset_prefix_cache()
        start, tokens, whole = time.monotonic(), 0, []
        for number, asked in enumerate(stages):
            outputs = self.generate(asked)
            responses = [[*state, *ids] for (state, *_), output in zip(asked, outputs, strict=True) for ids in output]
            tokens += sum(len(ids) for output in outputs for ids in output)
            if number == 0:
                self.log_probs(responses)
            whole += responses
        for response in whole:
            length = prompt_length(response, labels)
            prompt, label = labels[tuple(response[:length])]
            reward_worker.grade(prompt + self.tokenizer.decode(response[length:]), prompt, label)
        return tokens, time.monotonic() - start

    def log_probs(self, responses: Sequence[Sequence[int]], batch: int = 32) -> None:
        """A forward pass of the policy over the responses, by length, in padded batches."""
        import torch

        ordered = sorted(responses, key=len)
        with torch.no_grad():
            for first in range(0, len(ordered), batch):
                rows = ordered[first : first + batch]
                ids = torch.tensor([[*row, *[0] * (len(rows[-1]) - len(row))] for row in rows])
                mask = torch.tensor([[1] * len(row) + [0] * (len(rows[-1]) - len(row)) for row in rows])
                logits = self.policy(input_ids=ids, attention_mask=mask).logits
                logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])


def prompt_length(ids: Sequence[int], prompts: Collection[tuple[int, ...]]) -> int:
    """How many of these tokens are the prompt's. Raises StopIteration where they begin with none."""
    return next(length for length in range(len(ids) + 1) if tuple(ids[:length]) in prompts)


def stages_of(asked: Sequence[Asked], prompts: Collection[tuple[int, ...]], segment: int | None) -> list[list[Asked]]:
    """The requests as stages: those of whole prompts, then the others; of a tree, with segments of this length, by level."""
    stages: dict[int, list[Asked]] = {}
    for one in asked:
        begun = len(one[0]) - prompt_length(one[0], prompts)
        stages.setdefault(begun and (1 if segment is None else math.ceil(begun / segment)), []).append(one)
    return [stages[number] for number in sorted(stages)]


class Bench(Engines):
    """Those and as many offline engines; `turn` measures the three ways once."""

    def __init__(self, args: argparse.Namespace, console: Console):
        super().__init__(args, console)
        offline_args = {**self.engine_args, "max_num_seqs": args.max_num_seqs, "logprobs_mode": "processed_logprobs"}
        offline_args |= cpu.engine_kwargs(args.max_len) if device.is_cpu() else {"gpu_memory_utilization": 0.4}
        actor = self.ray.remote(num_cpus=0, num_gpus=args.gpu_share)(Offline)
        self.offline = [actor.remote(offline_args) for _ in range(args.engines)]

    def recorded(self, work: Workload) -> list[list[Asked]]:
        """What the pipeline asks each engine for, from one run that is not timed."""
        self.ray.get([engine.record.remote(True) for engine in self.engines])
        self.pipeline(work)
        return self.ray.get([engine.record.remote(False) for engine in self.engines])

    def turn(self, work: Workload, asked: list[list[Asked]], order: Sequence[str]) -> dict[str, tuple[int, float]]:
        """Tokens and seconds of each way, in this order; the slowest engine counts."""
        found, prompts = {}, self.labels
        for way in order:
            if way == "pipeline":
                found[way] = self.pipeline(work)
                continue
            if way == "offline":
                refs = [actor.offline.remote(one) for actor, one in zip(self.offline, asked, strict=True)]
            else:
                segment = self.args.segment_tokens if isinstance(work.method, Tree) else None
                refs = [
                    actor.staged.remote(stages_of(one, prompts, segment), self.reward_file, self.labels)
                    for actor, one in zip(self.offline, asked, strict=True)
                ]
            answers = self.ray.get(refs, timeout=LIMIT_S)
            found[way] = (sum(tokens for tokens, _ in answers), max(seconds for _, seconds in answers))
        return found


def measure_workload(bench: Bench, name: str, work: Workload) -> dict[str, Any]:
    """Tokens per second of each way and the pipeline's over the others', over the turns. Raises UserError."""
    asked = bench.recorded(work)
    bench.turn(work, asked, WAYS)  # a turn to warm up
    turns = []
    for repeat in range(bench.args.repeats):
        bench.console.status(f"{name}  turn {repeat + 1} of {bench.args.repeats}")
        turns.append(bench.turn(work, asked, WAYS if repeat % 2 else WAYS[::-1]))
    tokens = {way: sorted({turn[way][0] for turn in turns}) for way in WAYS}
    if device.is_cpu() and len(set(itertools.chain.from_iterable(tokens.values()))) > 1:
        raise UserError(f"{name}: the ways sampled {tokens} tokens, so their speeds cannot be compared")
    speed = {way: [turn[way][0] / turn[way][1] for turn in turns] for way in WAYS}
    return {
        "requests": sum(map(len, asked)),
        "continuations": sum(one[1] for requests in asked for one in requests),
        "tokens": tokens,
        "tokens_per_second": {way: common.spread(values) for way, values in speed.items()},
        "over": {
            other: common.spread([mine / its for mine, its in zip(speed["pipeline"], speed[other], strict=True)])
            for other in WAYS[1:]
        },
    }


def table(results: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in results.items():
        speed, tokens = one["tokens_per_second"]["pipeline"]["median"], one["tokens"]["pipeline"][0]
        over = map(common.spread_text, one["over"].values())
        rows.append((name, str(one["requests"]), str(tokens), f"{speed:.0f}", *over))
    return common.markdown("workload | requests | tokens | pipeline, tokens/s | over offline | over staged", rows)


def picture(results: dict[str, Any], path: Path) -> None:
    plt = common.pyplot()
    import numpy as np

    figure, axes = plt.subplots(figsize=(2 + 1.5 * len(results), 3.4), layout="constrained")
    for place, way in enumerate(WAYS):
        one = [result["tokens_per_second"][way] for result in results.values()]
        middle = np.array([value["median"] for value in one])
        error = [middle - [value["min"] for value in one], [value["max"] for value in one] - middle]
        axes.bar(np.arange(len(one)) + 0.27 * place, middle, 0.25, yerr=error, capsize=2, label=way)
    axes.set_xticks(np.arange(len(results)) + 0.27, list(results))
    axes.set_ylabel("sampled tokens a second")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def measure(args: argparse.Namespace, console: Console) -> None:
    """Every workload in turn, results after each. Raises UserError."""
    check_task(args.task_dir)
    if args.quick:
        args.prompts, args.repeats = 8, 2
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    with ray_running(args):
        console.status("engines start")
        bench = Bench(args, console)
        for name, work in workloads(args.interval, args.segment_tokens).items():
            if args.only and not name.startswith(args.only):
                continue
            results[name] = one = measure_workload(bench, name, work)
            over = one["over"]
            console.line(
                f"{name}  {one['tokens_per_second']['pipeline']['median']:.0f} tokens/s, "
                f"{over['offline']['median']:.2f} of offline, {over['staged']['median']:.2f} x staged"
            )
            common.write_results(args.output, args, table(results), results=results)
        picture(results, args.output / "throughput.png")
    console.line(common.where(args.output, picture="throughput.png"))


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    add = parser.add_argument
    common.add_output(parser)
    add_engine_options(parser, prompts=64, max_len=160)
    add("--engines", type=int, default=1, metavar="N", help="of the pipeline; the other ways have as many (default: 1)")
    add("--interval", type=int, default=5, metavar="N", help="cutpoints in a segment of the chain (default: 5)")
    add("--segment-tokens", type=int, default=16, metavar="N", help="of a level of the tree (default: 16)")
    add("--repeats", type=int, default=5, metavar="N", help="turns that are counted (default: 5)")
    add("--only", metavar="NAME", help="one workload: group, chain or tree")
    add("--quick", action="store_true", help="8 prompts, 2 turns: two minutes")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 1 where the stack fails, 2 for wrong usage, 130 when interrupted."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
