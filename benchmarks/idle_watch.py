"""How long engine and actor of a run do nothing, seen from outside: the processor seconds that their processes use, look by look."""

import sys
import threading
import time
from collections.abc import Sequence

import common
import numpy as np
import psutil

# What the tests of the real stack know of a run's processes.
sys.path.insert(0, str(common.ROOT / "tests" / "chaos"))
import run_processes

WORKERS = {"engine": run_processes.CORE, "actor": "ray::SegmentPolicyActor"}
LOOK_S, ENUMERATE_S = 0.2, 5.0
IDLE_CORES = 0.1


class Watch(threading.Thread):
    """Looks at the processes of a run until `stop`.

    looks: (time, seconds since the look before, core seconds used in them by the processes of each worker).
    """

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.ended = pid, threading.Event()
        self.looks: list[tuple[float, float, dict[str, float]]] = []

    def run(self) -> None:
        workers: dict[str, list[psutil.Process]] = {}
        listed, before, last = -np.inf, {}, time.time()
        while not self.ended.wait(LOOK_S):
            try:
                if time.monotonic() - listed > ENUMERATE_S:
                    listed = time.monotonic()
                    workers = {name: run_processes.named(self.pid, title) for name, title in WORKERS.items()}
                used = {process: sum(process.cpu_times()[:2]) for own in workers.values() for process in own}
            except psutil.Error:
                listed = -np.inf
                continue
            now = time.time()
            if all(workers.values()) and all(process in before for process in used):
                spent = {name: sum(used[one] - before[one] for one in own) for name, own in workers.items()}
                self.looks.append((now, now - last, spent))
            before, last = used, now

    def stop(self) -> None:
        self.ended.set()
        self.join()


def idle_shares(
    looks: Sequence[tuple[float, float, dict[str, float]]], start: float, end: float
) -> dict[str, float | None]:
    """Of each worker, the share of looks between these times at which it had used next to nothing; None where nobody looked."""
    within = [(seconds, spent) for at, seconds, spent in looks if start + seconds <= at <= end]
    return {
        name: float(np.mean([spent[name] < IDLE_CORES * seconds for seconds, spent in within])) if within else None
        for name in WORKERS
    }
