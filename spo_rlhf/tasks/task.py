"""What a task is: one record that says where its problems come from, how they are asked and how answers are graded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from spo_rlhf.graders.kinds import KINDS

#: The mathematics reward: right or wrong, by the strict grader.
MATH_REWARD = Path(__file__).with_name("math_reward.py")


@dataclass(frozen=True)
class Prompt:
    """How the evaluation asks a problem.

    template: text with {problem}. chat: apply the model's chat template. system: system message. stop: strings that end
    a response. example: how a few-shot example reads, with {problem} and {solution}; the problem itself then follows in
    the same form. Raises ValueError where the template has no place for the problem.
    """

    template: str
    chat: bool = True
    system: str | None = None
    stop: tuple[str, ...] = ()
    example: str = "Problem: {problem}\nSolution: {solution}\n\n"

    def __post_init__(self) -> None:
        if "{problem}" not in self.template:
            raise ValueError("the template must contain {problem}")


#: What the evaluation asks where a task says nothing else.
BOXED = Prompt("{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.")


@dataclass(frozen=True)
class HubData:
    """A data set of the Hugging Face hub.

    configs: its parts, all of which are read; empty where it has but one. problem, answer: names of its columns; the
    answer may be a solution that ends in the answer.
    """

    dataset: str
    configs: tuple[str, ...] = ()
    split: str = "test"
    problem: str = "problem"
    answer: str = "answer"

    @property
    def prompt_dataset(self) -> str | None:
        """As `--data.prompt_dataset` takes it, NAME or NAME@FOLDER; None where the parts are more than one."""
        if len(self.configs) > 1:
            return None
        return "@".join((self.dataset, *self.configs))


@dataclass(frozen=True)
class Setting:
    """A whole number that a task's problems are made with: an option of `prepare`."""

    default: int
    help: str
    smallest: int = 1


@dataclass(frozen=True)
class SelfMade:
    """How a task makes its own data, and the small model that learns it.

    write_task: called as (directory, seed, train_count, test_count, sft_count, supervised_from=..., **settings); writes
        train.jsonl, sft.jsonl and test.jsonl (`splits.write_splits`) and returns their rows by name, each with the
        texts "problem", "solution" and "answer". supervised_from: the size at which the supervised problems start;
        None: as the others.
    settings: what the problems are made with; the largest value is the size of the largest problems.
    check: called with the settings by name; raises ValueError for values out of range.
    vocabulary_size: of the small model's tokenizer.
    evaluate_every: steps of the warm-up between two measurements where solutions are short; more where they are longer.
    """

    write_task: Callable[..., dict[str, list[dict]]]
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    check: Callable[..., None] = lambda **settings: None
    vocabulary_size: int = 512
    evaluate_every: int = 40


@dataclass(frozen=True)
class Task:
    """One task. Everything that trains on it, measures it or makes it reads this record.

    description: one line.
    files: names of its files in a folder of local data (`spo-eval --data-dir`), in the order in which they are looked
        for. Rows of local files have "problem" and "answer", whatever the columns on the hub are called.
    test, train: the data on the hub, for evaluation and for training; None where there are none.
    template: the prompt of training, for `--data.input_template`: a format string with {} for the problem, so that
        other braces are doubled. None where nobody trains on the task.
    prompt: the prompt of the evaluation; None: the template, without a chat template, or BOXED where there is none.
    kind: of the answers, a name in `graders.kinds.KINDS`.
    samples: responses to each problem of the evaluation, unless it is told otherwise; few problems need many.
    size: number of its problems, answer: a pattern of its answers, data: hash of its questions and answers (`evaluation`
        makes it); None where that is not known. Other data of that name are told or refused.
    reward: reward file for training (`--reward.remote_url`).
    self_made: how it makes its own data; None where it does not.

    Raises ValueError for an unknown kind, for a template without {}, and where problems are made but not asked.
    """

    description: str
    files: tuple[str, ...] = ()
    test: HubData | None = None
    train: HubData | None = None
    template: str | None = None
    prompt: Prompt | None = None
    kind: str = "math"
    samples: int = 1
    size: int | None = None
    answer: str | None = None
    data: str | None = None
    reward: Path = MATH_REWARD
    self_made: SelfMade | None = None

    def __post_init__(self) -> None:
        KINDS.choose(self.kind)
        if self.self_made is not None and self.template is None:
            raise ValueError("a task that makes its own data needs a template: the small model is trained with it")
        if self.template is not None and "{}" not in self.template:
            raise ValueError("the template of training must contain {} for the problem")

    @property
    def asked(self) -> Prompt:
        """The prompt of the evaluation, also where the record leaves it to the default."""
        if self.prompt is not None:
            return self.prompt
        return BOXED if self.template is None else Prompt(self.template.format("{problem}"), chat=False)


def training_template(prompt: Prompt) -> str:
    """A prompt's text as a format string with {} for the problem."""
    doubled = prompt.template.replace("{", "{{").replace("}", "}}")
    return doubled.replace("{{problem}}", "{}")
