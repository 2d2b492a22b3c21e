"""What the pages under docs/ promise: the metrics that a run logs, the examples of parts of one's own."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PLACES = {"DATASET": "[a-z0-9_]+"}


def patterns() -> dict[str, re.Pattern[str]]:
    """Documented names, each as a pattern: N is a number, other capitals a name."""
    names = [
        name
        for line in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    found = {}
    for name in names:
        pattern = re.sub(r"(?<=_|s)N\b", r"\\d+", re.escape(name))
        for place, what in PLACES.items():
            pattern = pattern.replace(place, what)
        found[name] = re.compile(pattern)
    return found


def undocumented(metrics: set[str]) -> set[str]:
    """Names of logged metrics that the page does not have."""
    known = patterns().values()
    return {name for name in metrics if not any(pattern.fullmatch(name) for pattern in known)}


def examples() -> dict[str, str]:
    """The files shown in docs/extending.md, by name."""
    blocks = re.findall(
        r"```python\n(# (\w+\.py):.*?)```", (DOCS / "extending.md").read_text(encoding="utf-8"), re.DOTALL
    )
    return {name: block for block, name in blocks}
