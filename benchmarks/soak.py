"""A long training on a CPU in which engines are killed, rewards hang, the run is preempted twice and killed once, beside the
same training left alone: what comes out must be the same, no counter may be off, no process may grow, nothing may be left.

The rewards that hang are chosen by the text of the response; in the run left alone these are 0, which is what a hang counts
as. Both runs are made in parts, each kept in --output, so the command may be stopped and given again at any time.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import jobs
import soak_report
from soak_processes import LEFT_S, POLL_S, Watched
from soak_report import KILL, PREEMPTION, Fault
from soak_training import BROKEN, HELD_OUT, UNBROKEN, last_step, prepare_command, read_run, train_command, write_reward

from spo_rlhf.errors import UserError
from spo_rlhf.host.arguments import seconds, whole
from spo_rlhf.host.command import command_line
from spo_rlhf.host.console import Console, duration
from spo_rlhf.host.files import read_json, write_json
from spo_rlhf.launch import history

# What the tests of the real stack know of what no two runs have alike.
sys.path.insert(0, str(common.ROOT / "tests" / "e2e"))
import stack

PROGRAM = "soak"
BROKEN_CHECK, MORE_TO_DO = 1, 75
STOPPED = "the end of the soak itself"
SAMPLE_S, STALLED_S = 4.0, 600.0
# Of the metrics of a step: those of the fault itself.
# Rewards that an engine gave after the last look and before its death are not counted, and a new one takes weights of its own.
OF_THE_FAULT = (
    "rollout/requests_resent",
    "rollout/engine_restarts",
    "rollout/reward_timeouts",
    "rollout/rewards",
    "rollout/weight_bytes",
)
EXAMPLES = """examples:
  python benchmarks/soak.py --quick                    # 12 steps with every kind of fault, some minutes
  python benchmarks/soak.py                            # 200 steps, about half an hour on 2 cores
  python benchmarks/soak.py --at-most 1                # the next part alone; status 75 while there are more
  python benchmarks/soak.py --seed 3 --kills 12 --output runs/soak-3

