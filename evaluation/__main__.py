"""`spo-eval`, or `python -m evaluation`: run, report, grade, regrade, export."""

import argparse
import functools
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from evaluation import grading, report
from evaluation.export import run_export
from evaluation.settings import DTYPES, RunOptions, RunSettings, from_arguments
from spo_rlhf import plugins
from spo_rlhf.core.seeds import LARGEST_SEED
from spo_rlhf.graders.kinds import KINDS
from spo_rlhf.graders.verdict import MODES
from spo_rlhf.host.arguments import names, share, temperature, whole, whole_numbers
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.tasks.prompts import PROMPTS
from spo_rlhf.tasks.registry import TASKS

PRESETS = {
    # How the long-context table of the paper was made; the budget is "total" there as it is by default.
    "spo-paper": {
        "tasks": "math500,aime24",
        "contexts": "2048,4096,32768",
        "samples": 1,
        "temperature": 0.6,
        "top_p": 0.95,
        "seed": 1234,
        "prompt": "open-r1",
        "chat_template": "auto",
        "budget": "total",
        "dtype": "bfloat16",
        "gpu_memory_utilization": 0.8,
    },
}


EXAMPLES = """\
examples:
  spo-eval run --model MODEL --tasks math500,aime24 --contexts 2048,4096,32768 --output runs/eval/mine
  spo-eval run --model MODEL --preset spo-paper --output runs/eval/mine        # as the paper's Table 1 was made
  spo-eval run --model MODEL --tasks mine=problems.jsonl --contexts 4096 --output runs/eval/mine
  spo-eval report runs/eval/mine runs/eval/base --format md,html,png,json
  spo-eval export runs/eval/mine            # logs for `inspect view`
  spo-eval grade --gold 1/2 --pred 'so it is \\boxed{0.5}'
  spo-eval grade --file answers.jsonl --output graded.jsonl
"""


def build_parser(preset: str | None = None) -> argparse.ArgumentParser:
    """The command line; a preset's values become the defaults of `run`. Its errors are UserError."""
    description = "Accuracy at every context length from one pass, with graders that can be trusted."
    parser = command_line("spo-eval", description, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands).set_defaults(**PRESETS.get(preset or "", {}))
    _add_report(commands)
    _add_grade(commands)
    _add_regrade(commands)
    sub = commands.add_parser("export", help="logs in Inspect's format, for `inspect view` and other readers")
    sub.add_argument("folder", type=Path, metavar="DIR", help="output folder of a finished run")
    sub.add_argument("--output", type=Path, metavar="DIR", help="folder for the logs (default: inspect/ in the run's)")
    return parser


def _add_report(commands: "argparse._SubParsersAction[Any]") -> None:
    sub = commands.add_parser("report", help="tables, comparisons and the curve of finished runs")
    sub.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="output folder of a finished run")
    sub.add_argument("--format", default="md", help=f"comma-separated: {', '.join(report.FORMATS)} (default: md)")
    sub.add_argument("--output", type=Path, metavar="DIR", help="folder for the files (default: the first DIR)")
    sub.add_argument("--paper", action="store_true", help="show the paper's Table 1 beside the numbers")


def _add_grade(commands: "argparse._SubParsersAction[Any]") -> None:
    sub = commands.add_parser("grade", help="grade answers: a JSONL file, or one pair")
    add = sub.add_argument
    add("--file", type=Path, metavar="IN.jsonl", help='"gold", "pred" (a full model output), optionally "problem"')
    add("--output", type=Path, metavar="OUT.jsonl", help="the same rows with correct, extracted and reason")
    add("--gold", help="the right answer of one pair")
    add("--pred", help="the model's output of one pair")
    add("--problem", help="the problem of one pair, to refuse answers copied from it")
    add("--mode", choices=MODES, default="strict", help="(default: %(default)s)")
    kinds = f"{', '.join(KINDS)}, or auto, as the right answer looks"
    add("--kind", default=grading.AUTO, metavar="K", help=f"of the answers: {kinds} (default: %(default)s)")
    _add_workers(sub)


def _add_regrade(commands: "argparse._SubParsersAction[Any]") -> None:
    sub = commands.add_parser("regrade", help="grade stored samples again and rewrite the results; needs no GPU")
    sub.add_argument("folder", type=Path, metavar="DIR", help="output folder of a finished run")
    _add_workers(sub)


