"""Python that comes with a model runs only where the command says so, in every command, dry runs included."""

import contextlib
import json
import shutil

import pytest
from entry_points import COMMANDS, commands

import evaluation.run
from spo_rlhf import upstream
from spo_rlhf.errors import UserError
from spo_rlhf.host import model_folder
from spo_rlhf.host.files import read_json
from spo_rlhf.launch import sample_run


@pytest.fixture
def task(made, tmp_path, monkeypatch):
    """The task with a model that brings the code of its configuration and its tokenizer; running either leaves a file."""
    task = tmp_path / "task"
    shutil.copytree(made, task)
    for file, where, code, base in (
        ("config.json", "AutoConfig", "own_config.OwnConfig", "Qwen2Config"),
        ("tokenizer_config.json", "AutoTokenizer", ["own_tokenizer.OwnTokenizer", None], "Qwen2Tokenizer"),
    ):
        module, _, name = (code if isinstance(code, str) else code[0]).partition(".")
        settings = read_json(task / "model" / file)
        (task / "model" / file).write_text(json.dumps({**settings, "auto_map": {where: code}}))
        (task / "model" / f"{module}.py").write_text(
            f"import pathlib\nfrom transformers import {base}\npathlib.Path({str(task / 'ran')!r}).touch()\n"
            f"class {name}({base}):\n    pass\n"
        )
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(model_folder.TRUSTED, "0")  # and what a command decides is taken back
    return task


@pytest.fixture
def marker(task):
    """The file that the model's code leaves behind."""
    return task / "ran"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_with_code_of_its_own_is_refused_and_the_code_is_not_run(task, tmp_path, capfd, marker, command):
    main, arguments = commands(task, tmp_path)[command]
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "brings Python code of its own (auto_map in config.json, tokenizer_config.json)" in err
    assert "trust_remote_code" in err.replace("-", "_")
    assert not marker.exists() and not (tmp_path / "out").exists()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["tokenizer", "configuration", "model"])
def test_what_openrlhf_trusts_by_itself_is_run_only_where_it_is_trusted(task, marker, what):
    name = str(task / "model")
    from transformers import AutoConfig

    load = {
        "tokenizer": lambda: upstream.get_tokenizer(name, None, "left"),
        "configuration": lambda: AutoConfig.from_pretrained(name, trust_remote_code=True),
        "model": lambda: upstream.ppo_actor.Actor(name, attn_implementation="sdpa", param_dtype="bf16"),
    }[what]
    assert upstream.OPENRLHF_VERSION and upstream.get_tokenizer  # the lock comes with the stack
    with pytest.raises(UserError, match="comes with the model; let it run by --spo.trust_remote_code"):
        load()
    assert not marker.exists()
    model_folder.trust_code(True)
    with contextlib.suppress(ValueError):  # the configuration of its own is of no model that there is
        load()
    assert marker.exists()


@pytest.mark.timeout(120)
def test_the_flag_lets_the_code_run_and_reaches_the_engines(task, tmp_path, marker, monkeypatch):
    main, arguments = commands(task, tmp_path)["spo-train --dry-run"]
    assert main([*arguments, "--spo.trust_remote_code"]) == 0
    assert marker.exists()

    class Actor:
        def remote(self, **kwargs):
            return kwargs

    def given():
        return upstream.EngineFactory(Actor(), lambda kwargs: {}).remote(model="m", trust_remote_code=True)

    assert given()["trust_remote_code"] is True
    model_folder.trust_code(False)
    assert given()["trust_remote_code"] is False


def stop(settings, replicas):
    raise UserError(f"trusted: {settings.trust_remote_code}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("command", "module"), [("spo-sample", sample_run), ("spo-eval", evaluation.run)])
def test_the_flag_of_sampling_and_evaluation_reaches_their_engines(task, tmp_path, capfd, monkeypatch, command, module):
    monkeypatch.setattr(module, "start_engine", stop)
    main, arguments = commands(task, tmp_path)[command]
    assert main([*arguments, "--trust-remote-code"]) == 2
    out, err = capfd.readouterr()
    assert "trusted: True" in out + err


def test_code_that_a_part_of_a_model_names_counts_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"auto_map": {"AutoModel": "m.M"}}}))
    with pytest.raises(UserError, match="auto_map in config.json"):
        model_folder.check_code(str(tmp_path), "--model", "--trust-remote-code")
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {}, "text_config": {"hidden_size": 1}}))
    model_folder.check_code(str(tmp_path), "--model")


def test_a_model_of_the_hub_with_code_of_its_own_is_refused_by_its_configuration(monkeypatch):
    from transformers import PretrainedConfig

    from spo_rlhf.launch import preflight

    monkeypatch.setenv(model_folder.TRUSTED, "0")
    own = {"auto_map": {"AutoConfig": "own.Own"}}
    monkeypatch.setattr(PretrainedConfig, "get_config_dict", classmethod(lambda *_, **__: (own, {})))
    with pytest.raises(UserError, match="--actor.model_name_or_path owner/name: it brings Python code of its own"):
        preflight.check_model("actor", "owner/name", must_load=True)
