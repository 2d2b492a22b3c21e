"""What a run is asked for, and what of it decides a sample."""

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from evaluation.contexts import Budget, curve_contexts
from spo_rlhf.host.files import write_json
from spo_rlhf.sampling.graded_by import FILE as GRADED_BY

# What a sample is told apart by: key of its prompt's tokens, number of the sample, context it was generated for.
SAMPLE_KEY = ("prompt_hash", "sample", "context")
# What decides a sample and where it is graded, beside model, prompt and engine.
DECIDING = ("contexts", "temperature", "top_p", "seed", "budget", "separate_contexts", "curve", "dtype")
# What is moved aside with samples of something else.
HOLDS = (GRADED_BY, "run.json", "results.json", "samples")
DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")  # of vLLM
Settings = TypeVar("Settings", "RunSettings", "RunOptions")


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the results, beside what the files hold that it names."""

    model: str
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]
    samples: int | None = None  # as many as each task says
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
    eager: bool = False
    grade_workers: int | None = None
    quiet: bool = False
    fresh: bool = False


def from_arguments(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """RunSettings or RunOptions of a command line whose options have the fields' names."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


def graded_contexts(settings: RunSettings) -> list[int]:
    """The limits at which samples are graded, in rising order: those asked for, and those of the curve."""
    if settings.curve and not settings.separate_contexts:
        return curve_contexts(settings.contexts)
    return sorted(settings.contexts)


def write_settings(settings: RunSettings, output: Path) -> None:
    """Write down what was asked for, for `regrade` and the reader."""
    asked = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
    write_json(output / "run.json", asked)
