"""What a folder's samples are of: found by content, refused in words, moved aside only when asked to."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from spo_rlhf.errors import UserError
from spo_rlhf.sampling import model_files
from spo_rlhf.sampling.manifest import Manifest, claim, manifest_of, prompt_keys, request_seed

HOLDS = ("results.json", "samples")
FILES = {
    "config.json": "{}",
    "model-1.safetensors": "one",
    "model-2.safetensors": "two",
    "pytorch_model.bin": "not loaded beside the others",
    "tokenizer.json": "tokens",
    "README.md": "anything",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spo_rlhf" / "hashes.json"


@pytest.fixture
def model(tmp_path) -> Path:
    return make_model(tmp_path / "model")


def make_model(folder: Path) -> Path:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def manifest(model: Path | str, template: str | None = "{{ x }}", **settings) -> Manifest:
    settings = {"chat template": template, "seed": 1, **settings}
    return manifest_of("spo-eval", str(model), settings, say=lambda line: None)


def first_run(output: Path, made: Manifest) -> None:
    assert claim(output, made, HOLDS, fresh=False) is None
    (output / "samples").mkdir()
    (output / "samples" / "a.jsonl").write_text("1")
    (output / "results.json").write_text("{}")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_model_goes_on_wherever_it_lies(tmp_path, model):
    first_run(tmp_path / "out", manifest(model))
    model.rename(tmp_path / "moved")
    assert claim(tmp_path / "out", manifest(tmp_path / "moved"), HOLDS, fresh=False) is None
    (tmp_path / "moved" / "README.md").write_text("more")
    (tmp_path / "moved" / "pytorch_model.bin").write_text("more")
    assert claim(tmp_path / "out", manifest(tmp_path / "moved"), HOLDS, fresh=True) is None, "nothing to move"
    assert (tmp_path / "out" / "samples" / "a.jsonl").exists()


def test_the_index_says_which_files_are_the_weights(tmp_path, model):
    def loads(name: str) -> None:
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))

    loads("model-1.safetensors")
    first_run(tmp_path / "out", manifest(model))
    (model / "model-2.safetensors").write_text("changed, and not loaded")
    assert claim(tmp_path / "out", manifest(model), HOLDS, fresh=False) is None
    loads("model-2.safetensors")
    with pytest.raises(UserError, match="another weights"):
        claim(tmp_path / "out", manifest(model), HOLDS, fresh=False)
    (model / "model.safetensors.index.json").write_text("[]")
    assert len(manifest(model).decides["weights"]) == 2


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("model-2.safetensors", r"another weights \(model-2.safetensors\)"),
        ("model-3.safetensors", r"another weights \(model-3.safetensors\)"),
        ("config.json", r"another model config \(config.json\)"),
        ("generation_config.json", r"another model config"),
        ("tokenizer.json", r"another tokenizer \(tokenizer.json\)"),
        ("vocab.json", r"another tokenizer"),
    ],
)
def test_another_file_under_the_same_path_is_refused(tmp_path, model, file, told):
    first_run(tmp_path / "out", manifest(model))
    before = everything(tmp_path / "out")
    (model / file).write_text("tow")
    with pytest.raises(UserError, match=told) as refused:
        claim(tmp_path / "out", manifest(model), HOLDS, fresh=False)
    assert "choose another folder, or give --fresh, which moves them to" in str(refused.value)
    assert "\n" not in str(refused.value) and everything(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 2}, r"another seed \(1 there, 2 now\)"),
        ({"template": None}, "another chat template"),
        ({"seed": 2, "template": "{{ y }}"}, r"another chat template.*, seed \(1 there, 2 now\)"),
    ],
    ids=str,
)
def test_another_setting_is_told_with_both_values(tmp_path, model, changes, told):
    first_run(tmp_path / "out", manifest(model))
    with pytest.raises(UserError, match=told):
        claim(tmp_path / "out", manifest(model, **changes), HOLDS, fresh=False)


def test_another_engine_or_command_is_refused(tmp_path, model):
    made = manifest(model)
    assert made.decides["engine"].startswith("vllm")
    first_run(tmp_path / "out", made)
    with pytest.raises(UserError, match=r"another engine \(vllm.* there, vllm 9 now\)"):
        claim(tmp_path / "out", replace(made, decides={**made.decides, "engine": "vllm 9"}), HOLDS, fresh=False)
    with pytest.raises(UserError, match=r"another command \(spo-eval\)"):
        claim(tmp_path / "out", replace(made, program="spo-sample"), HOLDS, fresh=False)


def test_fresh_moves_what_is_of_something_else_and_nothing_more(tmp_path, model):
    first_run(tmp_path / "out", manifest(model))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = everything(tmp_path / "out")
    other = manifest(model, seed=2)
    aside = claim(tmp_path / "out", other, HOLDS, fresh=True)
    assert aside == tmp_path / "out" / "before-1"
    assert everything(aside) == {name: held for name, held in before.items() if name != "notes.txt"}
    assert sorted(os.listdir(tmp_path / "out")) == ["before-1", "manifest.json", "notes.txt"]
    assert claim(tmp_path / "out", other, HOLDS, fresh=True) is None, "the same command goes on"
    assert claim(tmp_path / "out", manifest(model), HOLDS, fresh=True) == tmp_path / "out" / "before-2"


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 0}', '{"format": 1, "what": 2}'])
def test_samples_of_unknown_origin_are_refused_never_guessed(tmp_path, model, text):
    out = tmp_path / "out"
    (out / "samples").mkdir(parents=True)
    if text is not None:
        (out / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="holds samples and no manifest.json of this version.*--fresh"):
        claim(out, manifest(model), HOLDS, fresh=False)
    assert claim(out, manifest(model), HOLDS, fresh=True) == out / "before-1"
    assert (out / "before-1" / "samples").is_dir() and not (out / "samples").exists()


def test_samples_of_the_version_that_made_token_ids_otherwise_are_refused(tmp_path, model):
    out = tmp_path / "out"
    claim(out, manifest(model), HOLDS, fresh=False)
    claim(out, manifest(model), HOLDS, fresh=False)
    written = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**written, "format": written["format"] - 1}))
    with pytest.raises(UserError, match="no manifest.json of this version.*--fresh"):
        claim(out, manifest(model), HOLDS, fresh=False)


def test_one_more_part_is_no_difference_and_is_remembered(tmp_path, model):
    first_run(tmp_path / "out", manifest(model, **{"prompt template of a": {"template": "{}"}}))
    claim(tmp_path / "out", manifest(model, **{"prompt template of b": {"template": "{}"}}), HOLDS, fresh=False)
    for task in "ab":
        with pytest.raises(UserError, match=rf"another prompt template of {task} \(template\)"):
            other = manifest(model, **{f"prompt template of {task}": {"template": "other"}})
            claim(tmp_path / "out", other, HOLDS, fresh=False)


def test_a_model_of_the_hub_is_its_commit_and_its_files(tmp_path, model, monkeypatch):
    snapshot = make_model(tmp_path / "c0ffee")
    found: dict[str, str | None] = {"path": None}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: found["path"])
    assert manifest("owner/model").decides["weights"] is None and manifest("owner/model").revision is None
    found["path"] = str(snapshot / "config.json")
    weights = [path.rename(tmp_path / path.name) for path in [*snapshot.glob("model-*"), *snapshot.glob("*.bin")]]
    first_run(tmp_path / "out", manifest("owner/model"))
    for path in weights:
        path.rename(snapshot / path.name)
    made = manifest("owner/model")
    assert made.revision == "c0ffee" and made.decides["weights"] == manifest(model).decides["weights"]
    claim(tmp_path / "out", made, HOLDS, fresh=False)
    (snapshot / "model-1.safetensors").write_text("other")
    with pytest.raises(UserError, match="another weights"):
        claim(tmp_path / "out", manifest("owner/model"), HOLDS, fresh=False)


def test_files_are_read_once_until_their_size_or_times_change(model, cache, monkeypatch):
    read = []
    digest = model_files._digest
    monkeypatch.setattr(model_files, "_digest", lambda path: read.append(path.name) or digest(path))
    monkeypatch.setattr(model_files, "SETTLED_NS", 0)
    first = model_files.model_hashes(model, print)
    assert len(read) == 4 and model_files.model_hashes(model, print) == first and len(read) == 4
    path = model / "model-1.safetensors"
    times = path.stat()
    path.write_text("eno")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` does
    assert model_files.model_hashes(model, print)["weights"] != first["weights"] and read[4:] == [path.name]
    cache.write_text("[]")
    assert model_files.model_hashes(model, print)["model config"] == first["model config"]
    assert len(read) == 9 and len(json.loads(cache.read_text())) == 4


@pytest.mark.parametrize(
    "text", ["", "[]", '{"x": [1, "a", "b", "c"]}', '{"x": 4}', '{"x": "four"}', '{"x": [1, 2, 3, 4]}', "[" * 100_000]
)
def test_a_broken_memory_of_hashes_is_ignored(model, cache, monkeypatch, text):
    monkeypatch.setattr(model_files, "SETTLED_NS", 0)
    first = model_files.model_hashes(model, print)
    cache.write_text(text)
    assert model_files.model_hashes(model, print) == first and len(json.loads(cache.read_text())) == 4


def test_a_file_that_was_written_just_now_is_not_remembered(model, cache):
    model_files.model_hashes(model, print)
    assert not cache.exists()


def test_reading_much_is_told(model, monkeypatch):
    told = []
    model_files.model_hashes(model, told.append)
    monkeypatch.setattr(model_files, "TOLD_FROM_BYTES", 1)
    model_files.model_hashes(model, told.append)
    assert told == ["reading 0.0 GB of weights to know them again (once)"]


def test_keys_and_seeds_follow_from_the_tokens_alone():
    keys = prompt_keys([[1, 2], [12], [1, 2], [], [1, 2]])
    assert keys[2] == f"{keys[0]}-2" and keys[4] == f"{keys[0]}-3" and len(set(keys)) == 5
    assert prompt_keys([[12], [1, 2]]) == [keys[1], keys[0]]
    seeds = {request_seed(seed, key, sample) for seed in (0, 1) for key in keys for sample in range(50)}
    assert len(seeds) == 500 and request_seed(0, keys[0], 1) == request_seed(0, keys[0], 1)