def _add_workers(sub: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """What every command that grades takes."""
    sub.add_argument(
        "--workers",
        dest="grade_workers",
        type=whole(1),
        metavar="N",
        help="grading processes (default: one less than the cores)",
    )
    sub.add_argument(
        "--plugin",
        action="append",
        metavar="FILE.py",
        help="adds tasks, prompts or answer kinds of your own; may be repeated",
    )


def _add_run(commands: "argparse._SubParsersAction[Any]") -> argparse.ArgumentParser:
    sub = commands.add_parser(
        "run",
        help="sample and grade; run the same command again to continue a stopped run",
        description="Sample and grade. The same command continues a stopped run; with more --samples or other problems "
        "it samples what is missing, and grades again where a right answer has changed. Samples of other weights, "
        "prompts or settings are refused.",
    )
    add = sub.add_argument_group("what to evaluate").add_argument
    add("--model", required=True, help="folder or name of a Hugging Face model")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for results.json and samples/")
    add("--fresh", action="store_true", help="move samples that are of something else to DIR/before-N, and sample anew")
    add("--preset", choices=sorted(PRESETS), help="set everything as a published run did; other flags still win")
    add("--tasks", type=names, default=("math500",), help=f"comma-separated: {', '.join(TASKS)}, or NAME=PATH.jsonl")
    add(
        "--data-dir", type=Path, metavar="DIR", help="folder with the tasks' JSONL files (default: the hub's data sets)"
    )
    add("--limit", type=whole(1), metavar="N", help="first problems of each task only")
    _add_lengths_and_sampling(sub)
    add = sub.add_argument_group("prompt").add_argument
    add("--prompt", help=f"{', '.join(PROMPTS)}, or a file with {{problem}} in it (default: the task's own)")
    add("--system", metavar="TEXT", help="system message; needs a chat template")
    templates = (
        "model (the model's own), none, a Jinja file, or auto: the model's own where the prompt is one for chats, as "
        f"{', '.join(name for name, prompt in PROMPTS.items() if prompt.chat)}, and none with the others; a task's own "
        "prompt does without one where the model has none"
    )
    add("--chat-template", default=RunSettings.chat_template, metavar="T", help=f"{templates} (default: %(default)s)")
    add("--few-shot", type=whole(0), default=RunSettings.few_shot, metavar="K", help="K solved examples first")
    add("--few-shot-file", metavar="FILE", help='JSONL with "problem" and "solution"')
    _add_engine(sub)
    return sub


def _add_lengths_and_sampling(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument_group("lengths").add_argument
    add("--contexts", type=whole_numbers, default=(32768,), metavar="N,N", help="limits in tokens (default: 32768)")
    budget = "a limit counts the prompt (total) or not (default: %(default)s)"
    add("--budget", choices=("total", "response"), default=RunSettings.budget, help=budget)
    add("--separate-contexts", action="store_true", help="sample once per context, cut nothing")
    add("--no-curve", dest="curve", action="store_false", help="grade at --contexts only, not between them")
    add = sub.add_argument_group("sampling").add_argument
    own = "responses per problem (default: the task's own, 16 where it has 30 or 40 problems, else 1)"
    add("--samples", type=whole(1), metavar="N", help=own)
    for name, kind, letter, meaning in (
        ("temperature", temperature, "T", ""),
        ("top_p", share, "P", ""),
        ("seed", whole(0, LARGEST_SEED), "N", ""),
    ):
        flag, default = f"--{name.replace('_', '-')}", getattr(RunSettings, name)
        add(flag, type=kind, default=default, metavar=letter, help=f"{meaning}(default: %(default)s)")


def _add_engine(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("engine")
    add = group.add_argument
    add(
        "--dtype",
        default=RunSettings.dtype,
        choices=DTYPES,
        help="weights' type in vLLM (without a GPU always float32)",
    )
    engines = "engines, one per GPU (or per --tensor-parallel GPUs), through Ray (default: %(default)s)"
    add("--data-parallel", type=whole(1), default=RunOptions.data_parallel, metavar="N", help=engines)
    gpus = "GPUs per engine (default: %(default)s)"
    add("--tensor-parallel", type=whole(1), default=RunOptions.tensor_parallel, metavar="N", help=gpus)
    memory = RunOptions.gpu_memory_utilization
    add("--gpu-memory-utilization", type=share, default=memory, metavar="SHARE", help="(default: %(default)s)")
    add("--eager", action="store_true", help="no CUDA graphs: on a GPU a short run starts sooner")
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    _add_workers(group)
    add("--quiet", action="store_true", help="no progress bar")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; flags given beside a preset win over it. Raises UserError."""
    args = build_parser().parse_args(argv)
    return build_parser(args.preset).parse_args(argv) if getattr(args, "preset", None) else args


def run_run(args: argparse.Namespace) -> None:
    from evaluation.run import run

    options = from_arguments(RunOptions, args)
    run(from_arguments(RunSettings, args), options)
    print(report.markdown(report.load_runs([options.output]), paper=args.preset == "spo-paper"))


def run_regrade(args: argparse.Namespace) -> None:
    from evaluation.stored import regrade

    changed, total = regrade(args.folder, args.grade_workers)
    print(f"{changed} of {total} grades changed; {args.folder}/results.json rewritten")


COMMANDS = {
    "run": run_run,
    "report": report.run_report,
    "grade": grading.run_grade,
    "regrade": run_regrade,
    "export": run_export,
}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in COMMANDS else ""
    kept = ". The samples so far are kept; the same command continues" if command == "run" else ""
    # Batch systems stop a job by SIGTERM: the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_command(f"spo-eval {command}".strip(), functools.partial(_command, argv), interrupted=f"stopped{kept}")


def _command(argv: list[str]) -> None:
    plugins.load(plugins.named_in(argv))
    args = parse(argv)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported; else it tells of NUMA nodes
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
