"""docs/options.md from the declarations of the options: `python -m spo_rlhf.cli.options_page --write docs/options.md`."""

import sys
from collections.abc import Iterable
from pathlib import Path

from spo_rlhf.cli.spo_options import default_text
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import Option, declared
from spo_rlhf.host.command import command_line, run_command
from spo_rlhf.host.files import replace_text

PROGRAM = "options_page"
HEAD = """\
# The `--spo.*` options of spo-train

Made by `python -m spo_rlhf.cli.options_page` from the declarations in the code; `spo-train --help` says the same. Every
flag of OpenRLHF's `train_ppo_ray` is there as well, with its name and meaning. Options that contradict each other are
refused with one line that says which. In chain and tree mode there is no critic, the KL penalty is always a loss term (a
penalty in the reward would be missing from Monte Carlo returns), and prefix caching is on.
"""
EXAMPLES = """examples:
  python -m spo_rlhf.cli.options_page                          # print the page
  python -m spo_rlhf.cli.options_page --write docs/options.md
"""


def page() -> str:
    """The whole page."""
    options = declared(SpoConfig)
    sections: dict[str, list[Option]] = {}
    for option in options:
        sections.setdefault(option.where(), []).append(option)
    general = sections.pop("")
    parts = [HEAD, *table(general)]
    for where, own in sections.items():
        parts += ["", f"## With `{where}`", "", *table(own)]
    return "\n".join(parts) + "\n"


def table(options: Iterable[Option]) -> list[str]:
    """Rows of a table, its head included."""
    return ["| flag | default | meaning |", "|---|---|---|", *(_row(option) for option in options)]


def _row(option: Option) -> str:
    flags = f"`--spo.{option.flag}`" + (f", `--no-spo.{option.flag}`" if option.is_switch else "")
    meaning = option.meaning()
    names = f"; one of {', '.join(f'`{name}`' for name in option.names() or ())}" if option.names() else ""
    bounds = f"; {option.bounds}" if str(option.bounds) else ""
    return f"| {flags} | {default_text(option)} | {meaning}{names}{bounds} |"


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 2 for wrong usage."""
    return run_command(PROGRAM, lambda: run(argv))


def run(argv: list[str] | None) -> None:
    """Print or write the page. Raises UserError."""
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there instead of printing it")
    args = parser.parse_args(argv)
    if args.write:
        replace_text(args.write, page())
    else:
        print(page(), end="")


if __name__ == "__main__":
    sys.exit(main())
