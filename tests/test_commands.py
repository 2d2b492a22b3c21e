"""Every command in README and docs is run, or dry-run, as a user would give it: in a folder with small files of the names it has.

Programs of the package run in this process: `--dry-run` where a program has it, its parser alone where it has none and would start
an engine, the whole command where it takes no time. The scripts run in a shell that writes down what they would start, and that is
dry-run in turn. What is left out stands in EXCEPTIONS, each with its reason.
"""

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import made_up_run
import pytest
import recording
import stack
import stored_run

from spo_rlhf.errors import UserError
from spo_rlhf.host.files import read_jsonl, write_jsonl
from spo_rlhf.tasks import knights_knaves

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Beginning of a command -> why it is not run here.
EXCEPTIONS = {
    "docker ": "takes minutes and loads 4 GB",
    "sbatch ": "needs SLURM; tests/e2e/test_slurm.py submits the scripts to a real one",
    ".venv/bin/pip ": "installs",
    "pip ": "installs",
    "bash tests/run.sh": "the test suite itself",
    "bash tests/gpu/run.sh": "needs a GPU",
    "bash examples/scripts/quickstart.sh": "makes a model first; tests/e2e/test_scripts.py dry-runs it",
}
# Programs of the package -> their module.
PROGRAMS = {
    "spo-train": "spo_rlhf.cli.train",
    "spo-inspect": "spo_rlhf.cli.inspect",
    "spo-report": "spo_rlhf.cli.report",
    "spo-sample": "spo_rlhf.cli.sample",
    "spo-diagnose": "spo_rlhf.cli.diagnose",
    "spo-eval": "evaluation.__main__",
}
VARIABLE = re.compile(r"[A-Z_]+=\S*")


def commands() -> list[tuple[str, str]]:
    """(page, command) of each line behind a `$` in a console block, continued lines joined; each command once."""
    found: dict[str, str] = {}
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            for line in lines:
                if line.startswith("$ "):
                    command = line[2:].split("   # ")[0]
                    found.setdefault(re.sub(r"\s+# .*", "", command).strip(), page.name)
    return [(page, command) for command, page in found.items()]


def excused(command: str) -> str | None:
    """The beginning that excepts a command."""
    bare = " ".join(word for word in command.split() if not VARIABLE.fullmatch(word))
    return next((beginning for beginning in EXCEPTIONS if bare.startswith(beginning)), None)


