"""Every command in README and docs: what it names is there, and its options are those of the program."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Programs of the package -> the module whose --help tells their options.
PROGRAMS = {
    "spo-train": "spo_rlhf.cli.train",
    "spo-inspect": "spo_rlhf.cli.inspect",
    "spo-report": "spo_rlhf.cli.report",
    "spo-sample": "spo_rlhf.cli.sample",
    "spo-diagnose": "spo_rlhf.cli.diagnose",
    "spo-eval": "evaluation.__main__",
}
# Programs that are not ours, and variables in front of a command.
OTHERS = {
    "bash",
    "python",
    "pip",
    "docker",
    "sbatch",
    "hf",
    "inspect",
    "echo",
    "ray",
    "git",
    "torchrun",
    "export",
    "salloc",
    "srun",
}
VARIABLE = re.compile(r"[A-Z_]+=\S*")


def commands() -> list[tuple[str, str]]:
    """(page, command) of each line behind a `$` in a console block, continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line[2:]) for line in lines if line.startswith("$ ")]
    return found


def words_of(command: str) -> list[list[str]]:
    """The words of each part of a pipe, comments and variables left out."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word and set(word) <= set("|;&"):
            parts.append([])
        elif parts[-1] or not VARIABLE.fullmatch(word):
            parts[-1].append(word)
    return [part for part in parts if part]


def help_of(module: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` of a program says, of its subcommand where it has such."""
    main = importlib.import_module(module).main
    subcommand = [words[0]] if words and module == "evaluation.__main__" else []
    with pytest.raises(SystemExit):
        main([*subcommand, "--help"])
    return capsys.readouterr().out


def test_pages_have_commands() -> None:
    assert len(commands()) > 30
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda text: text[:60])
def test_a_command_names_what_is_there(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for program, *words in words_of(command):
        program = program.removeprefix(".venv/bin/")
        assert program in PROGRAMS or program in OTHERS or (ROOT / program).exists() or program == ".", (
            f"{page}: {program}"
        )
        for word in words:
            inside = word.startswith(("examples/", "tests/", "spo_rlhf/", "requirements/", "benchmarks/"))
            assert not inside or (ROOT / word.partition(":")[0]).exists(), f"{page}: no {word}"
        if program == "python" and "-m" in words:
            module = words[words.index("-m") + 1]
            assert importlib.util.find_spec(module), f"{page}: no module {module}"
        if program in PROGRAMS:
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            told = help_of(PROGRAMS[program], words, capsys) if flags else ""
            missing = [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w.-])", told)]
            assert not missing, f"{page}: {program} has no {missing}"
