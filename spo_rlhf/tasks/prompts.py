"""The evaluation's prompts that have a name (`spo-eval run --prompt NAME`)."""

from spo_rlhf.core.registry import Registry
from spo_rlhf.tasks import arithmetic, knights_knaves
from spo_rlhf.tasks.task import BOXED, Prompt

# What the runs behind the paper's Table 1 asked, and what its training runs asked (two spaces after "clearly.").
OPEN_R1 = Prompt(
    "Solve the following math problem efficiently and clearly.  The last line of your response should be of the "
    "following format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) "
    "where ANSWER is just the final number or expression that solves the problem. Think step by step before answering."
    "\n\n{problem}"
)
# What the supervised models of the paper's GSM8K runs were trained with.
MATH_TASK = Prompt(
    "[MATH_TASK] Problem:\n{problem}\n\nSolution:",
    chat=False,
    stop=("\n\n\nProblem:",),
    example="[MATH_TASK] Problem:\n{problem}\n\nSolution:{solution}\n\n\n",
)

PROMPTS: Registry[Prompt] = Registry(
    "prompt",
    {
        "open-r1": OPEN_R1,
        "boxed": BOXED,
        "qwen-math": Prompt(
            "{problem}", system="Please reason step by step, and put your final answer within \\boxed{}."
        ),
        "math-task": MATH_TASK,
        "few-shot": Prompt("Problem: {problem}\nSolution:", chat=False, stop=("\nProblem:",)),
        "roles": knights_knaves.TASK.asked,
        "arithmetic": arithmetic.TASK.asked,
        "raw": Prompt("{problem}", chat=False),
    },
)
