"""Runs the programs of this folder: each has a process of its own, since DeepSpeed and vLLM hold one GPU until they end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def run(program: str, *arguments: object, limit_s: float) -> dict[str, Any]:
    """The JSON object that the program prints last. Fails with the end of its output where it ends otherwise."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / f"{program}.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    assert done.returncode == 0, f"{program} ended with {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout.strip().splitlines()[-1])
