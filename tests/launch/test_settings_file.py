"""Settings as a file: what a file may say, who wins, what is refused, and that the file of a run repeats it."""

import json

import pytest
import stack

from spo_rlhf.cli.train import build_parser, main, parse, repeated_by, with_files
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import declared
from spo_rlhf.errors import UserError
from spo_rlhf.launch import history, settings_file
from spo_rlhf.launch.output import flatten, plain


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=8)


@pytest.fixture
def file(tmp_path):
    """Writes a file of settings; its path as text."""

    def write(text: str, name: str = "settings.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def flat_of(argv: list[str]) -> dict:
    parser, whole = with_files(argv)
    return vars(parser.parse_args(whole))


def resolved(argv: list[str]) -> dict:
    return flatten(plain(parse([*argv, "--dry-run"])[0]))


def test_nested_keys_and_keys_with_dots_are_one_and_values_are_words_of_the_option(file):
    text = """
    actor.adam: {lr: 1e-6, betas: [0.8, 0.9]}
    spo:
      mode: tree
      tree_branching: 6,6,6
      pack_trees: on
      prob_mask: false
      system_prompt: "- think: 'first'"
    train.colocate_all: true
    data.input_key: null
    """
    flat = flat_of(["--config", file(text)])
    assert flat["actor.adam.lr"] == 1e-6 and flat["actor.adam.betas"] == [0.8, 0.9]
    assert (flat["spo.mode"], flat["spo.tree_branching"], flat["spo.pack_trees"]) == ("tree", (6, 6, 6), "on")
    assert flat["spo.prob_mask"] is False and flat["train.colocate_all"] is True
    assert flat["spo.system_prompt"] == "- think: 'first'"
    assert flat["data.input_key"] == build_parser().get_default("data.input_key")


def test_flags_win_over_files_and_later_files_over_earlier_ones(file, tmp_path):
    plugin = tmp_path / "one.py", tmp_path / "two.py"
    for path in plugin:
        path.write_text("", encoding="utf-8")
    first = file(f"spo.mc_rollouts: 3\nspo.cutpoint_interval: 4\nspo.plugin: [{plugin[0]}]\nspo.eval_ends: false")
    second = file("spo.cutpoint_interval: 6", "second.yaml")
    argv = ["--config", first, f"--config={second}", "--spo.mc_rollouts", "5"]
    flat = flat_of([*argv, "--spo.eval_ends"])
    assert (flat["spo.mc_rollouts"], flat["spo.cutpoint_interval"], flat["spo.eval_ends"]) == (5, 6, True)
    assert flat["spo.plugin"] == [str(plugin[0])]
    assert flat_of([*argv, "--spo.plugin", str(plugin[1])])["spo.plugin"] == [str(plugin[1])], "it does not add up"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spo.mc_rollout: 3", "unknown key spo.mc_rollout; did you mean spo.mc_rollouts?"),
        ("spo: {cutpoint_intervall: 3}", "unknown key spo.cutpoint_intervall; did you mean spo.cutpoint_interval?"),
        ("zzzzz: 3", "unknown key zzzzz"),
        ("dry-run: true", "unknown key dry-run"),
        ("config: other.yaml", "unknown key config"),
        ("spo.mode: chian", "argument --spo.mode: invalid choice: 'chian'"),
        ("spo.mc_rollouts: many", "argument --spo.mc_rollouts: invalid int value: 'many'"),
        ("spo.mc_rollouts: true", "spo.mc_rollouts takes a value, not true"),
        ("spo.prob_mask: 1", "spo.prob_mask is a switch: give true or false"),
        ("spo.mc_rollouts: [1, 2]", "spo.mc_rollouts takes one value, not a list"),
        ("spo.plugin: [true]", "spo.plugin: a list holds texts and numbers alone"),
        ("spo.mode: chain\nspo.mode: tree", "spo.mode is there twice"),
        ("spo.mode: chain\nspo: {mode: tree}", "spo.mode is there twice"),
        ("- spo.mode", "lines of NAME: VALUE"),
        ("spo.mode: [", "(line 1)"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(file, capfd, text, says):
    path = file(text)
    assert main(["--config", path]) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"spo-train: error: --config {path}: "), err
    assert says in err


def test_a_missing_file_and_a_binary_one(tmp_path):
    with pytest.raises(UserError, match=r"--config /nowhere.yaml: No such file or directory"):
        with_files(["--config", "/nowhere.yaml"])
    (tmp_path / "model.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it is no text"):
        with_files(["--config", str(tmp_path / "model.bin")])


def test_an_empty_file_says_nothing(file):
    assert settings_file.read(file("# nothing\n")) == {}


CHANGES = [
    {},
    {"spo__preset": "paper"},
    {"no-spo__prob_mask": True, "actor__adam__betas": [0.8, 0.99]},
    {**stack.TREE, "spo__tree_segment_tokens": 7},
    {"spo__mode": "group", "spo__mc_rollouts": None, "reward__clip_range": [-1, 2], "data__input_template": "-{}"},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_file_of_a_run_gives_exactly_its_settings(task, tmp_path, changes):
    argv = stack.options(task, tmp_path, **changes)
    if "data__input_template" in changes:  # argparse takes a text with a dash only behind "="
        at = argv.index("--data.input_template")
        argv[at : at + 2] = [f"--data.input_template={argv[at + 1]}"]
    if changes.get("spo__preset"):
        problems = tmp_path / "problems.jsonl"
        problems.write_text((task / "train.jsonl").read_text() * 32)
        argv += ["--data.prompt_dataset", str(problems), "--rollout.batch_size", "64", "--train.batch_size", "64"]
    args, _ = parse(argv)
    settings = repeated_by([*argv, "--ckpt.load_enable"], args)
    history.store_config(tmp_path, flatten(plain(args)), settings)
    again = resolved(["--config", str(tmp_path / history.SETTINGS)])
    first = flatten(plain(args))
    assert {**again, "dry_run": False} == first
    assert json.loads((tmp_path / history.CONFIG).read_text()) == json.loads(json.dumps(first, default=str))
    # A run of the file writes the same file.
    assert settings_file.read(tmp_path / history.SETTINGS).items() <= {**settings}.items()


def test_every_option_of_the_package_survives_the_file(tmp_path):
    """Each option alone, at its default said aloud or at one of its names."""
    parser = build_parser()
    for one in declared(SpoConfig):
        value = one.default if one.default is not None else (one.names() or ("2",))[0]
        if one.is_switch:
            argv = [f"--{'' if one.default else 'no-'}spo.{one.flag}"]
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            argv = [f"--spo.{one.flag}={text or 'file.py'}"]
        settings_file.write(tmp_path / "one.yaml", settings_file.said(parser, argv), "0")
        again = settings_file.arguments([tmp_path / "one.yaml"], parser, [])
        assert vars(parser.parse_args(again)) == vars(parser.parse_args(argv)), one.flag


def test_a_run_does_not_replace_the_one_that_its_file_is_of(task, tmp_path, capfd):
    argv = stack.options(task, tmp_path)
    args, _ = parse(argv)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    history.store_config(run_dir, flatten(plain(args)), repeated_by(argv, args))
    assert main(["--config", str(run_dir / "config.yaml")]) == 2
    assert "would replace the one that the file is of; add --spo.run_dir DIR" in capfd.readouterr().err
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.json", "config.yaml"]
    other = ["--config", str(run_dir / "config.yaml"), "--spo.run_dir", str(tmp_path / "other")]
    assert repeated_by(other, parse(other)[0])["spo.run_dir"] == str(tmp_path / "other")
