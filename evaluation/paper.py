"""Table 1 of the paper (arXiv 2505.23564): 1.5B models, three context limits, one sample a problem, lenient grades."""

from evaluation.stats import wilson_interval

CONTEXTS = (2048, 4096, 32768)
PROBLEMS = {"math500": 500, "aime24": 30}
_SCORES = {  # per task, per model: right answers of PROBLEMS[task] at CONTEXTS
    "math500": {
        "R1-Distill-Qwen-1.5B": (283, 370, 419),
        "GRPO": (310, 376, 420),
        "SPO-tree": (368, 414, 424),
        "DeepScaleR-1.5B": (269, 372, 439),
        "STILL-3-1.5B": (331, 397, 423),
    },
    "aime24": {
        "R1-Distill-Qwen-1.5B": (2, 5, 8),
        "GRPO": (1, 6, 10),
        "SPO-tree": (3, 6, 10),
        "DeepScaleR-1.5B": (0, 5, 10),
        "STILL-3-1.5B": (2, 4, 7),
    },
}


def published(task: str, context: int) -> dict[str, tuple[float, float, float]]:
    """Model -> (accuracy, low, high), with the 95 % Wilson interval of one sample per problem.

    Empty where the table has no such cell.
    """
    if task not in _SCORES or context not in CONTEXTS:
        return {}
    n, column = PROBLEMS[task], CONTEXTS.index(context)
    return {
        model: (scores[column] / n, *wilson_interval(scores[column] / n, n)) for model, scores in _SCORES[task].items()
    }
