"""spo-train: OpenRLHF's `train_ppo_ray` with segment advantages."""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spo_rlhf import cpu, plugins, upstream
from spo_rlhf.cli import presets, spo_options
from spo_rlhf.errors import UserError
from spo_rlhf.host import model_folder, ray_start
from spo_rlhf.host.command import refuse_in_one_line, run_command
from spo_rlhf.host.console import duration
from spo_rlhf.launch import bounds, hub, resume, settings_file
from spo_rlhf.launch.output import output_to
from spo_rlhf.launch.rows import settle_template
from spo_rlhf.launch.run import PROGRAM, describe, settle_device, train

EXAMPLES = """examples:
  # SPO-chain on a local file, one device, everything colocated
  spo-train --spo.mode chain --actor.model_name_or_path MODEL --data.prompt_dataset train.jsonl --data.input_key problem \\
      --data.label_key answer --reward.remote_url spo_rlhf/tasks/math_reward.py --rollout.n_samples_per_prompt 8 \\
      --actor.num_gpus_per_node 1 --ref.num_gpus_per_node 1 --vllm.num_engines 1 --train.colocate_all

  # GRPO, the same command otherwise; with the probability mask: add --spo.prob_mask
  spo-train --spo.mode group ...

  # settings from a file; every run writes one that repeats it
  spo-train --config runs/first/config.yaml --spo.run_dir runs/second --actor.adam.lr 2e-6

  # see what would run where, start nothing
  spo-train ... --dry-run
"""


def build_parser() -> argparse.ArgumentParser:
    """OpenRLHF's parser with the `--spo.*` group."""
    parser = upstream.build_parser()
    parser.prog, parser.epilog = PROGRAM, EXAMPLES
    parser.description = "Segment Policy Optimization on OpenRLHF: all flags of its train_ppo_ray, and --spo.*"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    # A shortened flag could come to mean another one with the next option that is added.
    parser.allow_abbrev = False
    parser.usage = f"{PROGRAM} [options]"
    parser._optionals.title = "OpenRLHF (train_ppo_ray)"
    spo_options.add_options(parser)
    refuse_in_one_line(parser)
    return parser


def with_files(argv: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, plugins' options included, and the command line with what the files of `--config` say before it.

    Raises UserError.
    """
    files = plugins.named_in(argv, settings_file.FLAG)
    plugin, named = "spo.plugin", plugins.named_in(argv, "--spo.plugin")
    for path in reversed(files):  # their parts may have options in the parser that reads the files
        named = named or settings_file.as_list(settings_file.read(path).get(plugin))
    plugins.load(named)
    parser = build_parser()
    return parser, [*settings_file.arguments(files, parser, argv), *argv]


def parse(argv: list[str]) -> tuple[SimpleNamespace, list[str]]:
    """Arguments -> resolved configuration (nested, `args.spo` a SpoConfig) and what was decided on the way.

    Raises UserError.
    """
    parser, argv = with_files(argv)
    flat = parser.parse_args(argv)
    vars(flat).pop("config")
    explicit = spo_options.explicit_options(parser, argv)
    from_preset = presets.apply(flat, explicit)
    preset_notes = presets.told(flat, from_preset)
    bounds.check_bounds(flat)
    bounds.settle_never(flat)
    resume.settle(flat, explicit)
    spo, notes = spo_options.settle(flat, explicit)
    notes = preset_notes + notes
    model_folder.trust_code(spo.trust_remote_code)
    dry_run = vars(flat).pop("dry_run")
    if spo.push_to_hub:
        hub.check_name(spo.push_to_hub)
        if not dry_run:
            hub.check_access()
    notes += settle_device(ask_cluster=not dry_run)
    if cpu.is_cpu():
        notes += cpu.settle_devices(flat, explicit)
    if not dry_run:
        notes += ray_start.settle_temp_dir()
    notes += settle_template(flat, explicit)
    args, warnings = upstream.validate(flat)
    notes += warnings
    args.spo, args.dry_run = spo, dry_run
    if from_preset:
        args.from_preset = from_preset  # for the record of the run
    from spo_rlhf.launch import preflight

    notes += preflight.check_options(args, explicit)
    rows = preflight.check_inputs(args, must_load=not dry_run, notes=notes)
    args.identity = resume.identity(args, rows)
    return args, notes + resume.choose(args)


def run(argv: list[str]) -> int:
    """Parse, check, train; exit status. Raises UserError."""
    start = time.monotonic()
    if {"-h", "--help"} & set(argv):
        plugins.load(plugins.named_in(argv, "--spo.plugin"))
        build_parser().parse_args(argv)
    # Loading the stack prints dozens of warnings; they belong into the log of the run.
    with tempfile.NamedTemporaryFile() as early_log, output_to(early_log.name):
        args, notes = parse(argv)
        early = Path(early_log.name).read_bytes()
    settings = repeated_by(argv, args)
    if args.dry_run:
        print(describe(args, notes))
        print(f"dry run: nothing was started ({duration(time.monotonic() - start)})")
        return 0
    if args.spo.resume == resume.AUTO and resume.is_finished(args.spo.run_dir):
        print(f"{args.spo.run_dir} holds a finished run; there is nothing to go on with")
        return 0
    return train(args, notes, early, settings)


def repeated_by(argv: list[str], args: SimpleNamespace) -> dict[str, Any]:
    """The settings that make the command again. Raises UserError where the run would replace the one that it repeats."""
    for path in map(Path, plugins.named_in(argv, settings_file.FLAG)):
        replaces = args.spo.run_dir and path.resolve().parent == Path(args.spo.run_dir).resolve()
        if replaces and not args.dry_run and not args.ckpt.load_enable:
            raise UserError(
                f"{settings_file.FLAG} {path}: the run would replace the one that the file is of; add --spo.run_dir DIR, "
                "or --ckpt.load_enable to go on with it"
            )
    parser, argv = with_files(argv)
    return settings_file.said(parser, argv)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage or input, 1 for a failed run, 130 when interrupted,
    75 when a signal ended it to be gone on with.
    """
    return run_command(PROGRAM, lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
