"""A run of spo-sample around the engine: whose folder it is, what it keeps and what it says."""

import functools
import io
import json

import pytest
import stack
from transformers import AutoTokenizer

from spo_rlhf.cli.sample_options import build_parser
from spo_rlhf.errors import UserError
from spo_rlhf.host.console import Console
from spo_rlhf.host.files import read_json, read_jsonl
from spo_rlhf.launch import sample_run
from spo_rlhf.launch.sample_run import (
    SampleJob,
    claim_folder,
    deciding_settings,
    engine_settings,
    report,
    show,
    summarize,
)
from spo_rlhf.sampling.collect import Progress, TokenizedPrompt
from spo_rlhf.sampling.engine import Response

PROMPTS = [TokenizedPrompt(0, "1+1?", "2", [1]), TokenizedPrompt(1, "2+2?", "4", [2])]
# Prompt 0: right, right again, wrong. Prompt 1: both wrong, one cut.
ROWS = [
    {"id": 0, "sample": 0, "response": "2", "reward": 1.0, "truncated": False, "tokens": 1},
    {"id": 0, "sample": 1, "response": "2", "reward": 1.0, "truncated": False, "tokens": 1},
    {"id": 0, "sample": 2, "response": "3", "reward": 0.0, "truncated": False, "tokens": 1},
    {"id": 1, "sample": 0, "response": "5", "reward": 0.0, "truncated": False, "tokens": 1},
    {"id": 1, "sample": 1, "response": "5,", "reward": 0.0, "truncated": True, "tokens": 2},
]
ROWS = [{"prompt": "p", "label": "l", **row} for row in ROWS]


def job(folder, **changes) -> SampleJob:
    """What the command makes of the least it needs, with changes."""
    (folder / "reward.py").write_text("def reward_func(queries, prompts, labels): ...\n")
    files = {"--model": "m", "--data": "d.jsonl", "--reward": folder / "reward.py", "--output": folder / "out"}
    options = vars(build_parser().parse_args([str(part) for pair in files.items() for part in pair]))
    del options["dry_run"]
    return SampleJob(**options | changes)


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"samples": 9}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_len": 9}, {"seed": 1}],
    ids=str,
)
def test_a_folder_of_other_samples_is_refused(tmp_path, changes):
    claim_folder(tmp_path, deciding_settings(job(tmp_path), PROMPTS))
    [name] = changes
    with pytest.raises(UserError, match=f"made with another {name}: choose another folder"):
        claim_folder(tmp_path, deciding_settings(job(tmp_path, **changes), PROMPTS))


def test_a_folder_of_other_prompts_or_another_reward_is_refused(tmp_path):
    claim_folder(tmp_path, deciding_settings(job(tmp_path), PROMPTS))
    with pytest.raises(UserError, match="another data"):
        claim_folder(tmp_path, deciding_settings(job(tmp_path), PROMPTS[:1]))
    mine = job(tmp_path)
    (tmp_path / "reward.py").write_text("def reward_func(*asked): ...\n")
    with pytest.raises(UserError, match="another reward"):
        claim_folder(tmp_path, deciding_settings(mine, PROMPTS))


def test_a_run_goes_on_in_its_own_folder_whatever_does_not_decide_its_samples(tmp_path):
    claim_folder(tmp_path, deciding_settings(job(tmp_path), PROMPTS))
    before = read_json(tmp_path / "settings.json")
    claim_folder(tmp_path, deciding_settings(job(tmp_path, engines=4, select="pairs", max_num_seqs=8), PROMPTS))
    assert read_json(tmp_path / "settings.json") == before


def test_samples_of_unknown_settings_are_not_added_to(tmp_path):
    (tmp_path / "samples.jsonl").touch()
    with pytest.raises(UserError, match=r"samples.jsonl and no settings.json"):
        claim_folder(tmp_path, deciding_settings(job(tmp_path), PROMPTS))


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


def test_the_engine_holds_the_longest_sequence_there_can_be(tmp_path):
    assert engine_settings(job(tmp_path, max_len=100, max_new_tokens=30), 50).max_model_len == 80
    assert engine_settings(job(tmp_path, max_len=100, max_new_tokens=None), 50).max_model_len == 100
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
    assert [(row["id"], row["sample"]) for row in rows] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(row["response"].endswith("<|endoftext|>") for row in rows), "special tokens are not dropped"
    assert sample_run.sample(mine, Console(io.StringIO()))["this_run"]["samples"] == 0
    assert len(started) == 2 and started[0].max_model_len == 128
