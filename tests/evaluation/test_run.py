"""A whole run of the command, with an engine that answers from a script in place of vLLM."""

import json
import re
from pathlib import Path

import pytest

import evaluation.run
from evaluation.__main__ import main
from spo_rlhf import plugins
from spo_rlhf.graders.kinds import KINDS
from spo_rlhf.host.files import only_writer, read_json, read_jsonl, write_jsonl
from spo_rlhf.sampling import graded_by
from spo_rlhf.sampling.engine import EngineSettings, Request, Response
from spo_rlhf.tasks.registry import TASKS
from spo_rlhf.tasks.small_model import build_model, build_tokenizer

ROWS = [{"id": f"p{n}", "problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(1, 5)]
LONG = {"id": "long", "problem": "What is 1 + 1? " * 40, "answer": "2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder and two problem files; the last problem of the second fills the context by itself."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = build_tokenizer([row["problem"] for row in ROWS] * 50, 300)
    build_model(tokenizer, seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "sums.jsonl", ROWS)
    write_jsonl(folder / "more.jsonl", [*ROWS, LONG])
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Scripted:
    """Answers 2n to the n-th problem, but for the first sample of each; remembers what it was asked."""

    def __init__(self, folder: Path):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.settings: list[EngineSettings] = []
        self.asked: list[Request] = []
        self.closed = 0

    def start(self, settings: EngineSettings, replicas: int) -> "Scripted":
        self.settings.append(settings)
        return self

    def generate(self, requests):
        for request in requests:
            self.asked.append(request)
            asked = self.tokenizer.decode(request.prompt_ids)
            number = int(re.findall(r"is ?(\d+)", asked.replace(" ", ""))[-1])
            text = rf"So \boxed{{{2 * number if request.key[2] else 99}}}"
            ids = tuple(self.tokenizer(text)["input_ids"])[: request.max_tokens]
            yield Response(request.key, ids, self.tokenizer.decode(ids), len(ids) < request.max_tokens)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engine(folder, monkeypatch) -> Scripted:
    engine = Scripted(folder)
    monkeypatch.setattr(evaluation.run, "start_engine", engine.start)
    return engine


def command(folder: Path, output: Path, *more: str, file: str = "sums.jsonl") -> list[str]:
    where = ["--model", str(folder / "model"), "--tasks", f"sums={folder / file}", "--output", str(output)]
    return ["run", *where, "--contexts", "200", "--no-curve", "--workers", "1", "--quiet", *more]


def test_a_run_asks_grades_and_writes_what_was_sampled(folder, engine, tmp_path, capsys):
    options = ["--samples", "2", "--temperature", "0.5", "--top-p", "0.9", "--seed", "5", "--dtype", "float32"]
    assert main(command(folder, tmp_path, *options, "--prompt", "few-shot")) == 0
    assert "| sums | 200 | 4 | 8 | 50.0 |" in capsys.readouterr().out
    (settings,) = engine.settings
    assert settings == EngineSettings(
        model=str(folder / "model"),
        max_model_len=200,
        temperature=0.5,
        top_p=0.9,
        stop=("\nProblem:",),
        seed=5,
        dtype="float32",
    )
    assert len({request.seed for request in engine.asked}) == 8 and engine.closed == 1
    samples = list(read_jsonl(tmp_path / "samples" / "sums.jsonl"))
    assert [(row["id"], row["sample"]) for row in samples] == [(f"p{n}", k) for n in range(1, 5) for k in (0, 1)]
    assert samples[0]["prompt"] == "Problem: What is 1 + 1?\nSolution:" and samples[0]["kind"] == "math"


def test_a_finished_run_starts_no_engine_and_more_samples_ask_for_those_alone(folder, engine, tmp_path):
    assert main(command(folder, tmp_path)) == 0
    first = (tmp_path / "results.json").read_bytes()
    assert main(command(folder, tmp_path)) == 0
    assert len(engine.settings) == 1 and (tmp_path / "results.json").read_bytes() == first
    assert main(command(folder, tmp_path, "--samples", "2")) == 0
    assert [request.key[2] for request in engine.asked] == [0] * 4 + [1] * 4


def samples_of(output: Path) -> dict[tuple[str, int], dict]:
    return {(row["id"], row["sample"]): row for row in read_jsonl(output / "samples" / "sums.jsonl")}


def test_changed_problems_are_sampled_and_the_others_kept_whatever_their_rows(folder, engine, tmp_path, capsys):
    """Rows without ids, whose numbers are their problems' ids."""
    rows = [{"problem": row["problem"], "answer": row["answer"]} for row in ROWS]
    write_jsonl(tmp_path / "sums.jsonl", rows[:3])
    run = command(tmp_path, tmp_path / "out", "--samples", "2")
    run[run.index("--model") + 1] = str(folder / "model")
    assert main(run) == 0
    first = samples_of(tmp_path / "out")
    corrected = {**rows[0], "answer": "99"}
    write_jsonl(tmp_path / "sums.jsonl", [rows[3], rows[1], corrected, rows[1]])
    engine.asked.clear()
    capsys.readouterr()
    assert main(run) == 0
    assert (
        "sums: 2 stored samples graded again, their right answers have changed, or the code" in capsys.readouterr().err
    )
    assert len(engine.asked) == 4 and len({request.seed for request in engine.asked}) == 4
    now = samples_of(tmp_path / "out")
    assert list(now) == [(str(row), sample) for row in range(4) for sample in range(2)]
    assert [now[str(row), 1]["problem"] for row in range(4)] == [rows[n]["problem"] for n in (3, 1, 0, 1)]
    assert now["1", 1] == first["1", 1] and now["3", 0]["prompt_hash"] == now["1", 0]["prompt_hash"] + "-2"
    assert [now["2", sample]["grades"]["200"]["strict"]["correct"] for sample in (0, 1)] == [True, False]
    assert {**now["2", 0], "id": 0, "gold": 0, "grades": 0} == {**first["0", 0], "id": 0, "gold": 0, "grades": 0}
    results = read_json(tmp_path / "out" / "results.json")["tasks"]["sums"]
    assert results["problems"] == 4 and results["contexts"]["200"]["samples"] == 8
    assert results["contexts"]["200"]["strict"]["pass@1"] == 0.5

    run[run.index("--output") + 1] = str(tmp_path / "unbroken")
    assert main(run) == 0
    for name in ("results.json", "samples/sums.jsonl"):
        assert (tmp_path / "unbroken" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_what_other_code_has_graded_is_graded_again_without_an_engine(folder, engine, tmp_path, monkeypatch, capsys):
    assert main(command(folder, tmp_path, "--samples", "2")) == 0
    whole = {name: (tmp_path / name).read_bytes() for name in ("results.json", "samples/sums.jsonl")}
    file = tmp_path / "samples" / "sums.jsonl"
    graded = json.loads(json.dumps(list(read_jsonl(file))).replace('"correct": true', '"correct": false'))
    write_jsonl(file, [{**row, "grader": "another"} for row in graded])
    capsys.readouterr()
    assert main(command(folder, tmp_path, "--samples", "2")) == 0 and len(engine.settings) == 1
    assert "sums: 8 stored samples graded again" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole
    monkeypatch.setattr(graded_by, "code_hash", lambda *_: "of a plugin that was changed")
    assert main(["regrade", str(tmp_path), "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(command(folder, tmp_path, "--samples", "2")) == 0
    assert "graded again" not in capsys.readouterr().err, "regrade has said which code it was"


def test_problems_and_samples_that_are_left_out_come_back_without_an_engine(folder, engine, tmp_path):
    assert main(command(folder, tmp_path, "--samples", "2")) == 0
    whole = {name: (tmp_path / name).read_bytes() for name in ("results.json", "samples/sums.jsonl")}
    assert main(command(folder, tmp_path, "--limit", "3")) == 0
    assert list(samples_of(tmp_path)) == [("p1", 0), ("p2", 0), ("p3", 0)]
    assert read_json(tmp_path / "results.json")["tasks"]["sums"]["contexts"]["200"]["samples"] == 3
    assert main(command(folder, tmp_path, "--samples", "2")) == 0 and len(engine.settings) == 1
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole


def test_while_samples_are_missing_there_are_no_results(folder, engine, tmp_path, monkeypatch):
    assert main(command(folder, tmp_path)) == 0 and (tmp_path / "results.json").exists()

    def broken(requests):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "generate", broken)
    assert main(command(folder, tmp_path, "--samples", "2")) == 130
    assert not (tmp_path / "results.json").exists(), "its numbers would be those of other samples"
    assert main(command(folder, tmp_path)) == 0 and (tmp_path / "results.json").exists()


def test_another_model_under_the_same_path_is_refused_and_fresh_starts_anew(folder, engine, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    for path in (folder / "model").iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    write_jsonl(tmp_path / "sums.jsonl", ROWS)
    out = tmp_path / "out"
    assert main(command(tmp_path, out)) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    build_model(engine.tokenizer, seed=1).save_pretrained(tmp_path / "model")
    capsys.readouterr()
    for options, told in (
        ((), "another weights (model.safetensors)"),
        (("--prompt", "raw"), "prompt template of sums"),
    ):
        assert main(command(tmp_path, out, *options)) == 2
        error = capsys.readouterr().err
        assert told in error and "--fresh" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    for _ in range(2):
        assert main(command(tmp_path, out, "--fresh")) == 0
        assert len(engine.settings) == 2, "what was sampled anew is kept"
    assert (out / "before-1" / "results.json").read_bytes() == before[out / "results.json"]
    (out / "manifest.json").unlink()
    assert main(command(tmp_path, out)) == 2 and "no manifest.json of this version" in capsys.readouterr().err


def test_a_prompt_that_fills_the_context_is_wrong_without_being_sampled(folder, engine, tmp_path):
    assert main(command(folder, tmp_path, "--samples", "2", file="more.jsonl")) == 0
    samples = list(read_jsonl(tmp_path / "samples" / "sums.jsonl"))
    asked = {row["id"] for row in samples for request in engine.asked if row["prompt_hash"] == request.key[1]}
    assert asked == {"p1", "p2", "p3", "p4"} and len(samples) == 10
    summary = read_json(tmp_path / "results.json")["tasks"]["sums"]["contexts"]["200"]
    assert summary["strict"]["pass@1"] == pytest.approx(4 / 10) and summary["truncated"] == pytest.approx(2 / 10)


def test_a_folder_that_another_run_writes_into_is_refused(folder, engine, tmp_path, capsys):
    assert main(command(folder, tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    with only_writer("--output", tmp_path):
        for again in (command(folder, tmp_path, "--samples", "2"), ["regrade", str(tmp_path)]):
            assert main(again) == 2
            error = capsys.readouterr().err
            assert "another command writes into it now" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(engine.settings) == 1 and main(command(folder, tmp_path, "--samples", "2")) == 0


def test_an_engine_that_fails_is_closed_and_keeps_what_was_sampled(folder, engine, tmp_path, monkeypatch, capsys):
    def broken(requests):
        yield from Scripted.generate(engine, requests[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "generate", broken)
    assert main(command(folder, tmp_path)) == 130
    assert "the same command continues" in capsys.readouterr().err and engine.closed == 1
    kept = [json.loads(line) for line in (tmp_path / "samples" / "sums.jsonl").read_text().splitlines()]
    assert len(kept) < 4 and not (tmp_path / "results.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(evaluation.run, "start_engine", engine.start)
    assert main(command(folder, tmp_path)) == 0
    assert len(list(read_jsonl(tmp_path / "samples" / "sums.jsonl"))) == 4


def test_prompts_that_end_differently_are_not_run_together(folder, engine, tmp_path, monkeypatch, capsys):
    from spo_rlhf.tasks.registry import TASKS
    from spo_rlhf.tasks.task import Prompt, Task

    monkeypatch.setitem(TASKS, "stopped", Task("sums", ("sums.jsonl",), prompt=Prompt("{problem}", stop=("\n",))))
    monkeypatch.setitem(TASKS, "open", Task("sums", ("sums.jsonl",), prompt=Prompt("{problem}")))
    arguments = ["run", "--model", str(folder / "model"), "--data-dir", str(folder), "--output", str(tmp_path)]
    assert main([*arguments, "--tasks", "stopped,open", "--contexts", "64"]) == 2
    assert "end differently (stop strings)" in capsys.readouterr().err and engine.settings == []


@pytest.mark.parametrize(
    "grades", [{}, None, {"200": {}}, {"200": {"tokens": 1, "chars": 1, "truncated": False}}, {"100": 0}]
)
def test_a_stored_sample_without_its_grades_is_refused(folder, engine, tmp_path, capsys, grades):
    assert main(command(folder, tmp_path)) == 0
    file = tmp_path / "samples" / "sums.jsonl"
    rows = list(read_jsonl(file))
    write_jsonl(file, [{**rows[0], "grades": grades}, *rows[1:]])
    capsys.readouterr()
    for again in (command(folder, tmp_path), ["regrade", str(tmp_path), "--workers", "1"]):
        assert main(again) == 2
        error = capsys.readouterr().err
        assert (
            f"{file}: sample 0 of problem p1 has not the grades of the limits 200" in error and error.count("\n") == 1
        )
    write_jsonl(file, rows[1:])
    assert main(command(folder, tmp_path)) == 0 and [request.key[2] for request in engine.asked[4:]] == [0]


def test_what_a_plugins_kind_loads_late_counts_too(folder, engine, tmp_path, monkeypatch, capsys):
    for table, name in ((KINDS, "late"), (TASKS, "late_sums")):
        monkeypatch.setitem(table, name, None)  # so that it is taken out at the end
        del table[name]
    monkeypatch.setattr(plugins, "_loaded", [])
    monkeypatch.setattr(plugins, "_brought", [])
    monkeypatch.setenv(plugins.VARIABLE, "")
    (tmp_path / "kind.py").write_text(
        "from pathlib import Path\n"
        "from spo_rlhf.graders.kinds import KINDS, AnswerKind\n"
        "from spo_rlhf.graders.verdict import Verdict\n"
        "from spo_rlhf.tasks.registry import TASKS\n"
        "from spo_rlhf.tasks.task import Task\n"
        "def grade(question, output):\n"
        "    right = (Path(__file__).parent / 'right.txt').read_text().strip()\n"
        "    return Verdict(right in output, right, '')\n"
        "KINDS.register('late')(AnswerKind(grade, grade))\n"
        "TASKS.register('late_sums')(Task('sums', files=('sums.jsonl',), kind='late'))\n"
    )
    (tmp_path / "right.txt").write_text("99")
    run = ["run", "--plugin", str(tmp_path / "kind.py"), "--model", str(folder / "model"), "--tasks", "late_sums"]
    run += ["--data-dir", str(folder), "--output", str(tmp_path / "out"), "--contexts", "200", "--no-curve", "--quiet"]
    run += ["--workers", "1", "--samples", "2"]
    results = tmp_path / "out" / "results.json"
    assert main(run) == 0
    assert read_json(results)["tasks"]["late_sums"]["contexts"]["200"]["strict"]["pass@1"] == 0.5
    capsys.readouterr()
    assert main(run) == 0 and "graded again" not in capsys.readouterr().err
    (tmp_path / "right.txt").write_text("boxed")
    assert main(run) == 0 and "late_sums: 8 stored samples graded again" in capsys.readouterr().err
    assert read_json(results)["tasks"]["late_sums"]["contexts"]["200"]["strict"]["pass@1"] == 1.0
    (tmp_path / "right.txt").write_text("none of them")
    assert main(["regrade", str(tmp_path / "out"), "--workers", "1", "--plugin", str(tmp_path / "kind.py")]) == 0
    capsys.readouterr()
    assert main(run) == 0 and "graded again" not in capsys.readouterr().err
    assert len(engine.settings) == 1
