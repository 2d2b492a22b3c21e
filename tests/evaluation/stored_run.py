"""A run of spo-eval without an engine: its folder, with samples that no grader has seen."""

from pathlib import Path

from evaluation.settings import RunSettings
from evaluation.stored import write_results
from spo_rlhf.host.files import write_json, write_jsonl


def make(folder: Path, model: str, answers: list[list[int]], samples: int = 2) -> Path:
    """A stored run of one task: per problem the numbers that its samples box.

    A response is 20 tokens, cut short at context 25.
    """
    settings = RunSettings(model, ("demo",), (25, 64), samples=samples, curve=False)
    rows = []
    for number, boxed in enumerate(answers):
        for sample, value in enumerate(boxed):
            response = rf"Let me think about it. So \boxed{{{value}}}"
            cuts = {
                "25": {"tokens": 15, "chars": 18, "truncated": True},
                "64": {"tokens": 20, "chars": len(response), "truncated": False},
            }
            nothing = {"correct": False, "extracted": None, "reason": ""}
            rows.append(
                {
                    "id": f"p{number}",
                    "sample": sample,
                    "context": 64,
                    "prompt": "?",
                    "response": response,
                    "finished": True,
                    "prompt_tokens": 10,
                    "response_tokens": 20,
                    "problem": "?",
                    "gold": "5",
                    "gold_solution": None,
                    "task": "demo",
                    "kind": "math",
                    "grades": {key: {**cut, "strict": nothing, "lenient": nothing} for key, cut in cuts.items()},
                }
            )
    write_json(folder / "run.json", {**settings.__dict__, "tasks": ["demo"], "contexts": [25, 64]})
    write_jsonl(folder / "samples" / "demo.jsonl", rows)
    write_results(
        settings,
        folder,
        {"demo": {"kind": "math", "problems": len(answers), "data": "", "published_prompts": None}},
        {"demo": rows},
    )
    return folder
