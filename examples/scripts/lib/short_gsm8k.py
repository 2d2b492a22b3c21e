"""Short problems of GSM8K with short solutions, in three files of which no two share a problem.

    python examples/scripts/lib/short_gsm8k.py DATA OUTPUT --model FOLDER
    python examples/scripts/lib/short_gsm8k.py DATA       only checks that DATA has such rows, and enough

DATA is a JSONL file with "question" or "problem" and either "answer" with the worked text and `#### 72` at its end, as GSM8K has
it, or "solution" with that text and "answer" with the number. Writes train.jsonl and test.jsonl (problem, answer) and sft.jsonl
(problem, solution: without the calculator's notes <<48/2=24>>) to OUTPUT.
"""

import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spo_rlhf.errors import UserError
from spo_rlhf.host.command import OneLineParser, run_command
from spo_rlhf.host.files import read_jsonl, whole_or_nothing, write_jsonl

PROGRAM = "short_gsm8k"
NOTE = re.compile(r"<<[^<>]*>>")
MARK = "####"


def worked(row: dict[str, Any], where: str) -> dict[str, str]:
    """Problem, worked solution without notes, and answer of a row. Raises UserError, which names `where`."""
    problem = row.get("problem", row.get("question"))
    solution = row.get("solution", row.get("answer"))
    if not isinstance(problem, str) or not isinstance(solution, str) or MARK not in solution:
        raise UserError(f'{where}: give "question" and "answer" with "{MARK} NUMBER" at its end, as GSM8K has them')
    return {
        "problem": problem.strip(),
        "solution": NOTE.sub("", solution).strip(),
        "answer": solution.rpartition(MARK)[2].strip(),
    }


def choose(rows: Sequence[dict[str, str]], tokenizer: Any, question_tokens: int, solution_tokens: int) -> list[dict]:
    """The rows whose problem and solution have at most so many tokens; of a problem that comes twice the first."""
    unique = list({row["problem"]: row for row in reversed(rows)}.values())[::-1]
    lengths = [tokenizer([row[name] for row in unique])["input_ids"] for name in ("problem", "solution")]
    return [
        row
        for row, problem, solution in zip(unique, *lengths, strict=True)
        if len(problem) <= question_tokens and len(solution) <= solution_tokens
    ]


def split(rows: list[dict], train: int, test: int, warm_up: int, seed: int) -> dict[str, list[dict]]:
    """Rows by file, drawn at random. Raises UserError where there are too few."""
    if len(rows) < train + test + warm_up:
        raise UserError(
            f"{len(rows)} short problems, {train + test + warm_up} wanted; ask for fewer, or raise the limits of tokens"
        )
    drawn = random.Random(seed).sample(rows, train + test + warm_up)
    asked = [{"problem": row["problem"], "answer": row["answer"]} for row in drawn[: train + test]]
    solved = [{"problem": row["problem"], "solution": row["solution"]} for row in drawn[train + test :]]
    return {"train.jsonl": asked[:train], "test.jsonl": asked[train:], "sft.jsonl": solved}


def make(args: Any) -> None:
    rows = [worked(row, f"{args.data}: row {number}") for number, row in enumerate(read_jsonl(args.data), start=1)]
    if len(rows) < (wanted := args.train + args.test + args.warm_up):
        raise UserError(f"{args.data}: {len(rows)} rows, and {wanted} are drawn; ask for fewer")
    if args.output is None:
        return
    if args.model is None or not Path(args.model).is_dir():
        raise UserError(f"--model {args.model}: no such folder; smollm2_gsm8k.sh's stage model makes it")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    short = choose(rows, tokenizer, args.question_tokens, args.solution_tokens)
    files = split(short, args.train, args.test, args.warm_up, args.seed)
    with whole_or_nothing(args.output) as folder:
        for name, content in files.items():
            write_jsonl(folder / name, content)
    print(
        f"{len(short)} of {len(rows)} problems are short; {', '.join(f'{name}: {len(files[name])}' for name in files)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    add = parser.add_argument
    add("data", type=Path)
    add("output", type=Path, nargs="?")
    add("--model", help="folder whose tokenizer counts")
    add("--question-tokens", type=int, default=60, help="at most; default: %(default)s")
    add("--solution-tokens", type=int, default=50, help="at most; default: %(default)s")
    add("--train", type=int, default=96, help="problems; default: %(default)s")
    add("--test", type=int, default=64, help="problems; default: %(default)s")
    add("--warm-up", type=int, default=400, help="worked solutions; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    return run_command(PROGRAM, lambda: make(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
