"""Where segments begin in the text of kept rollouts: inside a number or a word, at the end of a line, before a result, ..

python examples/scripts/lib/cut_places.py RUN
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spo_rlhf.host.command import OneLineParser, run_command
from spo_rlhf.rollouts import read

# Name of a place -> what the text before ends with, and what the text behind begins with. The first that fits holds.
PLACES = {
    "inside a number": (r"\d[.,]?$", r"[.,]?\d"),
    "inside a word": (r"[^\W\d]'?$", r"'?[^\W\d]"),
    "before the answer's first digit": (r"####\s*\$?$", r"\s*\$?\d"),
    "before a result's first digit": (r"=\s*\$?$", r"\s*[$-]?\d"),
    "before another number": (r"", r" ?\$?\d"),
    "at the end of the response": (r"", r"(<\|im_end\|>)?$"),
    "at the end or the beginning of a line": (r"(^|.*\n)$", r""),
    "at the end of a line": (r"", r"\s*\n"),
    "before an operator": (r"", r"\s*[-+*/=x×%](?![^\W\d])"),
    "before a word": (r"", r"\s*[^\W\d]"),
}
OTHER = "before another sign"
NEAR = 24  # characters that decide


def place(before: str, behind: str) -> str:
    """The name of the place between two texts."""
    for name, (end, begin) in PLACES.items():
        if re.search(end, before[-NEAR:], re.DOTALL) and re.match(begin, behind[:NEAR], re.DOTALL):
            return "at the end of a line" if name == "at the end or the beginning of a line" else name
    return OTHER


def places(texts: Sequence[str], at: Iterable[int]) -> list[str]:
    """The places before the tokens at these positions (0 .. T - 1) of a response that the texts of its T tokens make."""
    starts, whole = [0], "".join(texts)
    for text in texts:
        starts.append(starts[-1] + len(text))
    return [place(whole[: starts[t]], whole[starts[t] :]) for t in at]


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each place is the beginning of a segment, a cutpoint, and any token, the first of a response left out.

    A segment begins before a cutpoint, the `interval`-th since the last; the first begins with the response and is not counted.
    """
    counts: dict[str, Counter[str]] = {"segments": Counter(), "cutpoints": Counter(), "tokens": Counter()}
    for row in rows:
        texts, cuts = row["token_texts"], row["cuts"]
        counts["segments"].update(places(texts, row["boundaries"][1:-1]))
        counts["cutpoints"].update(places(texts, (t for t in range(1, len(texts)) if cuts[t])))
        counts["tokens"].update(places(texts, range(1, len(texts))))
    return {name: dict(found.most_common()) for name, found in counts.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="cut_places", description=__doc__)
    parser.add_argument("run", type=Path)
    return run_command(
        "cut_places", lambda: print(json.dumps(count(read(parser.parse_args(argv).run)), indent=1, ensure_ascii=False))
    )


if __name__ == "__main__":
    sys.exit(main())
