"""The processes of one start of the soak's training: which there are, what memory is theirs, which are killed, what they leave."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import psutil
from soak_report import CORE, Fault

# What the tests of the real stack know of a run's processes.
sys.path.insert(0, str(common.ROOT / "tests" / "chaos"))
import run_processes

POLL_S, LEFT_S = 0.3, 10.0
# The KV cache is an anonymous mapping for each layer, of a third of a GiB here, resident from the start: without it, what grows
# beside it is seen. The weights of this small model and all else that a core has are in smaller ones.
KV_MAPPING = 128 << 20


def what_it_is(process: psutil.Process) -> str:
    """A name for all processes that do the same."""
    parts = process.cmdline() or [process.name()]
    if parts[0].startswith(("ray::", "VLLM::")):
        return parts[0].split(".")[0].split()[0]
    if "-m" in parts[1:4]:
        return parts[parts.index("-m") + 1]
    script = next((Path(part).name for part in parts[1:3] if part.endswith(".py")), None)
    return script or Path(parts[0]).name.split()[0]


def own_bytes(process: psutil.Process, kind: str) -> int:
    """Proportional set size of a process; of an engine's core without its KV cache, see KV_MAPPING."""
    if kind != run_processes.CORE:
        return process.memory_full_info().pss
    return sum(one.pss for one in process.memory_maps(grouped=False) if one.path != "[anon]" or one.size < KV_MAPPING)


@dataclass
class Watched:
    """One start of spo-train, its processes and what is done to them.

    seen: every process below it so far; samples: their memory (proportional set size, MiB) over the steps.
    """

    process: subprocess.Popen
    folder: Path
    part: str
    began: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.time)
    seen: dict[psutil.Process, str] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    own_folders: set[Path] = field(default_factory=set)
    shared: set[Path] = field(default_factory=set)
    injected: list[dict[str, Any]] = field(default_factory=list)

    def look(self, step: int) -> None:
        """Remember the processes, what is theirs, and their memory once there are steps."""
        processes = run_processes.of(self.process.pid)
        memory = {}
        for process in processes:
            try:
                kind = what_it_is(process)
                self.seen[process] = kind
                if step:
                    memory[str(process.pid)] = (kind, round(own_bytes(process, kind) / 2**20, 2))
                if kind == run_processes.CORE:
                    self.own_folders.add(run_processes.folder_of(process))
            except (psutil.Error, KeyError):
                continue  # it has just ended, or has just been forked
        self.shared |= run_processes.shared_memory(processes)
        if memory:
            at = round(time.monotonic() - self.began, 1)
            self.samples.append({"part": self.part, "step": step, "seconds": at, "processes": memory})

    def engines(self) -> list[tuple[psutil.Process, psutil.Process]]:
        """(engine, its core), those that are whole, in the order of their start."""
        cores = {core.ppid(): core for core in run_processes.named(self.process.pid, run_processes.CORE)}
        engines = run_processes.named(self.process.pid, run_processes.ENGINE)
        return [(engine, cores[engine.pid]) for engine in engines if engine.pid in cores]

    def kill_engine(self, fault: Fault, step: int) -> bool:
        """Kill an engine or its core, the only one where the other is not back yet. Returns whether there was one."""
        try:
            engines = self.engines()
            if not engines:
                return False
            engine, core = engines[fault.engine % len(engines)]
            os.kill((core if fault.kind == CORE else engine).pid, signal.SIGKILL)
        except (psutil.Error, ProcessLookupError):
            return False
        at = round(time.monotonic() - self.began, 1)
        self.injected.append(
            {"what": fault.kind, "planned_after": fault.after_step, "step": step, "seconds": at, "of": len(engines)}
        )
        return True

    def left(self) -> tuple[float, list[str]]:
        """Seconds until nothing of it was left, and what was still there after LEFT_S."""
        began = time.monotonic()
        while True:
            rest = [f"{self.seen[process]} {process.pid}" for process in run_processes.alive(list(self.seen))]
            rest += [str(path) for path in (*self.own_folders, *self.shared) if path.exists()]
            if not rest or time.monotonic() - began > LEFT_S:
                return time.monotonic() - began, rest
            time.sleep(POLL_S)
