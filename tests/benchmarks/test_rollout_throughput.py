"""The stages of the recorded requests, wrong usage, and on the real stack that all three ways sample the same tokens."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rollout_engines
import rollout_throughput as benchmark

from spo_rlhf.cli import quickstart

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = {(1, 2), (1, 3, 4)}


def asked(*state):
    return (list(state), 2, 8, 5, False)


def test_stages_are_the_prompts_then_what_continues_them_by_level():
    first, second, third = [asked(1, 2), asked(1, 3, 4)], [asked(1, 2, 9), asked(1, 3, 4, 9, 9)], [asked(1, 2, 9, 9, 9)]
    requests = [*third, *first, *second]
    assert benchmark.stages_of(requests, PROMPTS, 2) == [first, second, third]
    assert benchmark.stages_of(requests, PROMPTS, None) == [first, [*third, *second]]
    assert benchmark.stages_of(first, PROMPTS, None) == [first]


def test_engines_are_made_as_a_run_makes_them(tmp_path):
    args = benchmark.build_parser().parse_args(["--task-dir", str(tmp_path), "--output", str(tmp_path / "out")])
    assert hasattr(rollout_engines.factory_of(args).actor_class, "remote")


def test_a_folder_without_a_model_is_one_line(tmp_path, capsys):
    assert benchmark.main(["--task-dir", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "make it with spo-prepare" in line and not (tmp_path / "out").exists()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_three_ways_sample_the_same_tokens(tmp_path):
    options = [*quickstart.prepare_options(tmp_path / "task"), "--warm-up-steps", "80"]
    assert quickstart.run(quickstart.command("prepare", options)) == 0
    command = [sys.executable, str(ROOT / "benchmarks" / "rollout_throughput.py"), "--quick"]
    done = subprocess.run(
        [*command, "--task-dir", tmp_path / "task", "--output", tmp_path / "out"],
        env={**os.environ, "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert set(results) == {"group 8", "chain 4 x 4", "tree 4-4-4"}
    for one in results.values():
        [tokens] = {tuple(counts) for counts in one["tokens"].values()}
        assert len(tokens) == 1, "every turn of every way"
    assert (tmp_path / "out" / "throughput.png").stat().st_size
