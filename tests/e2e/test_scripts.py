"""The scripts under examples/scripts: each is configured for its real model, and runs two steps with SMOKE=1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import recording
import stack

FOLDER = stack.ROOT / "examples" / "scripts"
DATA = Path(os.environ.get("SPO_DATA_DIR", stack.ROOT.parent / "shared" / "data"))
TASKS = sorted(path.stem for path in (FOLDER / "tasks").glob("*.sh"))
RECIPES = {path.stem: path.read_text() for path in sorted((FOLDER / "recipes").glob("*.sh"))}
# Methods that sample first and train then; the trainings themselves have tests of their own.
OFFLINE = sorted(name for name, text in RECIPES.items() if "lib/offline.sh" in text)
SPO_TRAIN = [f"{method}_{task}" for method in RECIPES if method not in OFFLINE for task in TASKS]
SCRIPTS = sorted(path.stem for path in FOLDER.glob("train_*.sh"))
# One script of each kind: groups with and without mask, a critic, chain, tree. The others are `slow`: a minute each.
EACH_KIND = {
    "train_grpo_gsm8k",
    "train_grpo_mask_gsm8k",
    "train_ppo_gsm8k",
    "train_spo_chain_gsm8k",
    "train_spo_tree_math",
}
FILES = {"gsm8k": ("gsm8k_train.jsonl", "gsm8k_test.jsonl"), "math": ("math500.jsonl", "math500.jsonl")}
OFFICIAL = {
    "gsm8k": {
        "actor.adam.lr": 1e-6,
        "algo.kl.init_coef": 1e-4,
        "rollout.temperature": 0.6,
        "rollout.top_p": 0.9,
        "data.max_len": 2047,
    },
    "math": {
        "actor.adam.lr": 1e-6,
        "algo.kl.init_coef": 1e-4,
        "rollout.temperature": 0.6,
        "rollout.top_p": 1.0,
        "data.max_len": 2048,
    },
    "spo_chain_gsm8k": {
        "spo.cutpoint_interval": 5,
        "spo.prob_threshold": 0.9,
        "spo.mc_rollouts": 9,
        "train.max_epochs": 2,
    },
    "spo_chain_math": {
        "spo.cutpoint_interval": 5,
        "spo.mc_rollouts": 4,
        "train.max_epochs": 1,
        "train.batch_size": 128,
    },
    "spo_tree_gsm8k": {"spo.tree_branching": (6, 6, 6), "spo.tree_segment_tokens": (30,), "rollout.batch_size": 16},
    "spo_tree_math": {"spo.tree_branching": (6, 6, 6), "spo.tree_segment_tokens": (600,), "rollout.batch_size": 32},
    "ppo_gsm8k": {"algo.advantage.estimator": "gae", "algo.advantage.lambd": 1.0, "critic.value_clip": 0.2},
    "sspo_gsm8k": {"spo.ratio_level": "subsentence", "spo.entropy_clip": 0.5, "actor.eps_clip_low_high": (0.05, 0.05)},
    "gspo_gsm8k": {
        "spo.ratio_level": "sequence",
        "actor.eps_clip_low_high": (3e-4, 4e-4),
        "actor.loss_agg_mode": "seq-mean-token-mean",
    },
    "spo_chain_segment_ratio_gsm8k": {
        "spo.ratio_level": "segment",
        "spo.cutpoint_interval": 5,
        "spo.prob_mask": True,
        "spo.mc_rollouts": 9,
    },
    "grpo_mask_math": {"algo.advantage.estimator": "group_norm", "spo.prob_mask": True},
    "vineppo_math": {"spo.partition": "newline", "spo.prob_mask": False},
}

# Instead of the official values; a script without an entry has no others.
MORE_PROMPTS = {"rollout.batch_size": 128, "rollout.n_samples_per_prompt": 4, "train.num_episodes": 18}
RECOMMENDED = {
    **{
        f"{method}_{task}": MORE_PROMPTS
        for method in ("grpo", "grpo_mask", "rloo", "spo_chain", "spo_chain_segment_ratio")
        for task in ("gsm8k", "math")
    },
    **dict.fromkeys(("spo_chain_gsm8k", "spo_chain_segment_ratio_gsm8k"), {"spo.mc_rollouts": 4, **MORE_PROMPTS}),
}


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(FOLDER / f"{script}.sh"), *arguments],
        cwd="/",  # scripts find the checkout themselves
        env={**stack.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=stack.LIMIT_S,
    )


def run_recipe(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """METHOD_TASK by the script of that name, or by train.sh where there is none."""
    if f"train_{name}" in SCRIPTS:
        return run(f"train_{name}", *arguments, **variables)
    return run("train", *name.rsplit("_", 1), *arguments, **variables)


def task_of(script: str) -> str:
    return script.rsplit("_", 1)[1]


@pytest.mark.e2e
@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", ["quickstart", "eval_context_sweep", "train_spo_chain_gsm8k"])
def test_dry_run(script, tmp_path):
    before = sorted(path.name for path in stack.ROOT.iterdir())
    done = run(script, "--dry-run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.strip(), "a dry run says what it would do"
    assert sorted(path.name for path in stack.ROOT.iterdir()) == before, "a dry run left something behind"


@pytest.fixture
def recorder(tmp_path) -> Path:
    return recording.make(tmp_path / "python")


def calls(done: subprocess.CompletedProcess, module: str) -> list[list[str]]:
    """Arguments of the calls of a module that the recorder wrote down."""
    assert done.returncode == 0, done.stderr
    return [arguments for name, arguments in recording.calls(done.stdout) if name == module]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "preset"), [(name, "recommended") for name in SPO_TRAIN] + [(name, "paper") for name in RECOMMENDED]
)
def test_the_configuration_of_the_real_run_is_accepted(name, preset, recorder):
    from spo_rlhf.cli.train import parse
    from spo_rlhf.launch.output import flatten, plain

    done = run_recipe(name, "--dry-run", PYTHON=str(recorder), PRESET=preset)
    [arguments] = calls(done, "spo_rlhf.cli.train")
    args, _ = parse(arguments)
    config = flatten(plain(args))
    expected = {**OFFICIAL[task_of(name)], **OFFICIAL.get(name, {})}
    if preset == "recommended":
        expected |= RECOMMENDED.get(name, {})
    elif name in RECOMMENDED:
        expected |= {"rollout.batch_size": 64, "rollout.n_samples_per_prompt": 8, "train.num_episodes": 9}
    assert {option: config[option] for option in expected} == expected
    assert config["spo.run_dir"] == f"runs/{name}" and config["dry_run"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", OFFLINE)
def test_what_the_offline_methods_sample_is_accepted(method, task, recorder):
    from spo_rlhf.cli.sample_options import build_parser

    done = run_recipe(f"{method}_{task}", "--dry-run", PYTHON=str(recorder))
    [arguments] = calls(done, "spo_rlhf.cli.sample")
    sampled = build_parser().parse_args(arguments)
    official = OFFICIAL[task]
    assert (sampled.temperature, sampled.top_p) == (official["rollout.temperature"], official["rollout.top_p"])
    assert sampled.max_len == official["data.max_len"] and sampled.dry_run
    assert (sampled.samples, sampled.select) == {"dpo": (64, "pairs"), "restem": (8, "correct")}[method]
    [trained] = calls(done, "spo_rlhf.cli.upstream_trainer")
    assert trained[0] == {"dpo": "dpo", "restem": "sft"}[method] and "--dry-run" in trained


def test_each_script_is_a_method_on_a_task():
    assert {tuple(name.removeprefix("train_").rsplit("_", 1)) for name in SCRIPTS} <= {
        (method, task) for method in RECIPES for task in TASKS
    }


def test_options_and_variables_of_a_user_win_over_the_recipe(recorder):
    variables = {"PYTHON": str(recorder), "MODEL": "mine", "TEMPLATE": "{}|", "DATA": "/data/mine.jsonl"}
    [arguments] = calls(run("train", "grpo", "math", "--train.seed", "7", **variables), "spo_rlhf.cli.train")
    value = {flag: arguments[at + 1] for at, flag in enumerate(arguments[:-1]) if flag.startswith("--")}
    assert value["--train.seed"] == "7" and value["--actor.model_name_or_path"] == "mine"
    assert (value["--data.input_template"], value["--data.input_key"], value["--data.label_key"]) == (
        "{}|",
        "problem",
        "answer",
    )
    assert (value["--data.prompt_dataset"], value["--eval.dataset"]) == ("/data/mine.jsonl", "/data/mine.jsonl")


def test_every_model_and_engine_is_on_all_devices_of_all_nodes(recorder):
    from spo_rlhf.cli.train import parse

    variables = {"PYTHON": str(recorder), "NODES": "2", "DEVICES": "4"}
    [arguments] = calls(run("train", "ppo", "math", "--dry-run", **variables), "spo_rlhf.cli.train")
    args, _ = parse(arguments)
    assert {(one.num_nodes, one.num_gpus_per_node) for one in (args.actor, args.ref, args.critic)} == {(2, 4)}
    assert args.vllm.num_engines == 8
    done = run("train", "restem", "math", "--dry-run", **variables)
    assert (done.returncode, done.stderr) == (2, "train.sh: error: restem runs on one node (sbatch --nodes=1)\n")


def test_prompts_are_those_of_the_tasks_to_the_last_line_feed(recorder):
    from spo_rlhf.tasks.registry import TASKS as RECORDS

    for task in TASKS:
        [arguments] = calls(run("train", "grpo", task, PYTHON=str(recorder)), "spo_rlhf.cli.train")
        assert arguments[arguments.index("--data.input_template") + 1] == RECORDS[task].template


def test_help_lists_methods_tasks_and_examples():
    done = run("train", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for name in (*RECIPES, *TASKS):
        assert f"\n  {name} " in done.stdout
    assert "examples:\n  bash examples/scripts/train.sh spo_chain gsm8k --dry-run\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give METHOD and TASK; see train.sh --help"),
        (("grpo",), "give METHOD and TASK; see train.sh --help"),
        (("trpo", "gsm8k"), f"method 'trpo': choose from {', '.join(RECIPES)}"),
        (("../recipes/grpo", "gsm8k"), f"method '../recipes/grpo': choose from {', '.join(RECIPES)}"),
        (("grpo", "chess"), f"task 'chess': choose from {', '.join(TASKS)}"),
        (("dpo", "math", "--train.seed", "7"), "dpo takes no option --train.seed; see train.sh --help"),
    ],
)
def test_wrong_usage_is_one_line(arguments, says):
    done = run("train", *arguments)
    assert (done.returncode, done.stderr, done.stdout) == (2, f"train.sh: error: {says}\n", "")


@pytest.fixture(scope="module")
def smoke_model(tmp_path_factory) -> Path:
    """What a smoke run prepares for itself, once for all of them."""
    directory = tmp_path_factory.mktemp("smoke") / "task"
    command = [sys.executable, "-m", "spo_rlhf.cli.prepare", "--output", str(directory)]
    subprocess.run(
        [*command, "--train", "64", "--test", "8", "--warm-up-steps", "20"],
        cwd=stack.ROOT,
        env=stack.environment(),
        check=True,
    )
    return directory / "model"


def data_variables(script: str) -> dict[str, str]:
    train, held_out = (DATA / name for name in FILES[task_of(script)])
    if not train.exists() or not held_out.exists():
        pytest.skip(f"no {train.name} and {held_out.name} at {DATA}: put them there, or set SPO_DATA_DIR")
    return {"DATA": str(train), "EVAL_DATA": str(held_out)}


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(name, marks=[] if name in EACH_KIND else [pytest.mark.slow])
        for name in SCRIPTS
        if name.removeprefix("train_") in SPO_TRAIN
    ],
)
def test_two_steps_on_the_real_data(script, smoke_model, tmp_path):
    variables = {"SMOKE": "1", "OUTPUT": str(tmp_path), "SMOKE_MODEL": str(smoke_model), **data_variables(script)}
    if script == "train_spo_chain_gsm8k":  # this one makes its own model, as a user's run does
        del variables["SMOKE_MODEL"]
    done = run(script, **variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"] and summary["steps"] == 2
    assert (summary["mc_tokens"] > 0) == ("chain" in script or "vineppo" in script)
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_an_unknown_preset_is_one_line():
    done = run("train_spo_chain_gsm8k", "--dry-run", PRESET="papers")
    assert done.returncode == 2 and done.stderr == "PRESET=papers: give recommended or paper\n"


@pytest.mark.e2e
@pytest.mark.timeout(60)
@pytest.mark.parametrize("script", ["train_spo_chain_gsm8k", "train_spo_tree_math"])
def test_smoke_without_a_local_file_says_what_is_missing(script, tmp_path):
    done = run(script, SMOKE="1", OUTPUT=str(tmp_path))
    assert done.returncode == 2 and "DATA=" in done.stderr and len(done.stderr.splitlines()) == 1
