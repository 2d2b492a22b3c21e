"""What a start does with the checkpoints that are there: which it goes on from, which it refuses, and what it says."""

import json
from types import SimpleNamespace

import pytest
import stack

from spo_rlhf.cli.train import main, parse
from spo_rlhf.errors import UserError
from spo_rlhf.launch import resume
from spo_rlhf.trainer import checkpoints


def write(folder, step: int, run: dict, *, weights: bool = True):
    with checkpoints.writing(folder, checkpoints.name_of(step)) as one:
        (one.path / "_actor").mkdir()
        (one.path / "run.pt").write_bytes(bytes(9))
        if weights:
            (one.path / "_actor" / "latest").write_text("weights")
        return one.finish(metric=None, run=run, most=9, most_bytes=1e12)


def start(folder, *, auto=True, load=False, **run):
    """The folder that a start goes on from, and what it says."""
    args = SimpleNamespace(
        ckpt=SimpleNamespace(path=str(folder), load_enable=load),
        spo=SimpleNamespace(resume="auto" if auto else "never", run_dir=str(folder.parent)),
        identity=run,
    )
    notes = resume.choose(args)
    assert args.damaged == [
        str(path) for path in sorted(folder.glob("*"), reverse=True) if f"{path} is damaged (run" in str(notes)
    ]
    assert args.ckpt.load_enable == (args.resume_from is not None or (load and not auto))
    return args.resume_from, notes


def test_it_goes_on_from_the_newest_whole_one_and_says_so(tmp_path):
    assert start(tmp_path / "none") == (
        None,
        [f"no whole checkpoint in {tmp_path / 'none'}: the run starts from its first step"],
    )
    for step in (2, 4, 6):
        last = write(tmp_path, step, {"a": 1})
    (last / "_actor" / "latest").unlink()
    for how in ({"auto": True}, {"auto": False, "load": True}):
        folder, [passed_over, goes_on] = start(tmp_path, a=1, **how)
        assert folder == str(tmp_path / "global_step4") and "global_step4, the newest whole" in goes_on
        assert "global_step6 is not whole (_actor/latest is missing)" in passed_over


@pytest.mark.parametrize("how", [{"auto": True}, {"auto": False, "load": True}])
def test_one_with_other_bytes_of_the_same_number_is_passed_over_and_told(tmp_path, how):
    folder = tmp_path / "checkpoints"
    paths = [write(folder, step, {"a": 1}) for step in (2, 4, 6)]
    for path in paths[1:]:
        (path / "run.pt").write_bytes(bytes(8) + b"1")
    chosen, [*passed_over, goes_on] = start(folder, a=1, **how)
    assert chosen == str(paths[0]) and str(paths[0]) in goes_on
    told = "{} is damaged (run.pt: not the bytes that were written) and is passed over"
    assert passed_over == [told.format(path) for path in (paths[2], paths[1])]


def test_without_a_whole_one_among_them_a_start_is_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    (write(folder, 2, {}) / "run.pt").write_bytes(bytes(8) + b"1")
    (write(folder, 4, {}) / "run.pt").unlink()
    for how in ({"auto": True}, {"auto": False, "load": True}):
        with pytest.raises(
            UserError, match=r"global_step4 is not whole .*global_step2 is damaged .*--spo.resume never"
        ):
            start(folder, **how)
    assert start(folder, auto=False)[0] is None


def test_one_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    def unreadable(one):
        raise OSError(5, "Input/output error", str(one.path / "run.pt"))

    folder = tmp_path / "checkpoints"
    write(folder, 2, {})
    monkeypatch.setattr(checkpoints, "damage", unreadable)
    with pytest.raises(UserError, match=r"run.pt cannot be read \(Input/output error\)"):
        start(folder)


def test_of_a_finished_run_nothing_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "damage", lambda one: pytest.fail("it was read"))
    write(tmp_path / "checkpoints", 2, {})
    (tmp_path / "summary.json").write_text('{"finished": true}')
    assert "goes on from" in start(tmp_path / "checkpoints")[1][0]


def test_a_run_that_is_not_to_go_on_says_what_lies_there(tmp_path):
    write(tmp_path, 2, {"a": 1})
    folder, [note] = start(tmp_path, auto=False, a=2)
    assert folder is None and "earlier run, the newest global_step2" in note


def test_a_run_that_begins_anew_leaves_no_checkpoint_to_take_for_its_own(tmp_path):
    folder = tmp_path / "checkpoints"
    assert resume.set_aside(folder) == []
    for number in (1, 2):
        write(folder, 2, {"a": number})
        [note] = resume.set_aside(folder)
        assert f"checkpoints.before-{number}" in note and not folder.exists()
        assert (tmp_path / f"checkpoints.before-{number}" / "global_step2").is_dir()
    assert start(folder)[0] is None


def test_another_run_and_one_without_weights_are_refused(tmp_path):
    write(tmp_path, 2, {"spo.mode": "chain"})
    with pytest.raises(UserError, match=r"global_step2 is of another run: --spo.mode is 'tree', was 'chain'"):
        start(tmp_path, **{"spo.mode": "tree"})
    write(tmp_path, 3, {}, weights=False)
    with pytest.raises(UserError, match="--ckpt.disable_ds"):
        start(tmp_path)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return stack.make_task(tmp_path_factory.mktemp("task"), train=16, test=1)


def dry(task, run_dir, **changes) -> SimpleNamespace:
    return parse([*stack.options(task, run_dir, **changes), "--dry-run"])[0]


def test_a_run_saves_by_default_into_its_own_folder(task, tmp_path):
    args = dry(task, tmp_path, ckpt__path=None)
    assert args.ckpt.save_steps == resume.SAVE_STEPS and args.ckpt.path == str(tmp_path / "run" / "checkpoints")
    assert dry(task, tmp_path, ckpt__save_steps=7).ckpt.save_steps == 7


def test_model_prompts_and_method_make_a_run(task, tmp_path):
    one = dry(task, tmp_path).identity
    assert checkpoints.differences(one, dry(task, tmp_path, actor__adam__lr=1e-4, train__num_episodes=9).identity) == []
    rows = (task / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(rows[::-1]))
    other = dry(task, tmp_path, data__prompt_dataset=tmp_path / "other.jsonl", **{"train.seed": 7}).identity
    [seed, prompts] = checkpoints.differences(one, other)
    assert seed == "--train.seed is 7, was 42" and prompts.startswith("hash of all rows of --data.prompt_dataset is")
    assert json.loads(json.dumps(one)) == one


def test_a_finished_run_says_so_and_starts_nothing(task, tmp_path, capfd, monkeypatch):
    def started(*_):
        raise AssertionError("a run was started")

    monkeypatch.setattr("spo_rlhf.cli.train.train", started)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text('{"finished": true}')
    assert main(stack.options(task, tmp_path, spo__resume="auto")) == 0
    assert "run holds a finished run" in capfd.readouterr().out
    (tmp_path / "run" / "summary.json").write_text('{"finished": false}')
    with pytest.raises(AssertionError):
        main(stack.options(task, tmp_path, spo__resume="auto"))


def test_auto_needs_a_folder_to_look_into(task, tmp_path, capfd):
    assert main(stack.options(task, tmp_path, spo__resume="auto", spo__run_dir=None)) == 2
    assert "--spo.resume auto needs --spo.run_dir" in capfd.readouterr().err


def test_auto_is_refused_where_no_checkpoint_would_have_what_it_needs(task, tmp_path, capfd):
    assert main(stack.options(task, tmp_path, spo__resume="auto", ckpt__disable_ds=True)) == 2
    assert "take one of the two" in capfd.readouterr().err
