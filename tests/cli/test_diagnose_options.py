"""spo-diagnose: wrong usage is one line and status 2 before any library is loaded; what is sampled is told as in spo-sample."""

import json
import math

import numpy
import pytest
from safetensors.numpy import save_file

from spo_rlhf.cli import diagnose
from spo_rlhf.cli.diagnose import build_parser, job_of


@pytest.fixture
def arguments(tmp_path):
    """The least arguments, with changes; a missing value is a switch."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    save_file({"weight": numpy.zeros(1)}, tmp_path / "model" / "model.safetensors")
    rows = ({"problem": f"{n}+1?", "answer": str(n + 1)} for n in range(8))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text("def reward_func(queries, prompts, labels): ...\n")
    files = {"model": tmp_path / "model", "data": tmp_path / "data.jsonl", "reward": tmp_path / "reward.py"}
    least = {**files, "input-key": "problem", "label-key": "answer", "output": tmp_path / "out"}

    def make(**changes) -> list[str]:
        values = least | {name.replace("_", "-"): value for name, value in changes.items()}
        return [str(part) for name, value in values.items() for part in (f"--{name}", value) if part is not None]

    return make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere/model"}, "no such folder with a config.json"),
        ({"data": "nowhere.jsonl"}, "--data nowhere.jsonl: no such file"),
        ({"input_key": "question"}, "row 1 has no 'question'"),
        ({"reward": "http://localhost:1"}, "not a .py file"),
        ({"responses": 2}, "--responses: '2' is not a whole number from 3"),
        ({"continuations": 1}, "--continuations: '1' is not a whole number from 2"),
        ({"prompts": 4}, "--prompts"),
        ({"history": -1}, "--history"),
        ({"threshold": 0}, "--threshold"),
        ({"samples": 8}, "--samples"),
        ({"select": "pairs"}, "--select"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, changes, message, capsys):
    assert diagnose.main(arguments(**changes)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_dry_run_tells_all_of_it_and_starts_nothing(arguments, capsys, tmp_path):
    assert diagnose.main([*arguments(threshold=0.9), "--dry-run"]) == 0
    told = capsys.readouterr().out
    for line in ("prompts = 64", "responses = 4", "continuations = 2", "threshold = 0.9", "history = 8", "seed = 42"):
        assert f"  {line}\n" in told
    assert "min_reward" not in told and told.endswith("nothing was started\n")
    assert not (tmp_path / "out").exists()


def test_the_job_is_that_of_the_options(arguments):
    def job(**changes):
        options = vars(build_parser().parse_args(arguments(**changes)))
        del options["dry_run"]
        return job_of(options)

    assert job().plan.threshold == math.inf and job().sampling.temperature == 1.0
    mine = job(responses=6, probes=3, seed=5, history=0)
    assert (mine.plan.responses, mine.plan.probes, mine.plan.seed, mine.history) == (6, 3, 5, 0)
    assert mine.sampling.seed == 5


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        diagnose.main(["--help"])
    out = capsys.readouterr().out
    assert "spo-diagnose ... --history 0" in out and "--rollout.temperature" in out and "--per-prompt" not in out
