"""The commands that need no engine, through the real command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import stored_run

from evaluation import tables
from evaluation.__main__ import main, parse
from evaluation.contexts import as_rows
from evaluation.results import summarize
from evaluation.settings import RunOptions, RunSettings, from_arguments
from evaluation.stored import regrade
from spo_rlhf.host.files import read_json, read_jsonl, write_jsonl
from spo_rlhf.sampling.sample_log import unused_file

ROOT = Path(__file__).resolve().parents[2]


def test_grade_keeps_the_order_and_adds_its_columns(tmp_path, capsys):
    rows = [
        {"gold": "5", "pred": "#### 5", "tag": "a"},
        {"gold": "5", "pred": r"\boxed{9^{9^{9}}}", "tag": "b"},
        {"gold": r"\frac12", "pred": r"\boxed{\frac{2}{4}}", "problem": r"Simplify $\frac{2}{4}$.", "tag": "c"},
        {"gold": 7, "pred": "no answer", "tag": "d"},
    ]
    write_jsonl(tmp_path / "in.jsonl", rows)
    assert (
        main(["grade", "--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--workers", "1"])
        == 0
    )
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["tag"] for row in graded] == list("abcd")
    assert [row["correct"] for row in graded] == [True, False, False, False]
    assert graded[2]["reason"] == "copied from the problem" and graded[3]["extracted"] is None
    assert "1 of 4 correct" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_a_file_without_rows_is_no_grade(tmp_path, capsys, content):
    (tmp_path / "in.jsonl").write_text(content)
    files = ["--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["grade", *files]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("in.jsonl: it has no rows") and not (tmp_path / "out.jsonl").exists()


def test_half_a_surrogate_pair_in_one_answer_costs_no_other_row(tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"gold": "5", "pred": "#### 5"}\n{"gold": "5", "pred": "\\\\boxed{\\ud8005}"}\n{"gold": "6", "pred": "é #### 6"}\n'
    )
    files = ["--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["grade", *files, "--workers", "1"]) == 0
    assert [row["correct"] for row in read_jsonl(tmp_path / "out.jsonl")] == [True, False, True]
    assert list(read_jsonl(tmp_path / "out.jsonl"))[1]["pred"] == "\\boxed{\ud8005}", "and it comes back as it was"
    assert "é" in (tmp_path / "out.jsonl").read_text()


def test_grade_one_pair_and_both_modes(capsys):
    assert main(["grade", "--gold", "0.5", "--pred", r"It is \boxed{\frac12}."]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] is True
    assert main(["grade", "--gold", "Zoey is a knave", "--pred", "CONCLUSION:\n(1) Zoey is a knave"]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] is True
    assert main(["grade", "--gold", "5", "--pred", "The answer is 5.", "--mode", "lenient"]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grade", "--gold", "5"], "needs --file"),
        (["grade", "--gold", "nan", "--pred", r"\boxed{nan}"], "--gold: has 'nan'"),
        (["grade", "--gold", "  ", "--pred", "5"], "--gold: needs a text or a number"),
        (["grade", "--gold", "5\ud800", "--pred", "5"], "--gold: holds half of a surrogate pair"),
        (["grade", "--file", "missing.jsonl", "--output", "x"], "missing.jsonl: cannot be read"),
        (["report", "nowhere"], "missing or unreadable"),
        (["regrade", "nowhere"], "missing or unreadable"),
        (["run", "--model", "/nowhere", "--output", "x"], "no such folder"),
        (["run", "--model", "m", "--output", "x", "--top-p", "2"], "--top-p"),
        (["run", "--model", "m", "--output", "x", "--seed", "9" * 20], "is not a whole number from 0 to 2147483647"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run", "--model", "m"],
        ["run", "--contexts", "a"],
        ["run", "--contexts", "200,200"],
        ["run", "--dtype", "foo"],
        ["grade", "--mode", "x"],
        ["sample"],
        ["report", "-x"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("spo-eval") and error.count("\n") == 1 and "--help" in error


def test_what_cannot_be_loaded_or_written_says_what_to_do(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"problem": "1+1?", "answer": "2", "gold": "2", "pred": "2"}\n')
    run = ["run", "--output", str(tmp_path / "out"), "--tasks"]
    for arguments, advice in (
        ([*run, f"mine={tmp_path}/rows.jsonl", "--model", "nobody/nothing"], "download the model first"),
        ([*run, "gsm8k", "--model", "nobody/nothing"], "give --data-dir with gsm8k_test.jsonl"),
        ([*run, "gsm8k", "--model", "runs/no/model"], "no such folder"),
        (["grade", "--file", f"{tmp_path}/rows.jsonl", "--output", f"{tmp_path}/rows.jsonl/x"], "rows.jsonl: "),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert advice in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_the_sweep_script_shows_its_commands():
    script = ROOT / "examples" / "scripts" / "eval_context_sweep.sh"
    done = subprocess.run(["bash", str(script), "some/model", "--dry-run"], capture_output=True, text=True, check=True)
    run, report = done.stdout.splitlines()
    args = parse(run.partition(" -m evaluation ")[2].split())
    assert args.tasks == ("math500", "aime24", "gsm8k")
    assert (args.contexts, args.prompt) == ((2048, 4096, 32768), "open-r1")
    assert "report" in report and "--paper" in report
    assert subprocess.run(["bash", str(script), "--no-such"], capture_output=True).returncode == 2


def test_bad_rows_are_named(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"gold": "5", "pred": "5"}\n{"gold": \n')
    assert main(["grade", "--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "line 2 is not JSON" in capsys.readouterr().err
    (tmp_path / "in.jsonl").write_text('{"gold": "5"}\n')
    assert main(["grade", "--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert 'row 1 needs a text "pred"' in capsys.readouterr().err
    (tmp_path / "in.jsonl").write_text('{"gold": NaN, "pred": "x"}\n{"gold": true, "pred": "x"}\n{"pred": "x"}\n')
    assert main(["grade", "--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 2
    told = capsys.readouterr().err
    assert (
        "row 1 has nan as 'gold'" in told
        and "; row 3 needs a text or a number as 'gold'" in told
        and "row 2" not in told
    )
    (tmp_path / "in.jsonl").write_text('{"gold": "  ", "pred": "5"}\n\n{"gold": "5\\ud800", "pred": "5"}\n{\n')
    assert main(["grade", "--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]) == 2
    told = capsys.readouterr().err
    assert "row 1 needs a text or a number as 'gold'; row 3 holds half of a surrogate pair in 'gold'" in told
    assert "line 4 is not JSON" in told and told.count("\n") == 1


def test_settings_get_every_option_under_its_own_name():
    options = [
        "--model",
        "m",
        "--output",
        "d",
        "--tasks",
        "gsm8k,mine=x.jsonl",
        "--contexts",
        "256,64",
        "--samples",
        "3",
    ]
    more = ["--temperature", "0", "--top-p", "0.5", "--seed", "7", "--budget", "response", "--few-shot", "2"]
    args = parse(["run", *options, *more, "--limit", "9", "--no-curve", "--workers", "4", "--data-parallel", "2"])
    assert from_arguments(RunSettings, args) == RunSettings(
        model="m",
        tasks=("gsm8k", "mine=x.jsonl"),
        contexts=(64, 256),
        samples=3,
        temperature=0.0,
        top_p=0.5,
        seed=7,
        budget="response",
        few_shot=2,
        limit=9,
        curve=False,
    )
    assert from_arguments(RunOptions, args) == RunOptions(Path("d"), data_parallel=2, grade_workers=4)
    assert from_arguments(RunOptions, parse(["run", *options, "--eager"])).eager


def test_a_plugin_file_adds_a_kind_of_answers(tmp_path):
    """The example of docs/graders.md, as it stands there."""
    document = (ROOT / "docs" / "graders.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", document, re.DOTALL) if "KINDS.register" in block)
    plugin = tmp_path / "words.py"
    plugin.write_text(code)
    rows = [{"gold": "blue", "pred": "The sky is blue."}, {"gold": "blue", "pred": "The sky is red."}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    files = ["--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--workers", "1"]
    command = [sys.executable, "-m", "evaluation", "grade", "--kind", "word", *files]
    done = subprocess.run([*command, "--plugin", str(plugin)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["correct"] for row in read_jsonl(tmp_path / "out.jsonl")] == [True, False]
    without = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert without.returncode == 2 and without.stderr.count("\n") == 1
    assert "unknown answer kind 'word'; give auto, or one of math, roles" in without.stderr


def test_a_plugin_file_adds_a_task(tmp_path):
    """Told by the help, and loaded up to the model that is not there."""
    plugin = tmp_path / "sums.py"
    plugin.write_text(
        "from spo_rlhf.tasks.registry import TASKS\n"
        "from spo_rlhf.tasks.task import Task\n"
        "TASKS.register('sums')(Task('sums', files=('sums.jsonl',), template='{} = '))\n"
    )
    write_jsonl(tmp_path / "sums.jsonl", [{"problem": "1 + 1", "answer": 2}])
    command = [sys.executable, "-m", "evaluation", "run", f"--plugin={plugin}"]
    told = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sums, or NAME=PATH.jsonl" in " ".join(told.stdout.split())
    run = [*command, "--tasks", "sums", "--data-dir", str(tmp_path), "--model", "nobody/nothing", "--output", "x"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "download the model first" in done.stderr.splitlines()[-1]
    missing = subprocess.run([*command, "--plugin", "nowhere.py"], cwd=ROOT, capture_output=True, text=True)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and "nowhere.py: no such file" in missing.stderr


def test_stored_answers_of_a_kind_that_is_not_there_are_refused(tmp_path, capsys):
    folder = stored_run.make(tmp_path / "run", "m", [[5]], samples=1)
    path = folder / "samples" / "demo.jsonl"
    write_jsonl(path, [{**row, "kind": "word"} for row in read_jsonl(path)])
    assert main(["regrade", str(folder)]) == 2
    assert "answers of kind word: name the --plugin it was made with" in capsys.readouterr().err


def test_flags_win_over_a_preset():
    args = parse(["run", "--preset", "spo-paper", "--model", "m", "--output", "d", "--samples", "4"])
    assert (args.contexts, args.seed, args.prompt, args.budget, args.samples) == (
        (2048, 4096, 32768),
        1234,
        "open-r1",
        "total",
        4,
    )


def test_evaluation_never_imports_training_or_the_command_lines_not_even_through_others():
    code = (
        "import sys, evaluation.__main__, evaluation.run, evaluation.stored, spo_rlhf.sampling.engine\n"
        "rooms = ('trainer', 'rollout', 'methods', 'launch', 'cli')\n"
        "heavy = (*(f'spo_rlhf.{room}' for room in rooms), 'openrlhf', 'deepspeed', 'vllm', 'ray.')\n"
        "shared = ('spo_rlhf.rollout', 'spo_rlhf.rollout.prompts')\n"
        "print(*[name for name in sys.modules if name.startswith(heavy) and name not in shared])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


@pytest.fixture
def two_runs(tmp_path):
    first = stored_run.make(tmp_path / "first", "base", [[5, 5], [5, 6], [6, 6], [6, 7]])
    second = stored_run.make(tmp_path / "second", "tuned", [[5, 5], [5, 5], [5, 6], [6, 6]])
    for folder in (first, second):
        regrade(folder, workers=1)
    return first, second


def test_regrade_gives_the_stored_samples_their_grades(two_runs):
    summary = read_json(two_runs[0] / "results.json")["tasks"]["demo"]["contexts"]["64"]
    assert summary["n"] == 4 and summary["samples"] == 8 and summary["truncated"] == 0 and summary["mean_tokens"] == 20
    assert summary["strict"]["pass@1"] == pytest.approx(3 / 8)
    assert summary["strict"]["pass@k"] == {"2": pytest.approx(2 / 4)}
    assert summary["strict"]["majority"] == pytest.approx((1 + 0.5) / 4)
    assert summary["strict"]["tokens_per_correct"] == pytest.approx(160 / 3)
    cut = read_json(two_runs[0] / "results.json")["tasks"]["demo"]["contexts"]["25"]
    assert (
        cut["truncated"] == 1
        and cut["strict"]["pass@1"] == 0
        and cut["no_answer"] == 1
        and cut["strict"]["tokens_per_correct"] is None
    )
    assert regrade(two_runs[0], workers=1) == (0, 32)
    path = two_runs[0] / "samples" / "demo.jsonl"
    row = {**next(read_jsonl(path)), "gold": "7"}
    write_jsonl(unused_file(path), [row])
    assert regrade(two_runs[0], workers=1) == (0, 32)
    (row,) = read_jsonl(unused_file(path))
    assert row["grades"]["64"]["strict"]["correct"] is False, "what is put aside is graded too, and not counted"


def test_comparison_pairs_problems(two_runs):
    row = next(row for row in tables.comparisons(tables.load_runs(list(two_runs))) if row["context"] == 64)
    assert row["difference"] == pytest.approx((1 + 1 + 0.5 + 0) / 4 - (1 + 0.5 + 0 + 0) / 4)
    assert (row["only_first"], row["only_second"], row["p"]) == (0, 1, 1.0) and row["low"] <= row["difference"] <= row[
        "high"
    ]


def test_a_comparison_goes_by_what_was_asked_not_by_row_numbers(tmp_path):
    """The second run's file has a row in front, one right answer corrected, and one problem twice."""
    folders = [stored_run.make(tmp_path / name, name, [[5], [5], [6], [6]], samples=1) for name in ("a", "b")]
    problems = {"a": ["w", "x", "y", "y"], "b": ["new", "w", "x", "y"]}
    for folder in folders:
        rows = list(read_jsonl(folder / "samples" / "demo.jsonl"))
        rows = [{**row, "problem": text} for row, text in zip(rows, problems[folder.name])]
        rows[2]["gold"] = "6" if folder.name == "b" else "5"
        write_jsonl(folder / "samples" / "demo.jsonl", rows)
        regrade(folder, workers=1)
    # a: w right, x right, y wrong, y wrong; b: new right, w right, x, whose gold is another one, y wrong
    (row,) = [row for row in tables.comparisons(tables.load_runs(folders)) if row["context"] == 64]
    assert (row["problems"], row["difference"], row["only_first"], row["only_second"]) == (2, 0, 0, 0)


