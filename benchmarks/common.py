"""What the benchmarks share: where the checkout is, how a command ends, results.json, tables, pictures.

A benchmark is a file of this folder, run as `python benchmarks/NAME.py`. It imports `common` before anything of
`spo_rlhf`, and ends with ``sys.exit(main())``, where

    def main(argv: list[str] | None = None) -> int:
        return common.run(PROGRAM, lambda console: measure(build_parser().parse_args(argv), console))

`measure` raises UserError for what a user can mend, and calls `write_results`.
"""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What is measured is this checkout, whether it is installed, another one is, or none.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from spo_rlhf.host.command import run_command
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import replace_text, write_json

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("openrlhf", "ray", "deepspeed", "torch", "transformers")


def run(program: str, command: Callable[[Console], int | None], *, kept: str | None = None) -> int:
    """Exit status of a benchmark, as `run_command` has it. kept: what a command that was interrupted need not do again."""
    console = Console()
    said = "interrupted" + (f"; {kept} are kept, the same command goes on" if kept else "")
    return run_command(program, lambda: command(console), interrupted=said, say=console.line)


def add_output(parser: argparse.ArgumentParser, help: str = "where results and picture go") -> None:
    """--output, which has to be given."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=help)


def names_of(choices: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Type of an option that is a list of these names, such as group,tree."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if wrong := [name for name in names if name not in choices]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(choices)}")
        return names

    return parse


def machine() -> dict[str, Any]:
    """What a reader of timings wants to know: cores, processor, versions; None for a package that is not installed."""
    facts: dict[str, Any] = {"cores": os.cpu_count(), "processor": platform.machine()}
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def write_results(output: Path, args: argparse.Namespace, lines: list[str], **results: Any) -> None:
    """results.json (the options, the machine and `results`) and results.md (`lines`) in `output`, each whole or not at all."""
    settings = {name: str(value) for name, value in vars(args).items() if name != "output"}
    write_json(output / "results.json", {"settings": settings, "machine": machine(), **results})
    replace_text(output / "results.md", "\n".join(lines).rstrip("\n") + "\n")


def portable(command: list[str], output: Path) -> list[str]:
    """The command without this machine's folders: what a reader of the results can repeat."""
    parts = ["python" if part == sys.executable else part for part in command]
    return [part.replace(f"{output}/", "OUTPUT/").replace(f"{ROOT}/", "") for part in parts]


def where(output: Path, **more: str) -> str:
    """The line that says where the results are; more: other files, as picture="growth.png"."""
    return "   ".join(f"{what}: {output / name}" for what, name in {"results": "results.json", **more}.items())


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread_text(one: dict[str, float]) -> str:
    return f"{one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})"


def markdown(head: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a table. head: names of its columns with ` | ` between them; rows: their cells."""
    return [f"| {head} |", "|---" * (head.count(" | ") + 1) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def pyplot() -> Any:
    """matplotlib.pyplot, imported where pictures are drawn, for files alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
