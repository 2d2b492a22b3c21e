"""Growth of cost: exponents of made-up points, what is doubled, wrong usage; and (slow) the counts of real rollouts."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import cost_growth as benchmark
import numpy as np
import pytest
import stack
from cost_growth import Point, exponent, exponents, result, verdict

from spo_rlhf.rollout.records import RolloutCounts

ROOT = Path(__file__).resolve().parents[2]


def points(power, noise=0.0, seed=0):
    """Settings 1, 2, 4 whose seconds grow with this power of the tokens, which grow linearly."""
    draw = np.random.default_rng(seed)
    return [Point(x, x, 100 * x, 8, 0.5 * x**power * math.exp(draw.normal(0, noise))) for x in (1, 2, 4)]


def test_exponents_are_slopes_of_logarithms():
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert exponent([5, 10], [7, 7]) == pytest.approx(0)
    with pytest.raises(ValueError, match="nothing was doubled"):
        exponent([3, 3], [1, 2])
    found = exponents([points(1.5), points(1)])
    assert found["tokens"] == pytest.approx([1, 1]) and found["sequences"] == pytest.approx([0, 0])
    assert found["seconds"] == pytest.approx([1.5, 1]) and found["seconds over tokens"] == pytest.approx([0.5, 0])


def test_what_grows_faster_than_the_tokens_is_said_beyond_the_noise():
    assert verdict([0.3, 0.4, 0.35]) == "faster than the tokens"
    assert verdict([-0.3, -0.4, -0.35]) == "slower than the tokens"
    assert verdict([0.03, -0.04, 0.05]) == "as the tokens" and verdict([0.3]) == "one repeat says nothing"
    assert verdict([0.3, -0.4, 0.05]) == "too noisy to say"


def test_a_result_has_intervals_that_cover_the_power():
    dimension = benchmark.dimensions(2, 32, 64)["prompts"]
    covered = 0
    for seed in range(40):
        one = result(dimension, [points(1.2, 0.1, 1000 * seed + repeat) for repeat in range(6)])
        interval = one["intervals"]["seconds"]
        covered += abs(interval["mean"] - 1.2) < interval["half_width"]
    assert covered >= 34 and one["settings"][1]["tokens"]["median"] == 200
    assert "| prompts | 1 | 4 | 1.00 ± 0.00 | 0.00 ± 0.00 |" in benchmark.table({"prompts": one})[-1]


def test_the_picture_has_a_panel_for_each_dimension(tmp_path):
    found = {
        name: result(one, [points(1), points(1.1)])
        for name, one in benchmark.dimensions(2, 32, 64).items()
        if name != "engines"
    }
    benchmark.picture(found, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_every_dimension_doubles_one_thing():
    for name, one in benchmark.dimensions(2, 32, 64).items():
        values = [setting.value for setting in one.settings]
        assert [later / first for first, later in zip(values, values[1:])] == [2] * (len(values) - 1), name
        changed = {
            (
                len({setting.prompts for setting in one.settings}) > 1,
                len({setting.engines for setting in one.settings}) > 1,
            )
        }
        assert changed == {(name == "prompts", name == "engines")}
        assert name in ("prompts", "engines") or len({setting.work for setting in one.settings}) == len(values)


def test_what_is_counted_is_of_a_response():
    counts = RolloutCounts(responses=4, response_tokens=100, mc_states=6)
    assert benchmark.counts_of(counts, "response_length", 8) == 25 and benchmark.counts_of(counts, "borders", 8) == 1.5
    assert benchmark.counts_of(counts, None, 8) == 8


def test_a_folder_without_a_model_is_one_line(tmp_path, capsys):
    assert benchmark.main(["--task-dir", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "make it with spo-prepare" in line and not (tmp_path / "out").exists()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_rollouts_have_the_counts_that_follow_from_what_is_doubled(tmp_path):
    task = stack.make_task(tmp_path / "task", train=16, test=2)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks/cost_growth.py",
            "--quick",
            "--task-dir",
            task,
            "--output",
            tmp_path / "out",
        ],
        env={**os.environ, "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert set(results) == set(benchmark.dimensions(1, 4, 16))
    assert (tmp_path / "out" / "growth.png").stat().st_size
    sequences = {name: [one["sequences"]["median"] for one in found["settings"]] for name, found in results.items()}
    assert sequences["prompts"] == [2 * 8, 4 * 8] and sequences["engines"] == [4 * 8] * 2
    assert sequences["branching"] == [2 * (2 + 4), 2 * (4 + 16)], "every node of a tree whose nodes do not end early"
    borders = [one["counted"]["median"] for one in results["boundaries"]["settings"]]
    assert borders == [1, 2] and sequences["boundaries"] == [2 * 4 * (1 + 4 * 1), 2 * 4 * (1 + 4 * 2)]
