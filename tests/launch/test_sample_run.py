"""A run of spo-sample around the engine: whose folder it is, what it keeps and what it says."""

import functools
import io
import json
from dataclasses import replace

import pytest
import stack
from transformers import AutoTokenizer

from spo_rlhf.cli.sample_options import build_parser
from spo_rlhf.errors import RunStopped, UserError
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import only_writer, read_json, read_jsonl, write_jsonl
from spo_rlhf.launch import sample_run
from spo_rlhf.launch.sample_run import (
    SampleJob,
    claim_folder,
    engine_settings,
    report,
    show,
    summarize,
)
from spo_rlhf.sampling.collect import Progress
from spo_rlhf.sampling.engine import Response

# Prompt 0: right, right again, wrong. Prompt 1: both wrong, one cut.
ROWS = [
    {"id": 0, "sample": 0, "response": "2", "reward": 1.0, "truncated": False, "tokens": 1},
    {"id": 0, "sample": 1, "response": "2", "reward": 1.0, "truncated": False, "tokens": 1},
    {"id": 0, "sample": 2, "response": "3", "reward": 0.0, "truncated": False, "tokens": 1},
    {"id": 1, "sample": 0, "response": "5", "reward": 0.0, "truncated": False, "tokens": 1},
    {"id": 1, "sample": 1, "response": "5,", "reward": 0.0, "truncated": True, "tokens": 2},
]
ROWS = [{"prompt": "p", "label": "l", "grader": "g", **row} for row in ROWS]


def job(folder, **changes) -> SampleJob:
    """What the command makes of the least it needs, with changes."""
    (folder / "reward.py").write_text("def reward_func(queries, prompts, labels): ...\n")
    files = {"--model": "m", "--data": "d.jsonl", "--reward": folder / "reward.py", "--output": folder / "out"}
    options = vars(build_parser().parse_args([str(part) for pair in files.items() for part in pair]))
    del options["dry_run"]
    return SampleJob(**options | changes)


