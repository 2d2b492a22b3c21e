"""The small wrong versions that mutation testing makes: each is Python, and each is another program."""

import ast
from pathlib import Path

import pytest
from mutants import mutants

CORE = sorted((Path(__file__).parents[2] / "spo_rlhf" / "core").glob("[!_]*.py"))


def changes(source: str) -> list[str]:
    return [one.change for one in mutants(source)]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_every_mutant_of_a_file_is_a_program_of_its_own(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = [ast.dump(ast.parse(one.text)) for one in mutants(source)]
    assert found and ast.dump(ast.parse(source)) not in found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["a < b to ((a) <= (b))", "a < b to ((a) >= (b))"]),
        ("a + 'ü' + b", ["a + 'ü' + b to (a + 'ü' - b)", "a + 'ü' to (a - 'ü')"]),
        ("min(a, key=b.max)", ["b.max to (b).min", "min to max", "min(a, key=b.max) removed"]),
        ("if a:\n    b()", ["if a: negated", "b() removed"]),
        ("x = [a for a in b if a()]", ["if a(): negated"]),
        ("def f():\n    'text'\n    return not b", ["not b to (b)", "return not b to return None"]),
        ("a and not b", ["a and (not b) to (a or not b)", "not b to (b)"]),
        ("x: Literal[1] = True", ["True to False"]),
        ("@cache(3)\ndef f(n: int = 3) -> 'x[1]': ...", ["3 to (2)", "3 to (4)"]),
        ("assert a < b", []),
        ("f'{a + 1}'", []),
    ],
)
def test_what_is_changed_and_what_is_left_alone(source: str, expected: list[str]) -> None:
    assert sorted(changes(source)) == sorted(expected)


def test_a_mutant_knows_the_lines_that_a_test_has_to_execute() -> None:
    source = "x = 1\ndef f(n=2):\n    if (n >\n            x):\n        return x + 3\n"
    found = {one.change: one.lines for one in mutants(source)}
    assert found["1 to (2)"] is None and found["2 to (3)"] is None, "executed by the import"
    assert found["n > x to ((n) >= (x))"] == (3, 4) and found["3 to (4)"] == (5, 5)
