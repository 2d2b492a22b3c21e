"""From graded samples to the numbers of a results file."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from evaluation.stats import majority_score, mean_interval, pass_at_k
from spo_rlhf.graders.normalize import normalize, squash
from spo_rlhf.graders.verdict import MODES

MAX_KEY_CHARS = 200  # of an extracted answer, when answers are counted for the majority vote


def problem_scores(rows: Sequence[dict[str, Any]], context: int, mode: str) -> dict[str, list[bool]]:
    """Problem id -> correct or not, one entry per sample, under a context limit."""
    scores: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if (at := row["grades"].get(str(context))) is not None:
            scores[row["id"]].append(at[mode]["correct"])
    return dict(scores)


def problem_contents(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """Problem id -> text, right answer, and how many such problems come before: the same in every run, unlike an id."""
    seen: Counter[tuple[str, str]] = Counter()
    contents: dict[str, tuple[str, str, int]] = {}
    for row in rows:
        if row["id"] not in contents:
            content = row["problem"], row["gold"]
            contents[row["id"]] = (*content, seen[content])
            seen[content] += 1
    return contents


def summarize(rows: Sequence[dict[str, Any]], context: int) -> dict[str, Any]:
    """One task's numbers under one context limit.

    Keys: n (problems), samples, truncated and no_answer (shares of samples), mean_tokens, timeouts, and per grading
    mode the scores of `summarize_mode`. Shares and scores are fractions of 1.
    """
    at = [row["grades"][str(context)] for row in rows if str(context) in row["grades"]]
    if not at:
        return {}
    return {
        "n": len({row["id"] for row in rows}),
        "samples": len(at),
        "truncated": sum(cut["truncated"] for cut in at) / len(at),
        "no_answer": sum(cut["strict"]["extracted"] is None for cut in at) / len(at),
        "timeouts": sum("timeout" in cut["strict"]["reason"] for cut in at),
        "mean_tokens": sum(cut["tokens"] for cut in at) / len(at),
        **{mode: summarize_mode(rows, context, mode) for mode in MODES},
    }


def summarize_mode(rows: Sequence[dict[str, Any]], context: int, mode: str) -> dict[str, Any]:
    """pass@1 with its interval, pass@k, majority vote and tokens per correct answer.

    pass@1 is the mean over problems of the mean over their samples.
    """
    scores = problem_scores(rows, context, mode)
    means = [sum(values) / len(values) for values in scores.values()]
    fewest = min(map(len, scores.values()))
    ks = sorted({2**i for i in range(1, fewest.bit_length()) if 2**i <= fewest} | ({fewest} if fewest > 1 else set()))
    cuts = [row["grades"][str(context)] for row in rows if str(context) in row["grades"]]
    correct = sum(cut[mode]["correct"] for cut in cuts)
    return {
        "pass@1": sum(means) / len(means),
        "interval": list(mean_interval(means, sum(map(len, scores.values())))),
        "pass@k": {str(k): sum(pass_at_k(len(v), sum(v), k) for v in scores.values()) / len(scores) for k in ks},
        "majority": _majority(rows, context, mode),
        "tokens_per_correct": sum(cut["tokens"] for cut in cuts) / correct if correct else None,
    }


def _majority(rows: Sequence[dict[str, Any]], context: int, mode: str) -> float:
    votes: dict[str, tuple[list[str | None], list[bool]]] = defaultdict(lambda: ([], []))
    for row in rows:
        if (at := row["grades"].get(str(context))) is not None:
            answers, correct = votes[row["id"]]
            # Right answers in several spellings are one answer.
            text = at[mode]["extracted"]
            answers.append(
                None if text is None else "right" if at[mode]["correct"] else squash(normalize(text[:MAX_KEY_CHARS]))
            )
            correct.append(at[mode]["correct"])
    return sum(majority_score(*both) for both in votes.values()) / len(votes)


def results(
    settings: dict[str, Any],
    versions: dict[str, str],
    tasks: dict[str, dict[str, Any]],
    rows: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """The results file. Holds nothing that depends on when or in how many attempts the samples were made.

    Args:
        settings: what the run was asked for; "contexts" and "curve" say which limits to report.
        tasks: per task what else is known of it (kind, prompt check).
        rows: per task its samples.
    """
    return {
        "settings": settings,
        "versions": versions,
        "tasks": {
            name: {
                **known,
                "contexts": {str(context): summarize(rows[name], context) for context in settings["contexts"]},
                "curve": {str(context): _curve_point(rows[name], context) for context in settings["curve"]},
            }
            for name, known in tasks.items()
        },
    }


def _curve_point(rows: Sequence[dict[str, Any]], context: int) -> dict[str, Any]:
    point = summarize(rows, context)
    return {mode: {key: point[mode][key] for key in ("pass@1", "interval")} for mode in MODES} if point else {}
