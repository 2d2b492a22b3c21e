"""What every command that takes a model refuses before it starts anything: one line, exit status 2, nothing left behind."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from entry_points import COMMANDS, commands
from safetensors.torch import load_file, save_file

from spo_rlhf.host import files, ray_start
from spo_rlhf.launch import sample_run
from spo_rlhf.rollout import prompts
from spo_rlhf.sampling import engine

START = [name for name in COMMANDS if "dry-run" not in name]


@pytest.fixture
def task(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "task"))


@pytest.fixture
def refused(task, tmp_path, capfd):
    """Runs a command with more arguments; the one line in which it says what is wrong."""

    def run(command: str, *more: str) -> str:
        main, arguments = commands(task, tmp_path)[command]
        status = main([*arguments, *more])
        out, err = capfd.readouterr()
        lines = [line for line in (out + err).splitlines() if ": error: " in line]
        assert status == 2 and len(lines) == 1 and "Traceback" not in out + err, out + err
        for output in ("run", "out"):  # spo-sample makes its folder for the log of the libraries
            assert not (tmp_path / output).exists() or set(os.listdir(tmp_path / output)) in (
                {".lock", "sample.log"},
                {"diagnose.log"},
            )
        return lines[0]

    return run


def spoil(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def with_config(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    save_file({f"zzz.{name}" if "layers.1.mlp.up" in name else name: part for name, part in tensors.items()}, path)


def as_a_broken_file_of_torch(path: Path) -> None:
    path.with_name("pytorch_model.bin").write_bytes(b"PK\x03\x04" + path.read_bytes())
    path.unlink()


def with_more_tokens(path: Path) -> None:
    told = json.loads(path.read_text())
    kind = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    told["added_tokens"] += [{"id": number, "content": f"<{number}>", **kind} for number in range(5000, 9000)]
    path.write_text(json.dumps(told))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", [*START, "spo-train --dry-run"])
@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("model.safetensors", spoil, "bytes and its header says"),
        ("model.safetensors", os.remove, "it has no weights"),
        ("model.safetensors", lambda path: path.rename(path.with_name("optimizer.pt")), "it has no weights"),
        ("model.safetensors", as_a_broken_file_of_torch, "pytorch_model.bin cannot be read"),
        ("model.safetensors", without_a_tensor, "its weights lack model.layers.1.mlp.up_proj.weight, which"),
        ("config.json", os.remove, "config.json"),
        ("config.json", lambda path: with_config(path, vocab_size=5), "config.json says vocab_size 5 and "),
        ("tokenizer.json", with_more_tokens, " tokens and the model knows "),
        ("config.json", lambda path: with_config(path, max_position_embeddings=32), " takes 32"),
    ],
    ids=[
        "half a file of weights",
        "no weights",
        "a checkpoint's state alone",
        "a broken file of torch",
        "a tensor under another name",
        "no configuration",
        "another vocabulary",
        "more tokens",
        "too few positions",
    ],
)
def test_a_model_that_does_not_fit_is_refused(task, refused, command, name, change, says):
    change(task / "model" / name)
    assert says in refused(command)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("spo-eval", "sft", "dpo")])
def test_a_kind_of_model_that_transformers_does_not_know_is_refused(task, refused, command):
    with_config(task / "model" / "config.json", model_type="foo")
    assert "its config.json cannot be used (" in refused(command)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", START)
def test_a_model_without_its_tokenizer_is_refused(task, refused, command):
    os.remove(task / "model" / "tokenizer.json")
    assert "tokenizer" in refused(command)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["spo-train", "spo-sample", "spo-eval"])
def test_a_prompt_of_no_tokens_is_refused(task, refused, monkeypatch, command):
    rows = [json.loads(line) for line in (task / "train.jsonl").read_text().splitlines()]
    (task / "train.jsonl").write_text("".join(json.dumps({**row, "problem": "~"}) + "\n" for row in rows))
    plain = prompts.PromptTokenizer._plain_ids
    # As a tokenizer does whose normalizer leaves the sign out.
    monkeypatch.setattr(
        prompts.PromptTokenizer, "_plain_ids", lambda self, texts: plain(self, [text.strip("~") for text in texts])
    )
    more = {"spo-eval": ["--prompt", "raw"], "spo-train": ["--data.input_template", "{}"]}
    assert "a prompt of no tokens; drop" in refused(command, *more.get(command, []))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", START)
def test_a_full_disk_is_told_before_the_start(refused, monkeypatch, command):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert "1 MB are free on its disk and 34 MB are needed; free some, or choose another folder" in refused(command)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["spo-train", "sft", "dpo"])
def test_a_disk_too_small_for_the_model_is_told_before_the_start(task, refused, monkeypatch, command):
    monkeypatch.setattr(files, "ROOM", 0)
    size = (task / "model" / "model.safetensors").stat().st_size
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    assert "--ckpt.output_dir" in refused(command)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", START)
def test_an_output_that_is_no_folder_is_refused(task, refused, command):
    blocked = str(task / "train.jsonl" / "x")
    flag = {"spo-train": "--spo.run_dir", "sft": "--spo.run_dir", "dpo": "--ckpt.output_dir"}.get(command, "--output")
    assert f"{flag} {blocked}: " in refused(command, flag, blocked)


FAULTY = {
    "csv": "prompt,response,chosen,rejected\n1+1?,2,2,3\n,2,2,3\n",
    "json": '{"prompt": "1+1?", "response": "2", "chosen": "2", "rejected": "3"}\n{"response": "2", "chosen": "2"}\n',
    "jsonl": '{"prompt": "1+1?", "response": "2", "chosen": "2", "rejected": "3"}\n{"response": "2", "chosen": "2"}\n',
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["sft", "dpo"])
@pytest.mark.parametrize("kind", [*FAULTY, "parquet", "folder"])
@pytest.mark.parametrize("flag", ["--data.dataset", "--eval.dataset"])
def test_rows_of_every_kind_of_file_are_looked_at(task, refused, command, kind, flag):
    path = task / f"faulty.{kind}"
    if kind in FAULTY:
        path.write_text(FAULTY[kind])
    else:
        import datasets

        rows = datasets.Dataset.from_list([json.loads(line) for line in FAULTY["json"].splitlines()])
        rows.to_parquet(path) if kind == "parquet" else rows.save_to_disk(path)
    split = ["--eval.split", "train"] if flag == "--eval.dataset" else []
    assert "row 2 has no 'prompt'" in refused(command, flag, str(path), *split)


def test_data_that_cannot_be_read_is_one_line(task, refused):
    (task / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "broken.parquet: cannot be read" in refused("sft", "--data.dataset", str(task / "broken.parquet"))
    assert "it has no split 'test'; set --eval.split" in refused(
        "dpo", "--eval.dataset", str(task / "rows.jsonl"), "--eval.split", "test"
    )


LONG = "/scratch/" + "long" * 20


@pytest.fixture
def long_folder(monkeypatch):
    monkeypatch.setenv("TMPDIR", LONG)
    monkeypatch.setattr(ray_start.tempfile, "tempdir", None)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    yield
    ray_start.tempfile.tempdir = None


def test_a_temp_dir_too_long_for_sockets_is_replaced_in_spo_sample(task, tmp_path, capfd, monkeypatch, long_folder):
    monkeypatch.setattr(sample_run, "sample", lambda *_: None)
    monkeypatch.setattr(sample_run, "show", lambda *_: None)
    main, arguments = commands(task, tmp_path)["spo-sample"]
    assert main(arguments) == 0
    assert f"TMPDIR /tmp: sockets do not fit below {LONG}" in capfd.readouterr().out and os.environ["TMPDIR"] == "/tmp"


def test_a_temp_dir_too_long_for_sockets_is_replaced_in_spo_eval(task, refused, tmp_path, capfd, long_folder):
    main, arguments = commands(task, tmp_path)["spo-eval"]
    assert main([*arguments, "--tasks", "nothing"]) == 2
    assert f"TMPDIR /tmp: sockets do not fit below {LONG}" in capfd.readouterr().err and os.environ["TMPDIR"] == "/tmp"


@pytest.mark.parametrize(("address", "given"), [(None, "local"), ("head:6379", None)])
def test_engines_of_spo_sample_and_spo_eval_join_no_ray_unasked(monkeypatch, address, given):
    started = []

    def init(**options):
        started.append(options.get("address"))
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_start, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(KeyboardInterrupt):
        engine.RayEngines(engine.EngineSettings("m", 8, 1.0, 1.0), 2)
    assert started == [given]
