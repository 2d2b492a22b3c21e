"""What spo-train settles by itself: presets where the command says nothing, packing where it can be."""

import json
import shutil

import pytest
import stack

from spo_rlhf.cli.train import parse
from spo_rlhf.launch.output import flatten, plain
from spo_rlhf.methods import METHODS
from spo_rlhf.methods.group import Group


def parsed_by_preset(task, tmp_path, preset: str = "paper", **changes):
    """`--spo.preset` with the batch and the optimizer left to it."""
    left = (
        "spo__mc_rollouts",
        "rollout__batch_size",
        "rollout__n_samples_per_prompt",
        "train__batch_size",
        "actor__adam__lr",
        "actor__lr_warmup_ratio",
        "algo__kl__init_coef",
    )
    problems = tmp_path / "problems.jsonl"
    problems.write_text((task / "train.jsonl").read_text() * 8)  # enough for a batch of the preset
    changes["data__prompt_dataset"] = problems
    return parse(
        [*stack.options(task, tmp_path, spo__preset=preset, **{**dict.fromkeys(left), **changes}), "--dry-run"]
    )


def resolved_by_preset(task, tmp_path, **changes) -> dict:
    args, _ = parsed_by_preset(task, tmp_path, **changes)
    return flatten(plain(args))


@pytest.mark.parametrize("mode", ["chain", "tree", "group"])
def test_a_preset_stands_where_the_command_says_nothing(task, tmp_path, mode):
    config = resolved_by_preset(task, tmp_path, spo__mode=mode)
    preset = METHODS[mode].presets["paper"]
    assert {name: config[name] for name in preset} == preset


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        (dict(spo__mc_rollouts=2), "spo.mc_rollouts", 2),
        (dict(actor__adam__lr=3e-4), "actor.adam.lr", 3e-4),
        (dict(spo__partition="newline"), "spo.partition", "newline"),
        ({"no-spo__prob_mask": True}, "spo.kl_scope", "all"),
        (dict(spo__mode="tree", rollout__n_samples_per_prompt=8), "rollout.n_samples_per_prompt", 8),
    ],
)
def test_what_the_command_says_wins_over_the_preset(task, tmp_path, changes, name, value):
    assert resolved_by_preset(task, tmp_path, **changes)[name] == value


@pytest.mark.parametrize(("preset", "updates"), [("short", 1), ("long", 4)])
def test_what_was_measured_to_be_best_brings_its_method_and_the_record_tells_what_came_of_it(
    task, tmp_path, preset, updates
):
    args, notes = parsed_by_preset(task, tmp_path, preset, train__max_epochs=1)
    config = flatten(plain(args))
    assert (
        isinstance(args.spo.method, Group) and config["spo.baseline"] == "history" and args.spo.method.brings_advantages
    )
    samples = config["rollout.batch_size"] * config["rollout.n_samples_per_prompt"]
    assert config["rollout.n_samples_per_prompt"] == 2 and samples == updates * config["train.batch_size"]
    came = ["spo.mode", "spo.baseline", "rollout.batch_size", "rollout.n_samples_per_prompt", "train.batch_size"]
    assert config["from_preset"] == came, "what the command says itself is not among them"
    assert any(note.startswith(f"--spo.preset {preset}: --spo.mode group, --spo.baseline history") for note in notes)


def test_a_preset_takes_nothing_that_the_command_says_and_no_record_where_there_is_none(task, tmp_path):
    args, _ = parsed_by_preset(
        task,
        tmp_path,
        "short",
        spo__baseline="group",
        algo__advantage__estimator="rloo",
        rollout__n_samples_per_prompt=4,
    )
    assert not args.spo.method.brings_advantages and args.rollout.n_samples_per_prompt == 4
    assert "spo.baseline" not in args.from_preset and args.train.batch_size == 256
    args, _ = parse(stack.options(task, tmp_path))
    assert not hasattr(args, "from_preset")


def test_packing_is_off_by_itself_where_it_cannot_be(task, tmp_path):
    args, notes = parse(stack.options(task, tmp_path, spo__pack_trees="auto"))
    assert args.spo.packs and args.spo.pack_trees == "auto" and not any("pack_trees" in note for note in notes)
    args, notes = parse(stack.options(task, tmp_path, spo__pack_trees="auto", ds__attn_implementation="eager"))
    assert not args.spo.packs
    assert "--spo.pack_trees off: --ds.attn_implementation eager does not go with it" in notes
    shutil.copytree(task / "model", tmp_path / "windowed")
    config = json.loads((task / "model" / "config.json").read_text())
    config["layer_types"] = ["sliding_attention"] * len(config["layer_types"])
    (tmp_path / "windowed" / "config.json").write_text(json.dumps(config))
    changes = {"spo__pack_trees": "auto", "actor__model_name_or_path": tmp_path / "windowed"}
    args, notes = parse(stack.options(task, tmp_path, **changes))
    assert not args.spo.packs and any("known to attend to the whole prefix" in note for note in notes)


ENGINE, ACTOR = ("engine", "off"), ("actor", "token")


@pytest.mark.parametrize(
    ("changes", "settled"),
    [
        ({}, ENGINE),
        (dict(spo__old_logprobs="actor"), ACTOR),
        (dict(algo__kl__init_coef=0.1), ACTOR),
        (dict(train__partial_rollout_enable=True, spo__mode="group", spo__mc_rollouts=None), ENGINE),
        (dict(spo__mode="probe", spo__mc_rollouts=None), ACTOR),
        (dict(algo__advantage__is_correction_level="seq"), ("actor", "seq")),
        (dict(rollout__top_p=0.9, algo__advantage__is_correction_level="off"), ("actor", "off")),
        (dict(spo__max_staleness=0), ("actor", "off")),
    ],
)
def test_what_an_older_policy_sampled_is_corrected(task, tmp_path, changes, settled):
    ahead = dict(train__async_enable=True, train__colocate_all=None)
    args, notes = parse([*stack.options(task, tmp_path, **ahead, **changes), "--dry-run"])
    assert (args.spo.old_logprobs, args.algo.advantage.is_correction_level) == settled
    assert args.spo.max_staleness == changes.get("spo__max_staleness", 1 + ("train__partial_rollout_enable" in changes))
    assert any("which is biased" in note for note in notes) == ("off" in changes.values())
