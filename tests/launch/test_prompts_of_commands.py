"""One row, the same token ids: spo-train, spo-sample and spo-eval, each by its own way of loading. No engine is started."""

import asyncio
import functools
import json
import shutil
from types import SimpleNamespace

import pytest
import stack
from letters import BOS, CHAT, EOS, TURN, make_tokenizer, spelled
from tokenizers import normalizers

import evaluation.run
from evaluation.__main__ import main as evaluate
from spo_rlhf import upstream
from spo_rlhf.cli import sample
from spo_rlhf.cli.sample_options import build_parser
from spo_rlhf.cli.train import main as train
from spo_rlhf.cli.train import parse
from spo_rlhf.launch import sample_run
from spo_rlhf.sampling.engine import Response

TEMPLATE, PROBLEM = "U: {}\nA: \\boxed{x}", "1+1?"
ASKED, IN_CHAT = "U: 1+1?\nA: \\boxed{x}", f"user: 1+1?{TURN}assistant:"
BEGUN_CHAT = "{{ bos_token }}" + CHAT
# What a tokenizer does by itself, the options of the commands, what the model reads.
CONVENTIONS = {
    "begins every text": (dict(before=BOS), {}, BOS + ASKED),
    "adds nothing": (dict(), {}, ASKED),
    "ends every text": (dict(before=BOS, behind=EOS), {}, BOS + ASKED),
    "pads with its end": (dict(before=BOS, pad_token=EOS), {}, BOS + ASKED),
    "several ends": (dict(ends=[1, 2]), {}, ASKED),
    "a template that spells the beginning": (dict(before=BOS), {"template": BOS + TEMPLATE}, BOS + ASKED),
    "chat that begins": (dict(before=BOS, chat_template=BEGUN_CHAT), {"chat": True}, BOS + IN_CHAT),
    "chat that does not begin": (dict(before=BOS, chat_template=CHAT), {"chat": True}, IN_CHAT),
    "chat with a system message": (
        dict(chat_template=CHAT),
        {"chat": True, "system": "U"},
        f"system: U{TURN}{IN_CHAT}",
    ),
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    task = stack.make_task(tmp_path_factory.mktemp("task"), train=8, test=1)
    rows = [{"problem": PROBLEM, "answer": "2"}] * 8
    (task / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task


def model_of(task, tmp_path, ends=None, **convention):
    """The task's model with a tokenizer of a convention."""
    model = tmp_path / "model"
    shutil.copytree(task / "model", model, ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "merges*", "special*"))
    make_tokenizer(**convention).save_pretrained(model)
    if ends:
        (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return model


def trained(task, tmp_path, model, template=TEMPLATE, chat=False, system=None) -> list[int]:
    """Ids of the first row in spo-train: the text as its trainer makes it, the ids as its engine does."""
    changes = dict(actor__model_name_or_path=model, data__prompt_dataset=task / "rows.jsonl")
    changes |= dict(data__input_template=None if chat else template, spo__system_prompt=system)
    args, _ = parse([*stack.options(task, tmp_path, **changes), *["--data.apply_chat_template"] * chat, "--dry-run"])
    strategy = SimpleNamespace(
        args=args,
        print=lambda *_: None,
        is_rank_0=lambda: False,
        setup_dataloader=lambda data, *_, **__: data,
    )
    tokenizer = upstream.get_tokenizer(str(model), None, "left", use_fast=not args.data.disable_fast_tokenizer)
    prompts, *_ = upstream.ppo_trainer.prepare_datasets(strategy, tokenizer)
    from spo_rlhf.rollout.engine import SegmentRolloutActor

    actor = object.__new__(SegmentRolloutActor)
    asyncio.run(
        SegmentRolloutActor.__init__(
            actor,
            model=str(model),
            reward_workers=1,
            reward_timeout=1.0,
            use_fast_tokenizer=True,
            chat_template=chat,
            partial_rollouts=False,
        )
    )
    _, prompt, *_ = prompts[0]
    return actor._prompt_ids([prompt])[0]


def sample_arguments(task, tmp_path, model, template=TEMPLATE, chat=False, system=None, data="rows.jsonl") -> list[str]:
    files = {"model": model, "data": task / data, "reward": task / "reward.py", "output": tmp_path / "sampled"}
    named = files | {"input-key": "problem", "label-key": "answer", "max-len": 64, "system": system}
    named |= {"template": None if chat else template}
    given = [str(part) for name, value in named.items() if value is not None for part in (f"--{name}", value)]
    return [*given, *["--chat-template"] * chat]


def sampled(task, tmp_path, model, **options) -> list[int]:
    job = vars(build_parser().parse_args(sample_arguments(task, tmp_path, model, **options)))
    del job["dry_run"]
    prompts, *_ = sample_run.load_prompts(sample_run.SampleJob(**job))
    return prompts[0].token_ids


def evaluation_arguments(
    task, tmp_path, model, template=TEMPLATE, chat=False, system=None, data="rows.jsonl"
) -> list[str]:
    (tmp_path / "prompt.txt").write_text("{problem}" if chat else template.replace("{}", "{problem}"))
    named = {"model": model, "tasks": f"mine={task / data}", "output": tmp_path / "evaluated", "contexts": 64}
    named |= {"prompt": tmp_path / "prompt.txt", "chat-template": "model" if chat else "none", "system": system}
    given = [str(part) for name, value in named.items() if value is not None for part in (f"--{name}", value)]
    return ["run", *given, "--limit", "1", "--no-curve", "--workers", "1", "--quiet"]


def evaluated(task, tmp_path, model, monkeypatch, **options) -> list[int]:
    asked = []

    def generate(requests):
        asked.extend(requests)
        return (Response(request.key, (5,), "2", True) for request in requests)

    engine = SimpleNamespace(generate=generate, close=lambda: None)
    monkeypatch.setattr(evaluation.run, "start_engine", lambda *_: engine)
    assert evaluate(evaluation_arguments(task, tmp_path, model, **options)) == 0
    return list(asked[0].prompt_ids)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("convention", "options", "reads"), CONVENTIONS.values(), ids=CONVENTIONS)
def test_a_row_is_the_same_ids_in_every_command(task, tmp_path, monkeypatch, convention, options, reads):
    async def starts_nothing(self, *args, **kwargs):
        pass

    monkeypatch.setattr(upstream.RolloutRayActor, "__init__", starts_nothing)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = model_of(task, tmp_path, **convention)
    ids = {
        "spo-train": trained(task, tmp_path, model, **options),
        "spo-sample": sampled(task, tmp_path, model, **options),
        "spo-eval": evaluated(task, tmp_path, model, monkeypatch, **options),
    }
    tokenizer = make_tokenizer(**{name: value for name, value in convention.items() if name != "ends"})
    assert {name: spelled(tokenizer, one) for name, one in ids.items()} == dict.fromkeys(ids, reads)
    assert len({tuple(one) for one in ids.values()}) == 1


CHAT_ROW = {"problem": [{"role": "user", "content": PROBLEM}], "answer": "2"}
NOWHERE = [
    ("messages without a chat template", dict(data="chat.jsonl")),
    ("a template without a place", dict(template="Solve:")),
    ("a chat template that the model lacks", dict(chat=True)),
    ("a system message without a chat template", dict(system="be brief")),
    ("a prompt of no tokens", dict(data="nothing.jsonl", template="{}")),
    ("a model folder without a vocabulary", dict(drop="tokenizer.json")),
    ("a model folder without a tokenizer", dict(drop="tokenizer*")),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["spo-train", "spo-sample", "spo-eval"])
@pytest.mark.parametrize("options", [options for _, options in NOWHERE], ids=[name for name, _ in NOWHERE])
def test_a_way_to_prompts_that_leads_nowhere_is_one_line_in_every_command(task, tmp_path, capfd, command, options):
    (task / "chat.jsonl").write_text(f"{json.dumps(CHAT_ROW)}\n" * 8)
    (task / "nothing.jsonl").write_text('{"problem": "##", "answer": "2"}\n' * 8)
    options, model = dict(options), tmp_path / "model"
    shutil.copytree(task / "model", model, ignore=shutil.ignore_patterns(options.pop("drop", "")))
    if options.get("data") == "nothing.jsonl":
        tokenizer = make_tokenizer()
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace("#", "")
        tokenizer.save_pretrained(model)
    started = functools.partial(pytest.fail, "something was started")
    if command == "spo-train":
        data, template = task / options.get("data", "rows.jsonl"), options.get("template", TEMPLATE)
        changes = dict(actor__model_name_or_path=model, data__prompt_dataset=data, data__input_template=template)
        changes["spo__system_prompt"] = options.get("system")
        status = train(
            [*stack.options(task, tmp_path, **changes), *["--data.apply_chat_template"] * options.get("chat", 0)]
        )
    elif command == "spo-sample":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sample_run, "start_engine", started)
            status = sample.main(sample_arguments(task, tmp_path, model, **options))
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation.run, "start_engine", started)
            status = evaluate(evaluation_arguments(task, tmp_path, model, **options))
    out, err = capfd.readouterr()
    lines = [line for line in (out + err).splitlines() if line.startswith(command) and "loading libraries" not in line]
    assert status == 2 and len(lines) == 1 and ": error: " in lines[0], out + err
    assert "Traceback" not in out + err