def test_report_writes_every_format(two_runs, tmp_path, capsys):
    target = tmp_path / "out"
    assert (
        main(["report", *map(str, two_runs), "--format", "md,html,png,json", "--output", str(target), "--paper"]) == 0
    )
    shown = capsys.readouterr().out
    assert "| base | demo | 64 | 4 | 8 | 37.5 |" in shown and "+25.0" in shown
    assert (target / "report.png").read_bytes().startswith(b"\x89PNG")
    page = (target / "report.html").read_text()
    assert "<td>tuned</td>" in page and 'src="data:image/png;base64,' in page
    data = read_json(target / "report.json")
    assert data["curves"]["demo"]["tuned"][-1][:2] == [64, 0.625]
    assert main(["report", str(two_runs[0]), "--format", "pdf"]) == 2


def test_paper_scores_stand_beside_ours_with_intervals():
    rows = [{"model": "mine", "task": "math500", "context": 2048, "lenient": {"pass@1": 0.7, "interval": [0.66, 0.74]}}]
    header, lines = tables.paper_table(rows)
    spo = next(line for line in lines if line[2] == "paper: SPO-tree")
    assert lines[0][2:4] == ["mine", "70.0"] and spo[3] == "73.6" and spo[4] == "69.6 to 77.3"
    assert tables.paper_table([{"model": "mine", "task": "gsm8k", "context": 2048}])[1] == []