def words_of(command: str) -> list[list[str]]:
    """The words of each part of a pipe, comments and variables left out."""
    plain = re.sub(r"\$'([^']*)'", lambda found: shlex.quote(found[1].replace("\\n", "\n")), command)
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word and set(word) <= set("|;&"):
            parts.append([])
        elif parts[-1] or not VARIABLE.fullmatch(word):
            parts[-1].append(word)
    return [part for part in parts if part]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a small file or run of every name in the commands."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("examples", "spo_rlhf", "benchmarks", "requirements", "evaluation"):
        (folder / name).symlink_to(ROOT / name)
    task = stack.make_task(folder / "runs" / "quickstart" / "task", train=128, test=4)
    shutil.copytree(task / "model", folder / "MODEL")
    for name in ("train.jsonl", "gsm8k_train.jsonl", "math_train.jsonl"):
        shutil.copy(task / "train.jsonl", folder / name)
    for name in ("test.jsonl", "gsm8k_test.jsonl", "math500.jsonl"):
        shutil.copy(task / "test.jsonl", folder / name)
    (folder / "runs" / "quickstart" / "model").symlink_to(task / "model")
    for name in ("quickstart/train", "seed1", "seed2", "grpo", "chain", "smollm2_gsm8k/train"):
        made_up_run.write(folder / "runs" / name)
    for name in ("plan", "knights", "spo_tree_math"):
        shutil.copytree(task, folder / "runs" / name)
    knights_knaves.write_task(folder / "runs" / "knights", 0, 128, 4, 1, people=2)
    lengthen(folder / "runs" / "spo_tree_math" / "model")
    for name in ("train", "test"):
        rows = [
            {**row, "label": json.dumps({"task": "leg_counting", "entry": row})}
            for row in read_jsonl(task / f"{name}.jsonl")
        ]
        write_jsonl(folder / "runs" / "legs" / f"{name}.jsonl", rows)
    for name in ("mine", "base", "my-model", "MODEL", "many", "model"):
        stored_run.make(folder / "runs" / "eval" / name, name, [[5, 5], [5, 6]])
    write_jsonl(folder / "answers.jsonl", [{"gold": "4", "pred": "\\boxed{4}"}])
    [kind] = re.findall(r"```python\n(.*?KINDS.register.*?)```", (ROOT / "docs/graders.md").read_text(), re.DOTALL)
    (folder / "words.py").write_text(kind.rpartition("```python\n")[2], encoding="utf-8")
    write_jsonl(folder / "rows.jsonl", [{"prompt": "1+1?", "response": "2"}])
    for name in ("experiment.yaml", "base.yaml", "runs/first/config.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(as_yaml(stack.options(task, folder / "runs" / "other")), encoding="utf-8")
    (folder / "mine.yaml").write_text("train.seed: 7\n", encoding="utf-8")
    return folder


def lengthen(model: Path) -> None:
    """Let a model take what the second stage of a recipe asks of it."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}), encoding="utf-8")


def as_yaml(arguments: list[str]) -> str:
    """Flags as settings of a file."""
    text = "\0".join(arguments).replace("\0--", "\n--")
    pairs = [line.removeprefix("--").partition("\0") for line in text.split("\n--") if line]
    return "".join(f"{name}: {json.dumps(value) if value else 'true'}\n" for name, _, value in pairs)


@pytest.fixture
def recorder(tmp_path) -> Path:
    return recording.make(tmp_path / "python")


@pytest.fixture
def user(made, monkeypatch) -> Path:
    """The folder, as the one in which a command is given."""
    monkeypatch.chdir(made)
    return made


def call(module: str, words: list[str]) -> None:
    """Dry-run or run a program of the package in this process."""
    if module in ("spo_rlhf.cli.train", "spo_rlhf.cli.sample", "spo_rlhf.cli.upstream_trainer"):
        words = [*words, "--dry-run"]
    if module == "spo_rlhf.cli.train" and "..." in words:
        task = Path("runs/quickstart/task")
        alone = {"train.colocate_all": None} if "--train.async_enable" in words else {}  # as its page says beside it
        words = [*stack.options(task, Path("runs/other"), **alone), *(word for word in words if word != "...")]
    for only_parsed, parse in PARSERS.items():
        if only_parsed == module or [only_parsed] == [f"{module} {word}" for word in words[:1]]:
            parse(words)
            return
    try:
        status = importlib.import_module(module).main(words)
    except SystemExit as leave:  # --help
        status = leave.code
    assert not status, f"{module} {' '.join(words)}"


def parse_evaluation(words: list[str]) -> None:
    from evaluation.__main__ import parse
    from evaluation.settings import RunOptions, RunSettings, from_arguments

    args = parse(words)
    from_arguments(RunSettings, args)
    from_arguments(RunOptions, args)


def parse_diagnosis(words: list[str]) -> None:
    from spo_rlhf.cli.diagnose import build_parser

    build_parser().parse_args(words)


def parse_preparation(words: list[str]) -> None:
    from spo_rlhf.cli import prepare

    settings = vars(prepare.build_parser().parse_args(words))
    prepare.settle(settings)
    if not settings["output"].exists():  # for what follows in a script
        shutil.copytree("runs/quickstart/task", settings["output"])


def parse_openrlhf(words: list[str]) -> None:
    from spo_rlhf import upstream

    upstream.build_parser("train_ppo_ray").parse_args(words)


def parse_gym(words: list[str]) -> None:
    from spo_rlhf.tasks.gym_tasks import build_parser

    build_parser().parse_args(words)


# Module, or module and subcommand, that has no dry run and takes long -> its checks of the options.
PARSERS = {
    "evaluation.__main__ run": parse_evaluation,
    "spo_rlhf.cli.diagnose": parse_diagnosis,
    "spo_rlhf.cli.prepare": parse_preparation,
    "openrlhf.cli.train_ppo_ray": parse_openrlhf,
    **({} if importlib.util.find_spec("reasoning_gym") else {"spo_rlhf.tasks.gym_tasks": parse_gym}),
}


def dry_run_script(command: str, words: list[str], recorder: Path) -> None:
    """Run a script that writes down what it would start, then dry-run that."""
    given = [*words, *([] if "--help" in words else ["--dry-run"])]
    assigned = dict(word.split("=", 1) for word in command.split() if VARIABLE.fullmatch(word))
    environment = {**stack.environment(), **assigned, "PYTHON": str(recorder), "VENV": ".venv-none"}
    done = subprocess.run(
        ["bash", str(ROOT / given[0]), *given[1:]], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    called = recording.calls(done.stdout)
    called += [  # of a script that prints its commands
        ("evaluation.__main__", shlex.split(line)[3:]) for line in done.stdout.splitlines() if " -m evaluation " in line
    ]
    assert called or done.stdout.strip(), "it says what it would do"
    for module, arguments in called:
        call(module, [word for word in arguments if word != "--dry-run"])


def run_program(path: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Dry-run a program of benchmarks/, or run one of a script's, which looks at a run."""
    monkeypatch.syspath_prepend(str(ROOT / Path(path).parent))
    program = importlib.import_module(Path(path).stem)
    if path.startswith("examples/"):
        assert program.main(words) == 0
    elif "--collect" in words:  # needs finished runs
        program.parse(words)
    else:
        assert program.main([*words, "--dry-run"]) == 0


def test_pages_have_commands() -> None:
    assert len(commands()) > 30
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


def test_every_command_stands_in_a_console_block_and_every_exception_has_one() -> None:
    """So that none is missed, and none is excepted for nothing."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```console\n") == text.count("```console\n$ "), f"{page.name}: commands stand behind $"
        languages = set(re.findall(r"^```(\w+)", text, re.MULTILINE))
        assert languages <= {"console", "python", "yaml", "text", "json"}, f"{page.name}: commands stand behind $"
    used = {excused(command) for _, command in commands()}
    assert set(EXCEPTIONS) == used - {None}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda text: text[:60])
def test_a_command_runs(page: str, command: str, user, recorder, monkeypatch, capsys) -> None:
    for words in words_of(command):
        for word in words:
            inside = word.startswith(("examples/", "tests/", "spo_rlhf/", "requirements/", "benchmarks/"))
            assert not inside or (ROOT / word.partition(":")[0]).exists(), f"{page}: no {word}"
    if excused(command):
        return
    for program, *words in words_of(command):
        if program == "bash":
            dry_run_script(command, words, recorder)
        elif "--plugin" in words or len(words_of(command)) > 1:  # what a plugin adds would stay in this process
            run_in_shell(command)
            return
        elif program in PROGRAMS:
            call(PROGRAMS[program], words)
        elif program == "python" and words[0] == "-m":
            call({"evaluation": "evaluation.__main__"}.get(words[1], words[1]), words[2:])
        else:
            assert program == "python", program
            run_program(words[0], words[1:], monkeypatch)


def run_in_shell(command: str) -> None:
    """The whole command, as a shell runs it."""
    line = command.replace("spo-inspect", "python -m spo_rlhf.cli.inspect").replace("python ", f"{sys.executable} ")
    done = subprocess.run(["bash", "-c", line], env=stack.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_a_wrong_option_is_noticed(user) -> None:
    """What runs here looks at what it is given."""
    with pytest.raises(AssertionError):
        call("spo_rlhf.cli.train", ["...", "--spo.modes", "chain"])
    with pytest.raises(UserError):
        call("spo_rlhf.cli.prepare", ["--output", "x", "--task", "chess"])
