"""`spo-report`: what a run, or several, did: curves, health warnings, settings, from the run's own files."""

import argparse
import json
import sys
from pathlib import Path

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.host.files import replace_text
from spo_rlhf.insight.report import Report, as_data, as_html, as_markdown, report
from spo_rlhf.insight.runs import load

PROGRAM = "spo-report"
FORMS = {
    "md": as_markdown,
    "html": as_html,
    "json": lambda made: json.dumps(as_data(made), indent=1, default=str, allow_nan=False) + "\n",
}
EXAMPLES = """examples:
  spo-report runs/quickstart/train                                # report.html, .md and .json in that folder
  spo-report runs/seed1 runs/seed2 runs/seed3 --output all/chain  # bands over seeds; all/chain.html, ...
  spo-report runs/chain runs/grpo --format md --output -          # methods beside each other, on the terminal

Runs that differ in --train.seed and their folders alone are one line with a band. docs/metrics.md tells the numbers and the
health rules, docs/rollouts.md what is kept of the rollouts.
"""


def forms(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    if wrong := [name for name in names if name not in FORMS]:
        raise argparse.ArgumentTypeError(f"unknown format {wrong[0]!r}: choose from {', '.join(FORMS)}")
    return names


def build_parser() -> argparse.ArgumentParser:
    description = "Report of one or several runs, from their own files; also while they run."
    parser = command_line(PROGRAM, description, EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders (--spo.run_dir)")
    parser.add_argument(
        "--output", metavar="PATH", help="without ending; - for standard output (default: report in the one RUN)"
    )
    parser.add_argument(
        "--format", type=forms, default=list(FORMS), metavar="F,..", help=f"of {', '.join(FORMS)} (default: all)"
    )
    return parser


def write(made: Report, output: str, formats: list[str]) -> list[Path]:
    """A file for each format; their paths."""
    paths = [Path(f"{output}.{name}") for name in formats]
    for path, name in zip(paths, formats, strict=True):
        replace_text(path, FORMS[name](made))
    return paths


def run(argv: list[str] | None) -> None:
    """Raises UserError."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.output is None and len(args.runs) > 1:
        parser.error("several RUNs need --output PATH")
    if args.output == "-" and len(args.format) != 1:
        parser.error("--output - takes one --format")
    places = [Path(one).resolve() for one in args.runs]
    if twice := [one for one, place in zip(args.runs, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"{twice[-1]}: named twice")
    made = report([load(folder) for folder in args.runs])
    for told in (told for one in made.runs for told in one.broken):
        print(told, file=sys.stderr)
    if args.output == "-":
        sys.stdout.write(FORMS[args.format[0]](made))
        return
    paths = write(made, args.output or str(Path(args.runs[0]) / "report"), args.format)
    for one in made.warnings:
        print(f"{one.run}: {one.text}")
    print(f"report: {'   '.join(map(str, paths))}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 130 when interrupted."""
    return run_command(PROGRAM, lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