@pytest.fixture
def claimed(tmp_path, monkeypatch):
    """Claims the output folder for a job with changes, on a model folder; what the terminal shows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_text("weights")
    mine = functools.partial(job, tmp_path, model=str(tmp_path / "m"))

    def claim(**changes) -> str:
        stream = io.StringIO()
        claim_folder(mine(**changes), "{{ messages }}", Console(stream))
        return stream.getvalue()

    return claim


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature": 0.5}, r"temperature \(1.0 there, 0.5 now\)"),
        ({"top_p": 0.5}, "top_p"),
        ({"max_len": 9}, "max_len"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"seed": 1}, "seed"),
        ({"template": "{}!"}, "prompt template"),
        ({"chat_template": True}, "chat template"),
    ],
    ids=str,
)
def test_a_folder_of_other_samples_is_refused(claimed, changes, told):
    claimed()
    with pytest.raises(UserError, match=f"holds samples made with another {told}.*: choose .*--fresh"):
        claimed(**changes)
    claimed()


def test_a_folder_of_another_model_or_reward_is_refused(claimed, tmp_path):
    claimed()
    (tmp_path / "m" / "model.safetensors").write_text("others")
    with pytest.raises(UserError, match=r"another weights \(model.safetensors\)"):
        claimed()
    assert "samples of something else moved to" in claimed(fresh=True)
    job(tmp_path)
    mine = job(tmp_path, model=str(tmp_path / "m"))
    (tmp_path / "reward.py").write_text("def reward_func(*asked): ...\n")
    with pytest.raises(UserError, match="another reward file"):
        claim_folder(mine, "{{ messages }}", Console(io.StringIO()))


def test_a_run_goes_on_in_its_own_folder_whatever_does_not_decide_a_sample(claimed, tmp_path):
    claimed()
    before = read_json(tmp_path / "out" / "manifest.json")
    claimed(engines=4, select="pairs", max_num_seqs=8, samples=99, data="other.jsonl", rows=slice(3, 9))
    assert read_json(tmp_path / "out" / "manifest.json") == before


@pytest.mark.parametrize("name", ["samples.jsonl", "settings.json"])
def test_samples_of_an_earlier_version_are_not_added_to(claimed, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).touch()
    with pytest.raises(UserError, match=f"holds {name} and no manifest.json"):
        claimed()


@pytest.mark.parametrize(
    ("options", "file", "kept", "prompts"),
    [
        ({"select": "all"}, "samples.jsonl", 5, 2),
        ({"select": "correct"}, "correct.jsonl", 1, 1),
        ({"select": "correct", "min_reward": 0.0}, "correct.jsonl", 4, 2),
        ({"select": "correct", "min_reward": 0.0, "per_prompt": 1}, "correct.jsonl", 2, 2),
        ({"select": "pairs"}, "pairs.jsonl", 1, 1),
    ],
    ids=str,
)
def test_what_is_selected_is_written_and_summed_up(tmp_path, options, file, kept, prompts):
    mine = job(tmp_path, **options)
    summary = summarize(mine, ROWS, prompts=2)
    assert (summary["selected"], summary["selected_prompts"], summary["file"]) == (
        kept,
        prompts,
        str(mine.output / file),
    )
    assert (mine.output / file).exists() == (options["select"] != "all")
    if options["select"] != "all":
        assert len(list(read_jsonl(mine.output / file))) == kept
    assert (summary["samples"], summary["truncated"], summary["tokens"]) == (5, 1, 6)
    assert summary["reward_mean"] == 0.4 and summary["solved_prompts"] == (2 if "min_reward" in options else 1)
    json.dumps(summary)


def test_a_response_whose_reward_took_too_long_is_neither_right_nor_wrong(tmp_path):
    rows = [*ROWS[:1], {**ROWS[2], "grader": None}]
    for select, kept in (("pairs", 0), ("correct", 1), ("all", 2)):
        summary = summarize(
            job(tmp_path, select=select, min_reward=0.0 if select == "correct" else 1.0), rows, prompts=1
        )
        assert (summary["selected"], summary["reward_timeouts"]) == (kept, 1)


@pytest.mark.parametrize("limit", ["inf", "nan", "0"])
def test_a_reward_limit_that_is_none_is_refused(limit):
    with pytest.raises(UserError, match="--reward-timeout.*is not a number of seconds above 0"):
        build_parser().parse_args(["--reward-timeout", limit])


def test_the_engine_holds_the_longest_sequence_there_can_be(tmp_path):
    assert engine_settings(job(tmp_path, max_len=100, max_new_tokens=30), 50).max_model_len == 80
    assert engine_settings(job(tmp_path, max_len=100, max_new_tokens=None), 50).max_model_len == 100
    assert [engine_settings(job(tmp_path, eager=eager), 50).eager for eager in (True, False)] == [True, False]
    assert engine_settings(job(tmp_path, max_len=100, max_new_tokens=90), 50).max_model_len == 100


def test_what_the_terminal_shows(tmp_path):
    stream = io.StringIO()
    console = Console(stream)
    report(console, Progress(stored=30, total=40, new=20, tokens=4000, reward_sum=5.0, seconds=10.0))
    show(console, summarize(job(tmp_path), ROWS, prompts=2) | {"this_run": {"seconds_total": 65.0}})
    assert stream.getvalue().splitlines() == [
        "spo-sample: 30/40  reward 0.250  400 tokens/s  5 s left",
        "spo-sample: reward 0.400 over 5 responses, 1 of 2 prompts solved, 1 truncated, 6 tokens, 1 min 05 s",
        f"spo-sample: 5 responses of 2 prompts: {tmp_path / 'out' / 'samples.jsonl'}",
    ]


class Engine:
    """Answers every request with its prompt's first token and the end of text; the third one interrupts a run."""

    def __init__(self, end_of_text: int, interrupted: bool):
        self.end_of_text, self.interrupted = end_of_text, interrupted

    def generate(self, requests):
        for number, request in enumerate(requests):
            if self.interrupted and number == 2:
                raise KeyboardInterrupt
            yield Response(request.key, (request.prompt_ids[0], self.end_of_text), "", finished=True)

    def close(self):
        pass


