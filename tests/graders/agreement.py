"""How often the grader agrees with labelled answers, by category; `--write` puts the table into docs/graders.md.

    python tests/graders/agreement.py [--write]

Grades labelled.jsonl and the rule-made variants of the data sets' answers (SPO_DATA_DIR, or ../shared/data).
"""

import argparse
import importlib.util
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from spo_rlhf.graders.algebra import warm_up
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs" / "graders.md"
DATA_DIR = Path(os.environ.get("SPO_DATA_DIR", HERE.parents[2] / "shared" / "data"))
VARIANT_FILES = ("math500.jsonl", "amc23.jsonl", "aime24.jsonl")
HEADER = "| set | category | pairs | agreement | false credit | false refusal |\n" + 6 * "| --- " + "|\n"
TABLE = re.compile(re.escape(HEADER) + r"(?:\|.*\n)*")


@dataclass
class Row:
    """Counts of one category, and the pairs that were graded against their label: (gold, output)."""

    pairs: int = 0
    false_credit: int = 0
    false_refusal: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def add(self, label: bool, gold: str, output: str, problem: str | None = None) -> None:
        correct = grade_here(Question(gold, problem), output).correct
        self.pairs += 1
        self.false_credit += correct and not label
        self.false_refusal += label and not correct
        if correct != label:
            self.wrong.append((gold, output))


Table = dict[tuple[str, str], Row]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure_labelled() -> Table:
    """The pairs written by hand."""
    table: Table = {}
    for case in sorted(read_rows(HERE / "labelled.jsonl"), key=lambda case: case["category"]):
        row = table.setdefault(("written", case["category"]), Row())
        row.add(case["correct"], case["gold"], case["pred"], case.get("problem"))
    return table


def measure_variants(answers: list[str]) -> Table:
    """Right and wrong forms of each answer, made by the rules of variants.py."""
    spec = importlib.util.spec_from_file_location("variants", HERE / "variants.py")
    variants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(variants)
    table: Table = {}
    for name, make in (("right form", variants.right_variants), ("wrong answer", variants.wrong_variants)):
        for answer in answers:
            for category, output in make(answer):
                table.setdefault((name, category), Row()).add(name == "right form", answer, output)
    return table


def markdown(table: Table) -> str:
    lines = []
    for (name, category), row in table.items():
        agreement = f"{100 * (1 - len(row.wrong) / row.pairs):.1f} %"
        cells = (name, category, row.pairs, agreement, row.false_credit, row.false_refusal)
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    return HEADER + "".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"replace the table in {DOCUMENT.name}")
    write = parser.parse_args().write
    warm_up()
    missing = [name for name in VARIANT_FILES if not (DATA_DIR / name).exists()]
    if missing:
        print(f"agreement.py: no {', '.join(missing)} in {DATA_DIR}; set SPO_DATA_DIR", file=sys.stderr)
        return 2
    answers = [row["answer"] for name in VARIANT_FILES for row in read_rows(DATA_DIR / name)]
    table = measure_labelled() | measure_variants(answers)
    for key, row in table.items():
        for gold, output in row.wrong:
            print(*key, repr(gold), repr(output), sep=" | ", file=sys.stderr)
    text = markdown(table)
    if write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(TABLE.sub(lambda _: text, document), encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
