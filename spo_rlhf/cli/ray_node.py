"""One node of a Ray cluster in the foreground, as batch systems need it.

python -m spo_rlhf.cli.ray_node start --temp-dir DIR --gpus N                      the head, until a signal
python -m spo_rlhf.cli.ray_node start --temp-dir DIR --gpus N --address HOST:PORT  another node, until a signal
python -m spo_rlhf.cli.ray_node wait --address HOST:PORT --nodes N --limit S       until the cluster is complete
"""

import argparse
import sys
from pathlib import Path

from spo_rlhf.host.command import OneLineParser, run_command
from spo_rlhf.host.ray_node import PROGRAM, Node, start, wait


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog=PROGRAM, description="One node of a Ray cluster in the foreground")
    commands = parser.add_subparsers(dest="command", required=True)
    node = commands.add_parser("start", help="run a node until a signal ends it")
    node.add_argument(
        "--temp-dir",
        type=Path,
        required=True,
        help="new folder for the node's files, removed at its end",
    )
    node.add_argument("--gpus", type=int, required=True, help="GPUs to offer; logical ones on a machine without")
    node.add_argument("--address", help="HOST:PORT of the head; without it this node is the head")
    node.add_argument("--interface", help="network interface to use (default: the one of the default route)")
    node.add_argument("--name", help="the node's name in Ray")
    complete = commands.add_parser("wait", help="wait until the cluster is complete")
    complete.add_argument("--address", required=True)
    complete.add_argument("--nodes", type=int, required=True)
    complete.add_argument("--limit", dest="limit_s", metavar="SECONDS", type=float, required=True)
    return parser


def run(argv: list[str] | None) -> int:
    """Parse and do it; exit status. Raises UserError."""
    options = vars(build_parser().parse_args(argv))
    if options.pop("command") == "start":
        return start(Node(**options))
    return wait(**options)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status 0, 1 where Ray failed, 2 for wrong usage."""
    return run_command(PROGRAM, lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