def test_auto_is_the_chat_template_of_prompts_that_are_for_chats(task, tmp_path, monkeypatch):
    """And `model` makes one of any prompt, as a row is asked in training with --data.apply_chat_template."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = model_of(task, tmp_path, chat_template=CHAT)
    seen = {}

    def start_engine(settings, replicas):
        def generate(requests):
            seen["ids"] = list(requests[0].prompt_ids)
            return (Response(request.key, (5,), "2", True) for request in requests)

        return SimpleNamespace(generate=generate, close=lambda: None)

    monkeypatch.setattr(evaluation.run, "start_engine", start_engine)
    for prompt, template, begins in (
        ("raw", "auto", PROBLEM),
        ("raw", "model", "user: " + PROBLEM),
        ("boxed", "auto", "user: " + PROBLEM),
        ("boxed", "none", PROBLEM),
    ):
        arguments = evaluation_arguments(task, tmp_path, model)
        arguments += ["--prompt", prompt, "--chat-template", template, "--contexts", "200", "--fresh"]
        assert evaluate(arguments) == 0
        assert spelled(make_tokenizer(chat_template=CHAT), seen["ids"]).startswith(begins)


@pytest.mark.timeout(120)
def test_a_template_with_a_backslash_for_a_line_feed_or_a_second_beginning_is_told_in_spo_sample(task, tmp_path):
    model = model_of(task, tmp_path, before=BOS)
    job = vars(build_parser().parse_args(sample_arguments(task, tmp_path, model, template=BOS + r"{}\n")))
    del job["dry_run"]
    *_, notes = sample_run.load_prompts(sample_run.SampleJob(**job))
    assert [note.partition(":")[0] for note in notes] == ["--template", "--data.prompt_dataset"]
    assert "they get it once" in notes[1]


@pytest.mark.timeout(120)
def test_a_template_beside_a_chat_template_is_told_in_spo_sample(task, tmp_path):
    model = model_of(task, tmp_path, chat_template=CHAT)
    job = vars(build_parser().parse_args([*sample_arguments(task, tmp_path, model), "--chat-template"]))
    del job["dry_run"]
    prompts, *_, notes = sample_run.load_prompts(sample_run.SampleJob(**job))
    assert notes == ["--template is not used: --chat-template makes the prompts"] and prompts[0].text == IN_CHAT
