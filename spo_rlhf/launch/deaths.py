"""Which process of a run died, in one line: Ray says "The actor died unexpectedly" and the rest in the lines below it."""

import re
from pathlib import Path

# Ray's class name of a process -> what it is to a user.
ACTORS = {
    "SegmentPolicyActor": "the policy",
    "SegmentRolloutActor": "an engine",
    "LocalEngine": "an engine",
    "SegmentTrainer": "the trainer",
    "CriticActor": "the critic",
    "ReferenceActor": "the reference model",
    "RewardActor": "the reward model",
    "EventLog": "the log of events",
}


def dead_process(text: str, log: str | Path) -> str | None:
    """What Ray's error says of the process that died, and where its last words stand in the log; None for another error."""
    name, pid = (re.search(rf"^\s*{field}: (\S+)", text, re.MULTILINE) for field in ("class_name", "pid"))
    if name is None:
        return None
    who = ACTORS.get(name[1], name[1]) + (f" (process {pid[1]})" if pid else "")
    reason = re.search(r"Worker exit detail: (.*?)(?:\. |$)", text, re.MULTILINE)
    line = last_line_of(pid[1], log) if pid else None
    where = f"its last line is {log}:{line}" if line else f"log: {log}"
    return f"{who} died{f': {reason[1]}' if reason else ''} ({where})"


def last_line_of(pid: str, log: str | Path) -> int | None:
    """Number of the last line of the log that Ray says is of the process, from 1; None where there is none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as lines:
            return max((number for number, line in enumerate(lines, 1) if f"pid={pid})" in line), default=None)
    except OSError:
        return None
