"""OpenRLHF's supervised (sft) and preference (dpo) training, on this machine: with GPUs, or on the CPU."""

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from spo_rlhf import upstream
from spo_rlhf.cli.spo_options import explicit_options
from spo_rlhf.errors import UserError
from spo_rlhf.host import model_folder
from spo_rlhf.host.command import refuse_in_one_line, run_command
from spo_rlhf.launch import bounds, preflight, settings_file
from spo_rlhf.launch.offline_run import COMMANDS, PROGRAM, check_inputs, check_options, train
from spo_rlhf.launch.output import flatten, output_to, plain
from spo_rlhf.launch.rows import settle_template

EXAMPLES = """\
examples:
  # supervised training on the right responses that spo-sample kept
  python -m spo_rlhf.cli.upstream_trainer sft --model.model_name_or_path MODEL \\
      --data.dataset runs/samples/correct.jsonl --data.input_key prompt --data.output_key response \\
      --data.input_template '' --ckpt.output_dir runs/sft/model

  # DPO on its pairs, with DPO-positive's penalty
  python -m spo_rlhf.cli.upstream_trainer dpo --model.model_name_or_path MODEL \\
      --data.dataset runs/samples/pairs.jsonl --data.prompt_key prompt --spo.dpo_positive 50 --ckpt.output_dir runs/dpo/model

  # on 4 GPUs
  torchrun --nproc_per_node 4 -m spo_rlhf.cli.upstream_trainer sft ...

writes to --spo.run_dir: metrics.jsonl (one object per optimizer step), summary.json, config.json, train.log
"""


def build_parser(command: str) -> argparse.ArgumentParser:
    """OpenRLHF's parser of the command, with what is added here."""
    parser = upstream.build_parser(COMMANDS[command])
    parser.prog, parser.epilog, parser.allow_abbrev = f"{PROGRAM} {command}", EXAMPLES, False
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.usage = f"{PROGRAM} {command} [options]"
    parser._optionals.title = f"OpenRLHF ({COMMANDS[command]})"
    group = parser.add_argument_group("added here")
    if command == "sft":
        group.add_argument(
            "--spo.sequence_mean",
            action="store_true",
            help="mean loss of each response, then over responses; without it the mean over all tokens",
        )
    else:
        group.add_argument(
            "--spo.dpo_positive",
            type=float,
            default=0.0,
            metavar="LAMBDA",
            help="DPO-positive's penalty on chosen responses becoming less likely; default: 0, plain DPO",
        )
    group.add_argument(model_folder.SWITCH, action="store_true", help="run Python code that comes with a model")
    group.add_argument("--spo.run_dir", metavar="DIR", help="for the record of the run; default: runs/<date>-<time>")
    group.add_argument("--spo.verbose", action="store_true", help="leave the libraries' output on the terminal")
    group.add_argument("--dry-run", action="store_true", help="print the resolved configuration, start nothing")
    refuse_in_one_line(parser)
    return parser


def parse(command: str, argv: list[str]) -> tuple[SimpleNamespace, list[str]]:
    """Arguments -> resolved configuration, and what was decided on the way. Raises UserError."""
    parser = build_parser(command)
    flat = parser.parse_args(argv)
    model_folder.trust_code(vars(flat)["spo.trust_remote_code"])
    explicit = explicit_options(parser, argv)
    bounds.check_bounds(flat)
    bounds.settle_never(flat)
    notes = settle_template(flat, explicit)
    args, warnings = upstream.validate(flat, COMMANDS[command])
    notes += warnings + preflight.check_attention(args, explicit)
    return args, notes + check_options(args, explicit)


def run(command: str, argv: list[str]) -> int:
    """Parse, check, train; exit status. Raises UserError."""
    if command not in COMMANDS:
        raise UserError(f"{command!r} is neither {' nor '.join(COMMANDS)}; see {PROGRAM} --help")
    if {"-h", "--help"} & set(argv):
        build_parser(command).parse_args(argv)
    # Loading the stack prints dozens of warnings; they belong into the log of the run.
    with tempfile.NamedTemporaryFile() as early_log, output_to(early_log.name):
        args, notes = parse(command, argv)
        if not args.dry_run:
            check_inputs(command, args)
        early = Path(early_log.name).read_bytes()
    if args.dry_run:
        print("\n".join(f"  {name} = {value!r}" for name, value in sorted(flatten(plain(args)).items())))
        print(*(f"note: {note}" for note in notes), "dry run: nothing was started", sep="\n")
        return 0
    return train(command, args, notes, early, settings_file.said(build_parser(command), argv))


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {PROGRAM} {{{','.join(COMMANDS)}}} [options]\n\n{__doc__}\n\n{EXAMPLES}")
        return 0 if argv else 2
    return run_command(PROGRAM, lambda: run(argv[0], argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
