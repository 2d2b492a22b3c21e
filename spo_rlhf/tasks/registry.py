"""The tasks by name. A task's own definition is a record in its module; here it has one line.

Another one from outside the package: ``TASKS.register("name")(Task(...))`` in a file for `--plugin`.
"""

from spo_rlhf.core.registry import Registry
from spo_rlhf.tasks import arithmetic, check_last, knights_knaves, math_sets, plan_first
from spo_rlhf.tasks.task import Task

TASKS: Registry[Task] = Registry(
    "task",
    {
        "gsm8k": math_sets.GSM8K,
        "math500": math_sets.MATH500,
        "aime24": math_sets.AIME24,
        "aime25": math_sets.AIME25,
        "hmmt25": math_sets.HMMT25,
        "olympiadbench": math_sets.OLYMPIADBENCH,
        "minerva": math_sets.MINERVA,
        "amc23": math_sets.AMC23,
        "math": math_sets.MATH,
        "knights_knaves": knights_knaves.TASK,
        "arithmetic": arithmetic.TASK,
        "plan_first": plan_first.TASK,
        "check_last": check_last.TASK,
    },
)
