"""A stand-in for Python in a script: it writes down what the script would start, so that many dry runs share one process."""

import json
import sys
from pathlib import Path


def make(path: Path) -> Path:
    """The stand-in. What a script asks of a task's record it gets from Python."""
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *spo_rlhf.tasks*) exec {sys.executable} "$@" ;; esac\n'
        f'exec {sys.executable} -S -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n'
    )
    path.chmod(0o755)
    return path


def calls(stdout: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of each call that was written down."""
    recorded = [json.loads(line) for line in stdout.splitlines() if line.startswith("[")]
    return [(one[at], one[at + 1 :]) for one in recorded if "-m" in one for at in [one.index("-m") + 1]]
