"""What runs inside a reward process: load the user's reward file once, grade one response at a time.

Imports the standard library only (and plugins, where there are some), so that a reward process starts in a fraction of a second.
"""

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = 137  # the exit status of what the kernel ends for it
_reward_func: Callable[..., Any] | None = None


class RewardFileError(Exception):
    """The reward file or what it returned is not as OpenRLHF's contract has it; the message is one line."""


def start(path: str) -> None:
    """`load` in a process of its own, which takes down what grades. Raises RewardFileError."""
    from spo_rlhf.host import code

    code.watch()
    load(path)


def load(path: str) -> None:
    """Import `reward_func` from the file `path`. Raises RewardFileError."""
    global _reward_func
    if os.environ.get("SPO_PLUGINS"):  # a reward may grade answers of a kind, or of a task, that a plugin brings
        from spo_rlhf import plugins

        plugins.load_from_environment()
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(f"reward_{name}", path)
    if spec is None or spec.loader is None:
        raise RewardFileError("its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardFileError(f"importing it raised {type_and_first_line(error)}") from error
    if not callable(getattr(module, "reward_func", None)):
        raise RewardFileError("it defines no function reward_func(queries, prompts, labels)")
    _reward_func = module.reward_func


def grade_and_tell(*asked: Any) -> tuple[tuple[Any, ...], tuple[set[str], set[str]]]:
    """What `grade` returns, and what has come to it since the last one: `host.code.used`."""
    from spo_rlhf.host import code

    return grade(*asked), code.used()


Steps = tuple[tuple[int, float], ...]


def grade(
    query: str, prompt: str, label: str, finite: bool = True
) -> tuple[float, float, dict[str, float]] | tuple[float, float, dict[str, float], Steps]:
    """(reward, score, logs) of one response, and its steps where there are some. `query` is the prompt and the response.

    Raises RewardFileError; only with `finite` for a reward or score that is not finite, and for one that needs more memory than
    it has, which else ends this process.
    """
    assert _reward_func is not None, "load() comes first"
    try:
        result = _reward_func([query], [prompt], [label])
    except MemoryError as error:
        if not finite:
            os._exit(OUT_OF_MEMORY)
        raise RewardFileError(f"reward_func raised {type_and_first_line(error)}") from error
    except Exception as error:
        raise RewardFileError(f"reward_func raised {type_and_first_line(error)}") from error
    if not isinstance(result, dict) or "rewards" not in result:
        raise RewardFileError(f'reward_func must return a dict with "rewards", got {type(result).__name__}')
    reward = only_number(result["rewards"], "rewards", finite)
    scores = result.get("scores")
    score = reward if scores is None else only_number(scores, "scores", finite)
    logs = {
        str(name): only_number(value, f"extra_logs[{name!r}]")
        for name, value in (result.get("extra_logs") or {}).items()
    }
    if result.get("steps") is None:
        return reward, score, logs
    return reward, score, logs, steps_of(result["steps"], query.removeprefix(prompt))


def steps_of(values: Any, response: str) -> Steps:
    """(characters up to the step's end, value) of each step, in the order of their ends.

    `values` holds one list, of the one query: numbers, one for each line of the response with text in it, or pairs
    [characters of the response up to the step's end, value]. Raises RewardFileError for anything else.
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, (list, tuple)) or len(values) != 1:
        raise RewardFileError("reward_func must return as steps one list per query")
    steps = values[0].tolist() if hasattr(values[0], "tolist") else values[0]
    if not isinstance(steps, (list, tuple)):
        raise RewardFileError(f"reward_func returned {steps!r} as the steps of a query: return a list")
    if not any(isinstance(step, (list, tuple)) for step in steps):
        ends = line_ends(response)
        if len(steps) != len(ends):
            raise RewardFileError(
                f"reward_func returned {len(steps)} steps for a response of {len(ends)} lines with text: return one a line, or "
                "pairs [characters, value]"
            )
        steps = list(zip(ends, steps, strict=True))
    found = []
    for step in steps:
        if not isinstance(step, (list, tuple)) or len(step) != 2:
            raise RewardFileError(f"reward_func returned the step {step!r}: return [characters, value]")
        end, value = step
        if isinstance(end, bool) or not isinstance(end, int) or not 0 < end <= len(response):
            raise RewardFileError(
                f"reward_func returned a step that ends at {end!r}: a response of {len(response)} characters has ends from 1"
            )
        if found and end <= found[-1][0]:
            raise RewardFileError(
                f"reward_func returned steps that end at {found[-1][0]} and then at {end}: let them rise"
            )
        found.append((end, only_number([value], "the value of a step")))
    return tuple(found)


def line_ends(response: str) -> list[int]:
    r"""Characters up to the end of each line with text in it, its line feed included."""
    ends, at = [], 0
    for line in response.split("\n"):
        at = min(at + len(line) + 1, len(response))
        if line.strip():
            ends.append(at)
    return ends


def only_number(values: Any, name: str, finite: bool = True) -> float:
    """The one number in a list, array or tensor of length 1; `finite`: any other raises RewardFileError."""
    numbers = values.tolist() if hasattr(values, "tolist") else values
    numbers = list(numbers) if isinstance(numbers, (list, tuple)) else [numbers]
    if len(numbers) != 1:
        raise RewardFileError(f"reward_func returned {len(numbers)} {name} for 1 query: return one number per query")
    try:
        number = float(numbers[0])
    except (TypeError, ValueError, OverflowError):
        raise RewardFileError(f"reward_func returned {numbers[0]!r} as {name}: return one number per query") from None
    if finite and not math.isfinite(number):
        raise RewardFileError(f"reward_func returned {number} as {name}: return a finite number")
    return number


def type_and_first_line(error: BaseException) -> str:
    """The error's type and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