exit status: 0 where every check held, 1 where one did not (the table says which), 2 for wrong usage or a run that failed,
75 where --at-most parts are done and there are more, 130 when interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    parser = command_line(PROGRAM, __doc__, EXAMPLES)
    what = parser.add_argument_group("what is run")
    what.add_argument("--steps", type=whole(8), metavar="N", help="of each run; default: 200, with --quick 12")
    what.add_argument("--kills", type=whole(0), metavar="N", help="of engines; default: 6, with --quick 2")
    what.add_argument(
        "--hangs", type=whole(1), metavar="N", help="one reward in N hangs; default: 1000, with --quick 150"
    )
    what.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of the run and of its faults; default: 0")
    what.add_argument("--warm-up-seconds", type=seconds, default=240.0, metavar="S", help="of the model; default: 240")
    what.add_argument("--quick", action="store_true", help="a few steps: whether it works, not whether anything grows")
    how = parser.add_argument_group("how")
    output = Path("runs/soak")
    how.add_argument("--output", type=Path, default=output, metavar="DIR", help="default: %(default)s")
    at_most = "starts of a training before the command ends with status 75; default: all"
    how.add_argument("--at-most", type=whole(1), metavar="N", help=at_most)
    how.add_argument("--dry-run", action="store_true", help="print the faults and the command, run nothing")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options, filled in. Raises UserError."""
    args = build_parser().parse_args(argv)
    for name, quick, full in (("steps", 12, 200), ("kills", 2, 6), ("hangs", 150, 1000)):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    args.output = args.output.resolve()
    return args


def run_part(
    args: argparse.Namespace, run: str, part: str, kills: list[Fault], end: Fault | None, board: jobs.Board
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Start the training, do to it what is due, wait for its end. Returns the part's record and its samples of memory.

    `kills` loses what was done. Raises UserError where the training ends otherwise than it should.
    """
    folder = args.output / run
    first = last_step(folder)
    with open(folder / "terminal.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(train_command(args, run), stdout=log, stderr=subprocess.STDOUT, cwd=common.ROOT)
    watched = Watched(process, folder, part)
    asked, ended_by = None, "itself" if end is None else end.kind
    try:
        asked = follow(watched, kills, end, args, board)
        process.wait()
    except BaseException as error:
        process.terminate()
        process.wait()
        if run == UNBROKEN or not isinstance(error, KeyboardInterrupt):
            raise
        ended_by = STOPPED  # what was done to the training so far has to be told
    ending = 0 if asked is None else time.monotonic() - asked
    took = time.monotonic() - watched.began
    left_s, left = watched.left()
    expected = {"itself": 0, PREEMPTION: 75, KILL: -signal.SIGKILL}.get(ended_by)
    if expected is not None and process.returncode != expected:
        raise UserError(f"{part} ended with status {process.returncode}, not {expected}; see {folder / 'terminal.log'}")
    record = {
        "part": part if ended_by != STOPPED else f"{part}, stopped",
        "first_step": first,
        "last_step": last_step(folder),
        "ended_by": ended_by,
        "status": process.returncode,
        "seconds": round(took, 1),
        "end_seconds": round(ending, 1),
        "processes": len(watched.seen),
        "shared_files": len(watched.shared),
        "seconds_until_nothing_left": round(left_s, 1),
        "left": left,
        "injected": watched.injected,
    }
    return record, watched.samples


def follow(
    watched: Watched, kills: list[Fault], end: Fault | None, args: argparse.Namespace, board: jobs.Board
) -> float | None:
    """Inject what is due until the training ends. Returns when it was asked or made to end, None where it ended itself."""
    sampled, moved, step = 0.0, time.monotonic(), 0
    while watched.process.poll() is None:
        now, before, step = time.monotonic(), step, last_step(watched.folder, watched.started)
        moved = now if step != before else moved
        if now - moved > STALLED_S:
            raise UserError(f"{watched.part}: no step for {STALLED_S:.0f} s; see {watched.folder / 'terminal.log'}")
        if now - sampled >= SAMPLE_S:
            sampled = now
            watched.look(step)
        board.update(watched.part, f"step {step} of {args.steps}, {len(watched.injected)} engines killed")
        due = step and kills and step >= kills[0].after_step
        if due and watched.kill_engine(kills[0], step):
            del kills[0]
        elif step and end and step >= end.after_step and not due:
            watched.look(step)
            os.kill(watched.process.pid, signal.SIGTERM if end.kind == PREEMPTION else signal.SIGKILL)
            return time.monotonic()
        time.sleep(POLL_S)
    return None


@dataclass
class State:
    """What is done, in --output: records of the parts, engines killed so far."""

    path: Path
    settings: dict[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, args: argparse.Namespace) -> "State":
        """Raises UserError where the folder holds a soak of other settings."""
        settings = {name: getattr(args, name) for name in ("steps", "kills", "hangs", "seed", "quick")}
        path = args.output / "state.json"
        if not path.exists():
            return cls(path, settings)
        state = cls(path, **read_json(path))
        if state.settings != settings:
            raise UserError(f"--output {args.output}: it holds a soak of {state.settings}; give another folder")
        return state

    def add(self, record: dict[str, Any], samples: list[dict[str, Any]]) -> None:
        with open(self.path.with_name("memory.jsonl"), "a", encoding="utf-8") as file:
            file.write("".join(history.line(sample) for sample in samples))
        self.parts.append(record)
        write_json(self.path, {"settings": self.settings, "parts": self.parts})


def to_do(args: argparse.Namespace, state: State) -> Iterator[tuple[str, str, list[Fault], Fault | None]]:
    """(run, part, kills of engines, its end) of every part that is not done; a kill that found no engine is done later."""
    faults = soak_report.plan_faults(args.steps, args.kills, args.seed)
    done = {record["part"] for record in state.parts}
    if UNBROKEN not in done:
        yield UNBROKEN, UNBROKEN, [], None
    ends = [fault for fault in faults if fault.ends_the_run]
    killed = sum(len(record["injected"]) for record in state.parts)
    kills = [fault for fault in faults if not fault.ends_the_run][killed:]
    for number, end in enumerate([*ends, None], start=1):
        if f"{BROKEN} {number}" not in done:
            yield BROKEN, f"{BROKEN} {number}", kills, end


def weight_gap(one: Path, two: Path) -> float:
    """The largest difference of a weight, infinite where the models have other tensors."""
    first, second = stack.weights(one), stack.weights(two)
    if first.keys() != second.keys():
        return math.inf
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def checks(
    args: argparse.Namespace, state: State, runs: dict[str, dict], rows: list[dict], samples: list[dict]
) -> list[soak_report.Check]:
    """Everything that was promised."""
    whole, broken = runs[UNBROKEN], runs[BROKEN]
    leave_out = (*stack.VARYING, *OF_THE_FAULT)
    gap = weight_gap(args.output / UNBROKEN / "model", args.output / BROKEN / "model")
    hits = len((args.output / UNBROKEN / "hits").read_text(encoding="utf-8").splitlines())
    killed = sum(len(part["injected"]) for part in state.parts)
    left = [thing for part in state.parts for thing in part["left"]]
    processes = sum(part["processes"] for part in state.parts)
    slowest = max(part["seconds_until_nothing_left"] for part in state.parts)
    counted = broken["summary"]["reward_timeouts"]
    restarts = broken["summary"]["engine_restarts"]
    return [
        *soak_report.counters(broken, args.steps),
        *soak_report.equality(whole, broken, leave_out, gap),
        soak_report.accuracy(whole, broken, HELD_OUT),
        soak_report.Check("every kill was done", killed == args.kills, f"{killed} of {args.kills} engines"),
        soak_report.Check(
            "restarts are counted, but for those in steps that were begun anew",
            restarts <= killed,
            f"{restarts} in the record, {killed} killed, {broken['summary']['requests_resent']} requests sent again",
        ),
        soak_report.Check("every hung reward is counted once", counted == hits, f"{counted} counted, {hits} chosen"),
        soak_report.Check(
            f"nothing is left {LEFT_S:.0f} s after an end",
            not left,
            ", ".join(left[:5]) or f"{processes} processes, slowest end {slowest:.1f} s",
        ),
        *([] if args.quick else [soak_report.memory(rows), soak_report.sizes(samples, UNBROKEN)]),
    ]


def conclude(args: argparse.Namespace, state: State, console: Console) -> int:
    """results.json, results.md, the picture, the table; exit status."""
    runs = {run: read_run(args.output / run) for run in (UNBROKEN, BROKEN)}
    lines = (args.output / "memory.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    rows = soak_report.growths(samples)
    found = checks(args, state, runs, rows, samples)
    table = soak_report.tables(found, state.parts, rows)
    common.write_results(
        args.output,
        args,
        table,
        command=common.portable(train_command(args, BROKEN), args.output),
        faults=[vars(fault) for fault in soak_report.plan_faults(args.steps, args.kills, args.seed)],
        checks=[check.as_json() for check in found],
        parts=state.parts,
        memory=rows,
        summaries={name: run["summary"] for name, run in runs.items()},
    )
    soak_report.draw(samples, state.parts, runs, args.output / "soak.png")
    for line in (*table, f"results: {args.output / 'results.json'}  picture: {args.output / 'soak.png'}"):
        console.line(line)
    return 0 if all(check.held for check in found) else BROKEN_CHECK


def soak(args: argparse.Namespace, console: Console) -> int:
    """Every part that is not done, then the report. Raises UserError."""
    board = jobs.Board(console)
    if args.dry_run:
        for fault in soak_report.plan_faults(args.steps, args.kills, args.seed):
            board.line(
                f"after step {fault.after_step}: {fault.kind}" + ("" if fault.ends_the_run else f" {fault.engine}")
            )
        board.line(" ".join(train_command(args, BROKEN)))
        return 0
    state = State.read(args)
    if not (args.output / "task" / "prepare.json").exists():
        jobs.run_logged(prepare_command(args), args.output / "prepare.log", board, "data and model")
    for number, (run, part, kills, end) in enumerate(to_do(args, state)):
        if number == args.at_most:
            board.line(f"{number} parts done, there are more: the same command goes on")
            return MORE_TO_DO
        if run == UNBROKEN and (args.output / UNBROKEN).exists():
            shutil.rmtree(args.output / UNBROKEN)  # one that was stopped would not be unbroken
        write_reward(args, run)
        record, samples = run_part(args, run, part, kills, end, board)
        state.add(record, samples)
        if record["ended_by"] == STOPPED:
            raise KeyboardInterrupt
        board.update(part, None)
        board.line(
            f"{part}: steps {record['first_step']} to {record['last_step']}, ended by {record['ended_by']}, status "
            f"{record['status']}, {len(record['injected'])} engines killed, {duration(record['seconds'])}"
        )
    return conclude(args, state, console)


def main(argv: list[str] | None = None) -> int:
    """Entry point; exit status as the examples say."""
    return common.run(PROGRAM, lambda console: soak(parse(argv), console), kept="parts that are done")


if __name__ == "__main__":
    jobs.raise_on_sigterm()
    sys.exit(main())
