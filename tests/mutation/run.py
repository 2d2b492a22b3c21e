#!/usr/bin/env python
"""Mutation testing: makes small wrong versions of the code, one at a time, and sees whether the fast tests notice.

    nice -n 19 .venv/bin/python tests/mutation/run.py core                        every mutant of spo_rlhf/core
    nice -n 19 .venv/bin/python tests/mutation/run.py grader --sample 200 --seed 1
    nice -n 19 .venv/bin/python tests/mutation/run.py spo_rlhf/core/tree.py       one file of these
    nice -n 19 .venv/bin/python tests/mutation/run.py core --again core.json      those alone that were alive in core.json

Works on a temporary copy, so the checkout may change meanwhile, and one process at a time. The tests run once as they are,
to know which of them execute which lines and how long they take; then each mutant meets the tests that execute its
statement, the fastest first, until one fails. A mutant that no test notices is alive. One that takes more than
its time counts as noticed: nothing but an endless loop comes near the limit. Texts, annotations and decorators are not
mutated (mutants.py). What is alive and why is in docs/testing.md.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("spo_rlhf", "evaluation", "benchmarks", "examples", "docs", "tests", "README.md", "setup.cfg")
# Name -> files, and the tests that are to notice what is wrong in them.
TARGETS: dict[str, tuple[list[str], list[str]]] = {
    "core": (
        sorted(f"spo_rlhf/core/{path.name}" for path in (ROOT / "spo_rlhf/core").glob("[!_]*.py")),
        ["tests/core"],
    ),
    "grader": (
        [f"spo_rlhf/graders/{name}.py" for name in ("compare", "scalars", "structure", "numbers", "normalize")],
        ["tests/graders"],
    ),
    "statistics": (["evaluation/stats.py"], ["tests/evaluation/test_stats.py"]),
}
GRACE_S, SLOWER = 20, 10  # a mutant's limit: so many seconds, and so many times what its tests take
PYTEST = ["-x", "-q", "-m", "not e2e", "--no-header", "--tb=no"]
# The last two only cost time, at each start and end.
PYTEST += ["-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:unraisableexception"]
# Tests of time limits fail on a busy machine, whatever the mutant.
BY_TIME = ("test_what_passes_the_guards_is_stopped_by_the_limit", "test_hostile_input_is_wrong_with_a_reason_and_quick")
PYTEST += [f"--deselect=tests/graders/test_grade.py::{test}" for test in BY_TIME]


class Baseline:
    """Seconds of each test, and the lines of the target files that it executes."""

    def __init__(self, files: list[str]) -> None:
        self.files = {str(Path(file).resolve()): file for file in files}
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, set[tuple[str, int]]] = {}
        self.at_import: set[tuple[str, int]] = set()  # executed while the tests are imported

    @pytest.hookimpl(hookwrapper=True)
    def pytest_collection(self):
        with self.traced(self.at_import):
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        hit = self.lines[item.nodeid] = set()
        start = time.monotonic()
        with self.traced(hit):
            yield
        self.seconds[item.nodeid] = time.monotonic() - start

    @contextlib.contextmanager
    def traced(self, hit: set[tuple[str, int]]):
        """Puts into `hit` which lines of the files are executed meanwhile, in whatever thread."""

        def trace(frame, event, _):
            file = self.files.get(frame.f_code.co_filename)
            if file is None:
                return None

            def local(frame, event, _):
                hit.add((file, frame.f_lineno))
                return local

            return local(frame, event, None)

        threading.settrace(trace)
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # pyright: ignore[reportArgumentType]

    def tests_of(self, file: str, mutant: Mutant) -> list[str]:
        """The tests that execute a mutant, the fastest first."""
        found = self.seconds
        if mutant.lines is not None:
            where = {(file, line) for line in range(mutant.lines[0], mutant.lines[1] + 1)}
            if not where & self.at_import:
                found = [test for test, lines in self.lines.items() if lines & where]
        return sorted(found, key=self.seconds.__getitem__)


class Chosen:
    """Runs these tests alone, in this order, without looking for the smallest example; keeps the first that fails."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: number for number, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutants", parent=settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda one: self.place[one.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.failed = f"{report.nodeid} (import)"


def forked(work, limit_s: float, cached: bool = False) -> Any:
    """What `work` returns in a child process, as JSON; None where it takes longer than the limit or breaks."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reads)
        if not cached:  # else the mutant could outlive its run
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        try:
            with os.fdopen(writes, "w") as pipe:
                json.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(writes)
    killer = threading.Timer(limit_s, os.killpg, (child, signal.SIGKILL))
    killer.start()
    with os.fdopen(reads) as pipe:
        said = pipe.read()
    killer.cancel()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # whatever its tests have left behind
    os.waitpid(child, 0)
    return json.loads(said) if said else None


def measure(files: list[str], tests: list[str]) -> Baseline:
    """The tests as they are, with what they execute. Exits where they fail."""
    baseline = Baseline(files)

    def work() -> object:
        status = pytest.main([*PYTEST, *tests], plugins=[baseline])
        lines = {test: sorted(lines) for test, lines in baseline.lines.items()}
        return int(status), baseline.seconds, lines, sorted(baseline.at_import)

    said = forked(work, 1800, cached=True)
    if said is None or said[0] != 0:
        raise SystemExit(
            "error: the tests fail as they are: run `.venv/bin/python -m pytest " + " ".join(tests) + "` first"
        )
    _, baseline.seconds, lines, at_import = said
    baseline.lines = {test: set(map(tuple, hit)) for test, hit in lines.items()}
    baseline.at_import = set(map(tuple, at_import))
    return baseline


def judge(file: str, mutant: Mutant, baseline: Baseline) -> dict:
    """Whether a test notices the mutant, and which."""
    tests = baseline.tests_of(file, mutant)
    row = {"file": file, "line": mutant.line, "column": mutant.column, "change": mutant.change, "tests": len(tests)}
    if not tests:
        return row | {"verdict": "alive", "by": ""}
    Path(file).write_text(mutant.text, encoding="utf-8")

    def work() -> object:
        chosen = Chosen(tests)
        status = pytest.main([*PYTEST, *sorted({test.partition("::")[0] for test in tests})], plugins=[chosen])
        return int(status), chosen.failed

    said = forked(work, GRACE_S + SLOWER * sum(baseline.seconds[test] for test in tests))
    if said is None:
        return row | {"verdict": "timeout", "by": ""}
    return row | {"verdict": "alive" if said[0] == 0 else "killed", "by": said[1]}


def copy_of_the_checkout(where: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, where / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, where / name)


def load_libraries() -> None:
    """What the tests need and is not mutated, once for all the forks."""
    import hypothesis.extra.numpy  # noqa: F401
    import math_verify
    import scipy.stats  # noqa: F401
    import statsmodels.stats.proportion  # noqa: F401
    import sympy  # noqa: F401
    import torch

    from spo_rlhf import upstream

    assert upstream.PolicyLoss  # loads OpenRLHF with all that it needs
    torch.set_num_threads(1)
    math_verify.parse("1", parsing_timeout=None)
    mutated = {file.removesuffix(".py").replace("/", ".") for files, _ in TARGETS.values() for file in files}
    assert not mutated & sys.modules.keys(), "what is loaded here is loaded once, as it is"
    gc.collect()
    gc.freeze()  # a fork that looked through all of this for garbage would take a second more


def table(rows: list[dict]) -> str:
    rows = sorted(rows, key=lambda row: (row["file"], row["line"], row["column"]))
    lines = [f"{'':34} mutants  noticed  timeout    alive    score"]
    for file in [*dict.fromkeys(row["file"] for row in rows), "all"]:
        count = Counter(row["verdict"] for row in rows if file in ("all", row["file"]))
        total = count.total()
        parts = (total, count["killed"], count["timeout"], count["alive"])
        lines.append(f"{file:34}" + "".join(f"{part:9}" for part in parts) + f"{1 - count['alive'] / total:9.1%}")
    alive = [
        f"{r['file']}:{r['line']}:{r['column']}: {r['change']}  ({r['tests']} tests)"
        for r in rows
        if r["verdict"] == "alive"
    ]
    return "\n".join([*lines, *(["", "alive:"] if alive else []), *alive])


def parse() -> argparse.Namespace:
    description, _, text = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET", help=f"{', '.join(TARGETS)}, or a file of these")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", type=Path, metavar="JSON", help="only the mutants that an earlier run left alive")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write each mutant with its verdict here")
    args = parser.parse_args()
    known = {file for files, _ in TARGETS.values() for file in files}
    for target in args.targets:
        if target not in TARGETS and target not in known:
            parser.error(f"unknown target {target}: give {', '.join(TARGETS)} or a file of these")
    return args


def drawn(args: argparse.Namespace, files: list[str]) -> list[tuple[str, Mutant]]:
    """The mutants that were asked for."""
    pool = [(file, mutant) for file in files for mutant in mutants(Path(file).read_text(encoding="utf-8"))]
    if args.again:
        rows = json.loads(args.again.read_text(encoding="utf-8"))
        alive = {(row["file"], row["column"], row["change"]) for row in rows if row["verdict"] == "alive"}
        pool = [(file, mutant) for file, mutant in pool if (file, mutant.column, mutant.change) in alive]
    if args.sample is None or args.sample >= len(pool):
        return pool
    return random.Random(args.seed).sample(pool, args.sample)  # in no order: a run that is stopped is a smaller sample


def judged(pool: list[tuple[str, Mutant]], baseline: Baseline) -> Iterator[dict]:
    """A verdict on each mutant, which stands in the place of its file meanwhile."""
    start, alive = time.monotonic(), 0
    for number, (file, mutant) in enumerate(pool, 1):
        as_it_is = Path(file).read_text(encoding="utf-8")
        # A cached version of the file would hide the mutant: same second, same size.
        for cached in Path(file).parent.glob(f"__pycache__/{Path(file).stem}.*"):
            cached.unlink()
        row = judge(file, mutant, baseline)
        Path(file).write_text(as_it_is, encoding="utf-8")
        alive += row["verdict"] == "alive"
        if number % 20 == 0 or number == len(pool):
            seconds = time.monotonic() - start
            print(f"{number}/{len(pool)} mutants, {alive} alive, {seconds:.0f} s", file=sys.stderr, flush=True)
        yield row


def main() -> None:
    args = parse()
    if args.again:
        args.again = args.again.resolve()
    output = args.json.resolve() if args.json else None
    found = []
    with tempfile.TemporaryDirectory(prefix="spo-mutants-") as folder:
        copy_of_the_checkout(Path(folder))
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = folder
        load_libraries()
        for name, (files, tests) in TARGETS.items():
            wanted = [file for file in files if name in args.targets or file in args.targets]
            if not wanted:
                continue
            for row in judged(drawn(args, wanted), measure(wanted, tests)):
                found.append(row)
                if output:
                    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
