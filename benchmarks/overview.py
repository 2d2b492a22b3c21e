"""One table of what the benchmarks below a folder have found: measure, ours, peer, limit, ratio.

Each benchmark's results.json lies in the folder of its name, as run_all.sh leaves it; what is not there is left out. Ratios are
taken side by side in one run and are better when larger: `x peer` is how many times as good as the peer, `of limit` how near to what can be
reached. Peer and limit are named in PEERS.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import report

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import read_json, replace_text, write_json

PROGRAM = "overview"
EXAMPLES = """examples:
  bash benchmarks/run_all.sh                          # makes runs/benchmarks and this table of it
  python benchmarks/overview.py runs/benchmarks       # the table again
"""
#: Of each benchmark, who the peer is and what the limit.
PEERS = {
    "rollout_throughput": ("the staged way of the official code", "vLLM's generate, all requests known"),
    "step_breakdown": (
        "the synchronous step",
        "its phases alone; asynchronous: the longer of sampling and training, and weights",
    ),
    "cost_growth": ("-", "growth of the sampled tokens"),
    "tree_training": ("one sample per node", "distinct tokens alone"),
    "gradient_noise": ("RLOO, 8 responses", "-"),
    "learning_curves": ("GRPO at equal tokens", "-"),
    "soak": ("-", "every check"),
}


@dataclass(frozen=True)
class Row:
    """One line. over_peer, over_limit: better when larger; None where there is none."""

    benchmark: str
    measure: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    over_peer: float | None = None
    over_limit: float | None = None

    def cells(self) -> list[str]:
        ratios = [("{:.2f} x peer", self.over_peer), ("{:.2f} of limit", self.over_limit)]
        told = ", ".join(text.format(value) for text, value in ratios if value is not None) or "-"
        numbers = ["-" if value is None else f"{value:.4g}" for value in (self.ours, self.peer, self.limit)]
        return [self.benchmark, self.measure, *numbers, told]


def rollout_throughput(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found["results"].items():
        speed = {way: value["median"] for way, value in one["tokens_per_second"].items()}
        over = {way: value["median"] for way, value in one["over"].items()}
        ours, peer, limit = (speed[way] for way in ("pipeline", "staged", "offline"))
        yield Row("rollout_throughput", f"{name}, tokens/s", ours, peer, limit, over["staged"], over["offline"])


def step_breakdown(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found["results"].items():
        step = one["synchronous"]
        phases = {phase: value["median"] for phase, value in step["phases"].items()}
        seconds = step["seconds"]["median"]
        alone = seconds - max(0.0, phases["rest"])
        yield Row("step_breakdown", f"{name}, s a step", seconds, limit=alone, over_limit=alone / seconds)
        if over := one.get("asynchronous over synchronous"):
            ours, peer = (one[way]["tokens_per_second"]["median"] for way in ("asynchronous", "synchronous"))
            actor = phases["timing/make_experience"] + phases["timing/ppo_train"]
            limit = peer * seconds / (max(phases["timing/generation"], actor) + phases["timing/broadcast"])
            yield Row(
                "step_breakdown", f"{name} asynchronous, tokens/s", ours, peer, limit, over["median"], ours / limit
            )


def cost_growth(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found["results"].items():
        seconds, tokens = (one["intervals"][measure]["mean"] for measure in ("seconds", "tokens"))
        yield Row("cost_growth", f"{name} doubled, exponent of seconds", seconds, limit=tokens)


def tree_training(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found["results"].items():
        packed, node = (one["seconds"][layout]["median"] for layout in ("packed", "node"))
        over = one["over_node"]
        limit = node / over["ideal"]
        yield Row("tree_training", f"{name}, s", packed, node, limit, over["median"], over["reached"])


def gradient_noise(found: dict[str, Any]) -> Iterator[Row]:
    for name, one in found["results"].items():
        if one["error"]:  # but the references
            yield Row(
                "gradient_noise", f"{name}, tokens for equal noise", one["relative"], 1.0, over_peer=1 / one["relative"]
            )


def learning_curves(found: dict[str, Any]) -> Iterator[Row]:
    for task, methods in report.by_method(found["runs"]).items():
        peers = methods.get("grpo", [])
        for method, runs in methods.items():
            pairs = [(one, other) for one in runs for other in peers if one["seed"] == other["seed"]]
            if method == "grpo" or not pairs:
                continue
            tokens = min(run["accuracy"][-1]["tokens"] for pair in pairs for run in pair)
            ours, peer = (
                sum(report.at(pair[side], "tokens", tokens) for pair in pairs) / len(pairs) for side in (0, 1)
            )
            measure = f"{method}, {task}, held-out accuracy ({len(pairs)} seed{'s' * (len(pairs) > 1)})"
            yield Row("learning_curves", measure, ours, peer, over_peer=ours / peer if peer else None)


def soak(found: dict[str, Any]) -> Iterator[Row]:
    held, of = sum(check["held"] for check in found["checks"]), len(found["checks"])
    yield Row("soak", "checks that held", held, limit=of, over_limit=held / of)


READERS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    reader.__name__: reader
    for reader in (
        rollout_throughput,
        step_breakdown,
        cost_growth,
        tree_training,
        gradient_noise,
        learning_curves,
        soak,
    )
}


def rows_of(folder: Path) -> list[Row]:
    """Of every benchmark that has results there. Raises UserError for results that are none of theirs."""
    rows = []
    for name, reader in READERS.items():
        path = folder / name / "results.json"
        if path.exists():
            try:
                rows += list(reader(read_json(path)))
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                raise UserError(f"{path}: not the results of {name} ({type(error).__name__}: {error})") from None
    return rows


def table(rows: list[Row]) -> list[str]:
    """Markdown: the rows, and of each benchmark who the peer is and what the limit."""
    lines = common.markdown("benchmark | measure | ours | peer | limit | ratio", (row.cells() for row in rows))
    named = dict.fromkeys(row.benchmark for row in rows)
    return [*lines, "", *(f"{name}: peer: {PEERS[name][0]}; limit: {PEERS[name][1]}" for name in named)]


def measure(args: argparse.Namespace, console: Console) -> None:
    """Print the table, and write overview.json and overview.md beside the results. Raises UserError."""
    rows = rows_of(args.folder)
    if not rows:
        raise UserError(
            f"{args.folder}: no results of {', '.join(READERS)} there; bash benchmarks/run_all.sh makes them"
        )
    lines = table(rows)
    write_json(args.folder / "overview.json", {"machine": common.machine(), "rows": [asdict(row) for row in rows]})
    replace_text(args.folder / "overview.md", "\n".join(lines) + "\n")
    for line in (*lines, f"table: {args.folder / 'overview.md'}   {args.folder / 'overview.json'}"):
        console.line(line)


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="DIR", help="with a folder of each benchmark")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage."""
    return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))


if __name__ == "__main__":
    sys.exit(main())
