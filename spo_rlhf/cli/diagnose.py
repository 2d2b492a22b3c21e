"""spo-diagnose: what credit assignment can win on a model and its data, before anything is trained."""

import argparse
import math
import sys
from dataclasses import fields
from typing import Any

from spo_rlhf.cli.sample_options import OPTIONS, parser_of, tell_dry_run
from spo_rlhf.core.diagnosis import CONTINUATIONS, RESPONSES
from spo_rlhf.host import model_folder
from spo_rlhf.host.arguments import add_number, share
from spo_rlhf.host.command import run_command
from spo_rlhf.launch.diagnose_run import PROGRAM, DiagnoseJob, run
from spo_rlhf.launch.sample_run import SampleJob, check_files
from spo_rlhf.sampling.diagnosis import Plan

DESCRIPTION = (
    "what credit assignment can win on a model and its data: where outcomes are settled, which method, what gain"
)
EXAMPLES = """\
writes to DIR: diagnosis.json (all numbers and their intervals), diagnose.log. Some tens of times the tokens of one response
to each prompt are sampled. What the numbers mean, and what they leave out: docs/credit.md. No model is changed.

examples:
  # on the task of the quickstart
  spo-diagnose --model runs/quickstart/task/model --data runs/quickstart/task/train.jsonl --input-key problem \\
      --label-key answer --template $'Question: {}\\nAnswer:\\n' --reward spo_rlhf/tasks/math_reward.py \\
      --max-new-tokens 64 --output runs/diagnosis

  # prompts that never come back (one epoch): without a history; tokens of hesitating states alone
  spo-diagnose ... --history 0 --threshold 0.9

  # tighter intervals; what would be sampled, which starts nothing
  spo-diagnose ... --prompts 256 --responses 8
  spo-diagnose ... --dry-run
"""
# What a run of spo-sample has and a diagnosis does not let anybody choose.
FIXED: dict[str, Any] = {
    "samples": 1,
    "select": "all",
    "per_prompt": None,
    "min_reward": 1.0,
    "fresh": False,
    "regrade": False,
}
DROPPED = {"--" + name.replace("_", "-") for name in FIXED}


def build_parser() -> argparse.ArgumentParser:
    """The command line: the options of spo-sample that say what is sampled from what, and those of a diagnosis."""
    parser = parser_of(PROGRAM, DESCRIPTION, EXAMPLES, (one for one in OPTIONS if one.flag not in DROPPED))
    add = parser.add_argument_group("diagnosis").add_argument
    add_number(add, "--prompts", 8, 64, "drawn from the rows by --seed")
    add_number(add, "--responses", RESPONSES, Plan.responses, "to each prompt")
    add_number(add, "--continuations", CONTINUATIONS, Plan.continuations, "of a state")
    add_number(add, "--cuts", 1, Plan.cuts, "of a response, evenly over the mean length")
    add_number(
        add, "--probes", 1, Plan.probes, "tokens of a response, drawn by their score energy, for the oracle ratio"
    )
    add_number(
        add, "--history", 0, 8, "outcomes of a prompt that will be known when it comes again; 0: prompts never do"
    )
    threshold = "only states in which no token is as likely are trained (the mask by the state); default: all are"
    add("--threshold", type=share, metavar="P", help=threshold)
    return parser


def job_of(options: dict[str, Any]) -> DiagnoseJob:
    """What the parsed options ask for."""
    own = {name: options.pop(name) for name in ("responses", "continuations", "cuts", "probes")}
    threshold = options.pop("threshold")
    prompts, history = options.pop("prompts"), options.pop("history")
    plan = Plan(**own, threshold=math.inf if threshold is None else threshold, seed=options["seed"])
    return DiagnoseJob(SampleJob(**options | FIXED), plan, prompts, history)


def diagnose(argv: list[str] | None) -> int:
    """Parse, check, diagnose; exit status. Raises UserError."""
    options = vars(build_parser().parse_args(argv))
    dry_run = options.pop("dry_run")
    job = job_of(options)
    model_folder.trust_code(job.sampling.trust_remote_code)
    check_files(job.sampling)
    if not dry_run:
        return run(job)
    told = {name: value for name, value in options.items() if name not in FIXED}
    told |= {field.name: getattr(job.plan, field.name) for field in fields(job.plan)}
    told |= {"prompts": job.prompts, "history": job.history}
    tell_dry_run(told)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted."""
    return run_command(PROGRAM, lambda: diagnose(argv))


if __name__ == "__main__":
    sys.exit(main())
