"""`python -m evaluation`: run, report, grade, regrade."""

import argparse
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from evaluation import grading, report
from evaluation.prompts import PROMPTS
from evaluation.settings import RunOptions, RunSettings
from evaluation.tasks import TASKS
from spo_rlhf.errors import UserError
from spo_rlhf.graders.kinds import KINDS
from spo_rlhf.graders.verdict import MODES

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
  spo-eval grade --gold 1/2 --pred 'so it is \\boxed{0.5}'
  spo-eval grade --file answers.jsonl --output graded.jsonl
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated positive integers, each once, in rising order."""
    try:
        values = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 2048,4096") from error
    if values[0] < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return values


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from error
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def build_parser(preset: str | None = None) -> argparse.ArgumentParser:
    """The command line; a preset's values become the defaults of `run`."""
    parser = Parser(
        prog="spo-eval",
        description="Accuracy at every context length from one pass, with graders that can be trusted.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands).set_defaults(**PRESETS.get(preset, {}))
    sub = commands.add_parser("report", help="tables, comparisons and the curve of finished runs")
    sub.add_argument("folders", nargs="+", metavar="DIR", help="output folder of a finished run")
    sub.add_argument("--format", default="md", help=f"comma-separated: {', '.join(report.FORMATS)} (default: md)")
    sub.add_argument("--output", metavar="DIR", help="folder for the files (default: the first DIR)")
    sub.add_argument("--paper", action="store_true", help="show the paper's Table 1 beside the numbers")
    sub = commands.add_parser("grade", help="grade answers: a JSONL file, or one pair")
    sub.add_argument("--file", metavar="IN.jsonl", help='"gold", "pred" (a full model output), optionally "problem"')
    sub.add_argument("--output", metavar="OUT.jsonl", help="the same rows with correct, extracted and reason")
    sub.add_argument("--gold", help="the right answer of one pair")
    sub.add_argument("--pred", help="the model's output of one pair")
    sub.add_argument("--problem", help="the problem of one pair, to refuse answers copied from it")
    sub.add_argument("--mode", choices=MODES, default="strict", help="(default: %(default)s)")
    sub.add_argument(
        "--kind",
        default=grading.AUTO,
        metavar="K",
        help=f"of answers: {', '.join(KINDS)}, or auto, as the right answer looks (default: %(default)s)",
    )
    sub.add_argument("--workers", type=positive, metavar="N", help="processes (default: one less than the cores)")
    sub = commands.add_parser("regrade", help="grade stored samples again and rewrite the results; needs no GPU")
    sub.add_argument("folder", metavar="DIR", help="output folder of a finished run")
    sub.add_argument("--workers", type=positive, metavar="N", help="processes (default: one less than the cores)")
    return parser


def _add_run(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        "run",
        help="sample and grade; run the same command again to continue a stopped run",
        description="Sample and grade. The same command continues a stopped run; with more --samples it adds to one.",
    )
    add = sub.add_argument_group("what to evaluate").add_argument
    add("--model", required=True, help="folder or name of a Hugging Face model")
    add("--output", required=True, metavar="DIR", help="folder for results.json and samples/")
    add("--preset", choices=sorted(PRESETS), help="set everything as a published run did; other flags still win")
    add("--tasks", default="math500", help=f"comma-separated: {', '.join(TASKS)}, or NAME=PATH.jsonl")
    add("--data-dir", metavar="DIR", help="folder with the tasks' JSONL files (default: Hugging Face data sets)")
    add("--limit", type=positive, metavar="N", help="first problems of each task only")
    add = sub.add_argument_group("lengths").add_argument
    add("--contexts", type=integers, default=(32768,), metavar="N,N", help="limits in tokens (default: 32768)")
    add(
        "--budget",
        choices=("total", "response"),
        default=RunSettings.budget,
        help="a limit counts the prompt (total) or not (default: %(default)s)",
    )
    add("--separate-contexts", action="store_true", help="sample once per context, cut nothing")
    add("--no-curve", dest="curve", action="store_false", help="grade at --contexts only, not between them")
    add = sub.add_argument_group("sampling").add_argument
    add(
        "--samples",
        type=positive,
        default=RunSettings.samples,
        metavar="N",
        help="responses per problem (default: %(default)s)",
    )
    add("--temperature", type=float, default=RunSettings.temperature, metavar="T", help="(default: %(default)s)")
    add("--top-p", type=float, default=RunSettings.top_p, metavar="P", help="(default: %(default)s)")
    add("--seed", type=int, default=RunSettings.seed, metavar="N", help="(default: %(default)s)")
    add = sub.add_argument_group("prompt").add_argument
    add("--prompt", help=f"{', '.join(PROMPTS)}, or a file with {{problem}} in it (default: the task's own)")
    add("--system", metavar="TEXT", help="system message")
    add(
        "--chat-template",
        default=RunSettings.chat_template,
        metavar="T",
        help="auto (the model's), none, or a Jinja file (default: %(default)s)",
    )
    add("--few-shot", type=int, default=RunSettings.few_shot, metavar="K", help="K solved examples first")
    add("--few-shot-file", metavar="FILE", help='JSONL with "problem" and "solution"')
    add = sub.add_argument_group("engine").add_argument
    add("--dtype", default=RunSettings.dtype, help="weights' type in vLLM (without a GPU always float32)")
    add(
        "--data-parallel",
        type=positive,
        default=RunOptions.data_parallel,
        metavar="N",
        help="engines, one per GPU (or per --tensor-parallel GPUs), through Ray (default: %(default)s)",
    )
    add(
        "--tensor-parallel",
        type=positive,
        default=RunOptions.tensor_parallel,
        metavar="N",
        help="GPUs per engine (default: %(default)s)",
    )
    add(
        "--gpu-memory-utilization",
        type=float,
        default=RunOptions.gpu_memory_utilization,
        metavar="SHARE",
        help="(default: %(default)s)",
    )
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    add("--workers", type=positive, metavar="N", help="grading processes (default: one less than the cores)")
    add("--quiet", action="store_true", help="no progress bar")
    return sub


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; flags given beside a preset win over it."""
    args = build_parser().parse_args(argv)
    return build_parser(args.preset).parse_args(argv) if getattr(args, "preset", None) else args


def run_run(args: argparse.Namespace) -> None:
    from evaluation.run import run

    if args.temperature < 0 or not 0 < args.top_p <= 1:
        raise UserError("--temperature must be 0 or more, --top-p above 0 and at most 1")
    if args.seed < 0 or args.few_shot < 0:
        raise UserError("--seed and --few-shot must be 0 or more")
    settings = RunSettings(
        args.model,
        tuple(args.tasks.split(",")),
        args.contexts,
        args.samples,
        args.temperature,
        args.top_p,
        args.seed,
        args.budget,
        args.prompt,
        args.system,
        args.chat_template,
        args.few_shot,
        args.few_shot_file,
        args.limit,
        args.separate_contexts,
        args.curve,
        args.dtype,
    )
    options = RunOptions(
        Path(args.output),
        Path(args.data_dir) if args.data_dir else None,
        args.data_parallel,
        args.tensor_parallel,
        args.gpu_memory_utilization,
        args.trust_remote_code,
        args.workers,
        args.quiet,
    )
    run(settings, options)
    print(report.markdown(report.load_runs([options.output]), paper=args.preset == "spo-paper"))


def run_regrade(args: argparse.Namespace) -> None:
    from evaluation.stored import regrade

    changed, total = regrade(Path(args.folder), args.workers)
    print(f"{changed} of {total} grades changed; {args.folder}/results.json rewritten")


COMMANDS = {"run": run_run, "report": report.run_report, "grade": grading.run_grade, "regrade": run_regrade}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the user's mistake (one line on stderr), 130 interrupted."""
    args = parse(argv)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # before torch is imported; else it tells of NUMA nodes
    # Batch systems stop a job by SIGTERM: the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
    try:
        COMMANDS[args.command](args)
    except UserError as error:
        print(f"spo-eval {args.command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:  # a folder that cannot be written, a full disk
        reason = f"{error.filename or 'output'}: {error.strerror or error}"
        print(f"spo-eval {args.command}: error: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = " The samples so far are kept; the same command continues." if args.command == "run" else ""
        print(f"\nspo-eval {args.command}: stopped.{kept}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