@pytest.mark.timeout(120)
def test_a_run_that_was_interrupted_goes_on_and_a_finished_one_samples_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = stack.make_task(tmp_path / "task", train=3, test=1)
    reward = stack.ROOT / "spo_rlhf" / "tasks" / "math_reward.py"
    mine = job(
        tmp_path,
        model=str(task / "model"),
        data=str(task / "train.jsonl"),
        rows=slice(1, 3),
        input_key="problem",
        label_key="answer",
        reward=str(reward),
        samples=2,
        max_len=128,
    )
    started = []

    def start_engine(settings, replicas, interrupted=False):
        started.append(settings)
        return Engine(AutoTokenizer.from_pretrained(settings.model).eos_token_id, interrupted)

    monkeypatch.setattr(sample_run, "start_engine", functools.partial(start_engine, interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        sample_run.sample(mine, Console(io.StringIO()))
    monkeypatch.setattr(sample_run, "start_engine", start_engine)
    summary = sample_run.sample(mine, Console(io.StringIO()))
    assert summary == read_json(mine.output / "summary.json")
    assert (summary["prompts"], summary["samples"], summary["tokens"]) == (2, 4, 8)
    assert 1 <= summary["this_run"]["samples"] <= 4
    rows = list(read_jsonl(mine.output / "samples.jsonl"))
    own = [row["id"] for row in read_jsonl(task / "train.jsonl")]
    assert [(row["id"], row["sample"]) for row in rows] == [(own[1], 0), (own[1], 1), (own[2], 0), (own[2], 1)]
    assert all(row["response"].endswith("<|endoftext|>") for row in rows), "special tokens are not dropped"
    assert sample_run.sample(mine, Console(io.StringIO()))["this_run"]["samples"] == 0
    assert len(started) == 2 and started[0].max_model_len == 128

    swapped = list(read_jsonl(task / "train.jsonl"))[::-1]
    write_jsonl(task / "train.jsonl", [{**swapped[0], "answer": "99"}, *swapped[1:]])
    more = replace(mine, rows=slice(0, 3), samples=3)
    stream = io.StringIO()
    summary = sample_run.sample(more, Console(stream))
    assert (summary["samples"], summary["this_run"]["samples"], summary["this_run"]["graded_again"]) == (9, 5, 2)
    assert "2 stored responses graded again" in stream.getvalue()
    again = {(row["id"], row["sample"]): row for row in read_jsonl(more.output / "samples.jsonl")}
    assert list(again) == [(row, number) for row in own[::-1] for number in range(3)]
    for row in rows:
        kept = again[row["id"], row["sample"]]
        assert {**kept, "label": row["label"]} == row
    assert again[own[2], 0]["label"] == "99"

    monkeypatch.setattr(sample_run, "start_engine", functools.partial(start_engine, interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        sample_run.sample(replace(more, samples=4), Console(io.StringIO()))
    assert not (mine.output / "summary.json").exists(), "its numbers would be those of other samples"


def test_a_folder_that_another_command_writes_into_is_refused_and_its_log_left_alone(tmp_path):
    mine = job(tmp_path)
    with only_writer("--output", mine.output), pytest.raises(UserError, match="another command writes into it now"):
        sample_run.run(mine)
    assert [path.name for path in mine.output.iterdir()] == [".lock"]


def small_job(tmp_path, monkeypatch, reward: str, **changes) -> SampleJob:
    """Two responses to each of two prompts, by an engine that is not vLLM and a reward file with this text."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))  # reward processes take it over
    task = stack.make_task(tmp_path / "task", train=2, test=1)
    end = AutoTokenizer.from_pretrained(task / "model").eos_token_id
    monkeypatch.setattr(sample_run, "start_engine", lambda settings, replicas: Engine(end, interrupted=False))
    data = dict(model=str(task / "model"), data=str(task / "train.jsonl"), input_key="problem", label_key="answer")
    mine = job(tmp_path, **data, samples=2, max_len=128, reward_workers=1, **changes)
    (tmp_path / "reward.py").write_text(reward)
    return mine


@pytest.mark.timeout(120)
def test_a_module_of_the_reward_file_that_has_changed_grades_what_is_stored_again(tmp_path, monkeypatch):
    (tmp_path / "own_helper.py").write_text("VALUE = 1.0\n")
    reward = "import own_helper\ndef reward_func(*asked): return {'rewards': [own_helper.VALUE]}\n"
    mine = small_job(tmp_path, monkeypatch, reward)
    assert sample_run.sample(mine, Console(io.StringIO()))["reward_mean"] == 1.0
    assert sample_run.sample(mine, Console(io.StringIO()))["this_run"]["graded_again"] == 0
    (tmp_path / "own_helper.py").write_text("VALUE = 0.25\n")
    stream = io.StringIO()
    summary = sample_run.sample(mine, Console(stream))
    assert (summary["reward_mean"], summary["this_run"]["graded_again"], summary["this_run"]["samples"]) == (0.25, 4, 0)
    assert "4 stored responses graded again" in stream.getvalue()
    for _ in range(2):
        summary = sample_run.sample(replace(mine, regrade=True), Console(io.StringIO()))
        assert (summary["reward_mean"], summary["this_run"]["graded_again"]) == (0.25, 4)


@pytest.mark.timeout(120)
def test_what_a_reward_reads_with_its_first_response_grades_what_is_stored_again(tmp_path, monkeypatch):
    (tmp_path / "late.txt").write_text("1.0")
    reward = (
        "def reward_func(queries, prompts, labels):\n"
        f"    return {{'rewards': [queries != prompts and float(open({str(tmp_path / 'late.txt')!r}).read())]}}\n"
    )
    mine = small_job(tmp_path, monkeypatch, reward)
    assert sample_run.sample(mine, Console(io.StringIO()))["reward_mean"] == 1.0
    assert sample_run.sample(mine, Console(io.StringIO()))["this_run"]["graded_again"] == 0
    (tmp_path / "late.txt").write_text("0.25")
    for again in (4, 0):
        summary = sample_run.sample(mine, Console(io.StringIO()))
        assert (summary["reward_mean"], summary["this_run"]["graded_again"]) == (0.25, again)


@pytest.mark.timeout(120)
def test_rewards_past_their_limit_are_told_counted_and_graded_again_and_too_many_end_the_run(tmp_path, monkeypatch):
    """The reward is slow as long as there is a file that says so, but for the empty response that tries it."""
    reward = (
        "import pathlib, time\n"
        "def reward_func(queries, prompts, labels):\n"
        f"    time.sleep(60 * (pathlib.Path({str(tmp_path / 'slow')!r}).exists() and queries != prompts))\n"
        "    return {'rewards': [1.0]}\n"
    )
    mine = small_job(tmp_path, monkeypatch, reward, rows=slice(0, 1), reward_timeout=2.0)
    (tmp_path / "slow").touch()
    with pytest.raises(RunStopped, match="1 of 1 rewards took longer than --reward-timeout 2: more than --max-reward"):
        sample_run.sample(replace(mine, max_reward_failures=0.01), Console(io.StringIO()))
    stream = io.StringIO()
    summary = sample_run.sample(mine, Console(stream))
    assert (summary["samples"], summary["reward_timeouts"], summary["reward_mean"]) == (2, 2, 0.0)
    show(Console(stream), summary)
    assert "2 rewards took too long and are 0; the same command" in stream.getvalue()
    (tmp_path / "slow").unlink()
    summary = sample_run.sample(mine, Console(io.StringIO()))
    assert (summary["this_run"]["graded_again"], summary["reward_timeouts"], summary["reward_mean"]) == (2, 0, 1.0)
    assert sample_run.sample(mine, Console(io.StringIO()))["this_run"]["graded_again"] == 0
