"""spo-sample: n responses to each prompt, with rewards, as JSON lines; selected for supervised training or DPO."""

import sys

from spo_rlhf.cli.sample_options import build_parser, tell_dry_run
from spo_rlhf.host import model_folder
from spo_rlhf.host.command import run_command
from spo_rlhf.launch.sample_run import PROGRAM, SampleJob, check_files, run


def sample(argv: list[str] | None) -> int:
    """Parse, check, sample; exit status. Raises UserError."""
    options = vars(build_parser().parse_args(argv))
    dry_run = options.pop("dry_run")
    job = SampleJob(**options)
    model_folder.trust_code(job.trust_remote_code)
    check_files(job)
    if dry_run:
        tell_dry_run(options)
        return 0
    return run(job)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted."""
    return run_command(PROGRAM, lambda: sample(argv))


if __name__ == "__main__":
    sys.exit(main())