def test_shares_of_a_summary_are_over_samples():
    grade = {
        "strict": {"correct": True, "extracted": "5", "reason": "timeout: x"},
        "lenient": {"correct": True, "extracted": "5", "reason": ""},
    }
    rows = [
        {"id": str(n), "grades": {"9": {"tokens": n, "chars": 1, "truncated": n % 2 == 0, **grade}}} for n in range(4)
    ]
    summary = summarize(rows, 9)
    assert (summary["truncated"], summary["mean_tokens"], summary["timeouts"], summary["no_answer"]) == (
        0.5,
        1.5,
        4,
        0,
    )
    assert summarize(rows, 10) == {} and as_rows([], {}) == {}


def test_best_of_k_shows_the_largest_k(two_runs):
    row = tables.cells(tables.load_runs([two_runs[0]]))[1]
    row["strict"]["pass@k"] = {"16": 0.5, "2": 0.25, "8": 0.4}
    assert "50.0 (k=16)" in tables.table([row])[0]


def test_runs_of_one_model_are_told_apart_by_folder(tmp_path):
    folders = [stored_run.make(tmp_path / name, "base", [[5], [6]], samples=1) for name in ("a", "b")]
    assert [run.label for run in tables.load_runs(folders)] == ["a", "b"]


def test_runs_with_one_label_are_called_by_their_folders_and_one_run_is_not_compared_with_itself(tmp_path, capsys):
    made = {"a/x": "y", "b/y": "base", "c/z": "base"}  # the first one's model is called as the second one's folder
    folders = [stored_run.make(tmp_path / name, model, [[5], [6]], samples=1) for name, model in made.items()]
    assert [run.label for run in tables.load_runs(folders)] == list(map(str, folders))
    assert main(["report", str(folders[0]), str(folders[0].parent / "." / "x")]) == 2
    assert "is there twice" in capsys.readouterr().err
