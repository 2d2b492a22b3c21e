"""Grading beside sampling: every response is graded in the background and stored when its grades are there."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluation.contexts import Cut, as_rows, cut_response, grades_needed
from evaluation.settings import RunSettings
from evaluation.tasks import LoadedTask, Problem
from spo_rlhf import graders, plugins
from spo_rlhf.graders.extract import opens_thought
from spo_rlhf.graders.parallel import Grader
from spo_rlhf.graders.verdict import MODES, Mode, Question, Verdict
from spo_rlhf.host.code import own_files
from spo_rlhf.sampling.engine import Response
from spo_rlhf.sampling.graded_by import GradedBy
from spo_rlhf.sampling.sample_log import SampleLog


@dataclass(frozen=True)
class Prompted:
    """A problem with its prompt. `key`: of the prompt's tokens, unique in the task."""

    task: LoadedTask
    problem: Problem
    question: str
    text: str
    token_ids: list[int]
    key: str


class Recorder:
    """Grades responses in the background and stores each one when all its grades are there. Shows progress.

    Args:
        code: names what grades.
        contexts: limits at which responses are graded, in rising order.
        logs: where samples go, by task.
        items: every request's problem, by the request's key.
        decode: token ids to text.
        quiet: no progress bar.
    """

    def __init__(
        self,
        grader: Grader,
        code: GradedBy,
        settings: RunSettings,
        contexts: list[int],
        logs: dict[str, SampleLog],
        items: dict[tuple[object, ...], Prompted],
        decode: Callable[[Sequence[int]], str],
        quiet: bool,
    ) -> None:
        self.grader, self.code, self.settings, self.contexts = grader, code, settings, contexts
        self.logs, self.items, self.decode = logs, items, decode
        self.waiting: list[tuple[dict[str, Any], list[Cut], dict[int, dict[Mode, Future[Verdict]]]]] = []
        self.tokens = 0
        self.right = self.graded = 0
        stored = sum(key[1:] in logs[str(key[0])].rows for key in items)
        self.progress = functools.partial(
            tqdm,
            total=len(items),
            initial=stored,
            unit="sample",
            disable=quiet,
            file=sys.stderr,
            dynamic_ncols=True,
        )
        self.bar = tqdm(disable=True)

    def start(self) -> None:
        """Show progress from now on: rate and time left are those of sampling, without the start of the engine."""
        self.bar = self.progress()
        self.started = time.monotonic()

    def add(self, response: Response) -> None:
        """Start grading a response under every context limit that its own one covers."""
        name, prompt_hash, sample, context = response.key
        item = self.items[response.key]
        contexts = [context] if self.settings.separate_contexts else self.contexts
        cuts = cut_response(
            response.token_ids,
            response.text,
            response.finished,
            len(item.token_ids),
            contexts,
            self.settings.budget,
            self.decode,
        )
        row = {
            "prompt_hash": prompt_hash,
            "sample": sample,
            "context": context,
            "prompt": item.text,
            "response": response.text,
            "finished": response.finished,
            "prompt_tokens": len(item.token_ids),
            "response_tokens": len(response.token_ids),
            "task": name,
            **about(item, self.code),
        }
        futures = {chars: submit_grades(self.grader, row, chars) for chars in grades_needed(cuts)}
        self.waiting.append((row, cuts, futures))
        self.tokens += len(response.token_ids)
        self._store(
            [
                entry
                for entry in self.waiting
                if all(future.done() for modes in entry[2].values() for future in modes.values())
            ]
        )

    def finish(self) -> None:
        """Wait for the last grades."""
        self._store(list(self.waiting))
        self.bar.close()

    def _store(self, entries: list[Any]) -> None:
        for entry in entries:
            row, cuts, futures = entry
            row["grades"] = as_rows(cuts, collect_grades(futures))
            row["grader"] = self.code.name()
            self.logs[row["task"]].append(row)
            self.waiting.remove(entry)
            self.graded += 1
            self.right += row["grades"][str(cuts[-1].context)]["strict"]["correct"]
            if not self.bar.disable:
                rate = self.tokens / max(time.monotonic() - self.started, 1e-3)
                self.bar.set_postfix_str(f"{rate:.0f} tokens/s, correct {self.right / self.graded:.1%}", refresh=False)
            self.bar.update()


def about(item: Prompted, code: GradedBy) -> dict[str, Any]:
    """What a stored sample says of its problem."""
    return {"id": item.problem.id, **decides_grade(item, code)}


def decides_grade(item: Prompted, code: GradedBy) -> dict[str, Any]:
    """What of its problem a stored sample is graded by, beside its prompt, and what grades it."""
    return {
        "problem": item.problem.text,
        "gold": item.problem.gold,
        "gold_solution": item.problem.gold_solution,
        "kind": item.task.task.kind,
        "grader": code.name(),
    }


def graded_by(output: Path, grader: Grader) -> GradedBy:
    """What grades the samples of a folder: the graders, the plugins with what they import, and what was found to."""
    known = {*own_files(plugins.brought()), *Path(graders.__file__).parent.glob("*.py")}
    return GradedBy(output, known, grader.files)


def update(grader: Grader, log: SampleLog, items: dict[tuple[Any, ...], Prompted], code: GradedBy) -> int:
    """Make stored samples say what their problems are now; how many were graded again for it.

    Args:
        items: the log's keys that belong to the run, each with its problem.
    """
    pending: list[tuple[dict[str, Any], dict[int, dict[Mode, Future[Verdict]]]]] = []
    for key, item in items.items():
        row = log.rows.get(key)
        if row is None or all(row.get(name) == value for name, value in about(item, code).items()):
            continue
        again = any(row.get(name) != value for name, value in decides_grade(item, code).items())
        row = {**row, **about(item, code)}
        chars = {cut["chars"] for cut in row["grades"].values()} if again else set[int]()
        pending.append((row, {count: submit_grades(grader, row, count) for count in chars}))
    for row, futures in pending:
        if grades := collect_grades(futures):
            row["grades"] = {context: {**cut, **grades[cut["chars"]]} for context, cut in row["grades"].items()}
            row["grader"] = code.name()
        log.append(row)
    return sum(bool(futures) for _, futures in pending)


def submit_grades(grader: Grader, row: dict[str, Any], chars: int) -> dict[Mode, Future[Verdict]]:
    """Start grading the first `chars` characters of a stored sample's response in every mode."""
    text = row["response"][:chars]
    question = Question(row["gold"], row["problem"], row["kind"], in_thought=opens_thought(row["prompt"]))
    questions = dict.fromkeys(MODES, question)
    if row["gold_solution"]:
        questions["lenient"] = replace(question, gold=row["gold_solution"])
    return {mode: grader.submit(asked, text, mode) for mode, asked in questions.items()}


def collect_grades(futures: dict[int, dict[Mode, Future[Verdict]]]) -> dict[int, dict[str, Any]]:
    """The results of `submit_grades` per number of characters, ready for a samples file."""

    def plain(grade: Verdict) -> dict[str, Any]:
        return {"correct": grade.correct, "extracted": grade.extracted, "reason": grade.reason}

    return {chars: {mode: plain(future.result()) for mode, future in modes.items()} for chars, modes in futures.items()}
