"""What a run is asked for, and the check that a folder is continued under the same settings."""

import argparse
import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from evaluation.contexts import Budget, curve_contexts
from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_json, write_json

# What a sample is told apart by: problem id, number of the sample, context it was generated for.
SAMPLE_KEY = ("id", "sample", "context")
Settings = TypeVar("Settings", "RunSettings", "RunOptions")


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the results. A folder's samples are continued only under the same settings."""

    model: str
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]
    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    budget: Budget = "total"
    prompt: str | None = None
    system: str | None = None
    chat_template: str = "auto"
    few_shot: int = 0
    few_shot_file: str | None = None
    limit: int | None = None
    separate_contexts: bool = False
    curve: bool = True
    dtype: str = "auto"


@dataclass(frozen=True)
class RunOptions:
    """How the run is done, without effect on what it computes."""

    output: Path
    data_dir: Path | None = None
    data_parallel: int = 1
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    trust_remote_code: bool = False
    grade_workers: int | None = None
    quiet: bool = False


def from_arguments(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """RunSettings or RunOptions of a command line whose options have the fields' names."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


def graded_contexts(settings: RunSettings) -> list[int]:
    """The limits at which samples are graded, in rising order: those asked for, and those of the curve."""
    if settings.curve and not settings.separate_contexts:
        return curve_contexts(settings.contexts)
    return sorted(settings.contexts)


def request_seed(seed: int, task: str, problem: str, sample: int) -> int:
    """A sample's own seed, in [0, 2**31): the same in every run with this seed, whatever else runs and at any context.

    Not `core.seeds.derive_seed`: with other seeds, stored runs could no longer be continued.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\0{task}\0{problem}\0{sample}".encode()).digest()[:4], "big") >> 1


def check_folder(settings: RunSettings, output: Path) -> None:
    """Refuse to continue a run under other settings, except with more samples; write down the settings of a new one.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    path, asked = output / "run.json", _plain(asdict(settings))
    if path.exists():
        before = read_json(path)
        changed = [key for key in asked if before.get(key) != asked[key]]
        if changed == ["samples"] and asked["samples"] > before["samples"]:
            write_json(path, asked)  # each sample has its own seed, so more of them leave the others as they are
        elif changed:
            raise UserError(
                f"--output {output} holds a run with another {', '.join(changed)}; "
                "choose another folder, or remove that one (only --samples may grow)"
            )
    else:
        write_json(path, asked)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
