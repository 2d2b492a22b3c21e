"""What the benchmarks share: where the checkout is, how a command ends, results.json.

A benchmark is a file of this folder, run as `python benchmarks/NAME.py`. It imports `common` before anything of
`spo_rlhf`, and ends with ``sys.exit(main())``, where

    def main(argv: list[str] | None = None) -> int:
        console = Console()
        return run_command(PROGRAM, lambda: measure(build_parser().parse_args(argv), console), say=console.line)

`measure` raises UserError for what a user can mend, and calls `write_results`.
"""

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What is measured is this checkout, whether it is installed, another one is, or none.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from spo_rlhf.host.files import replace_text, write_json

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("openrlhf", "ray", "deepspeed", "torch", "transformers")


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
