"""Mathematics from public data sets: GSM8K, MATH and the test sets AIME24, AMC23 and MATH500."""

from spo_rlhf.tasks.prompts import MATH_TASK, OPEN_R1
from spo_rlhf.tasks.task import BOXED, HubData, Task, training_template

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

GSM8K = Task(
    description="grade school word problems",
    files=("gsm8k_test.jsonl", "gsm8k.jsonl"),
    test=HubData("openai/gsm8k", ("main",), problem="question"),
    train=HubData("openai/gsm8k", ("main",), split="train", problem="question"),
    # <s> is the beginning-of-text token of the supervised model, which it was trained with.
    template="<s>" + training_template(MATH_TASK),
    prompt=BOXED,
)
MATH = Task(
    description="competition problems of seven subjects, with solutions",
    files=("math_test.jsonl", "math.jsonl"),
    # On the hub the answer stands in the last box of the solution.
    test=HubData("EleutherAI/hendrycks_math", MATH_SUBJECTS, answer="solution"),
    train=HubData("DigitalLearningGmbH/MATH-lighteval", split="train", answer="solution"),
    # The chat template of DeepSeek-R1-Distill-Qwen, with its thought opened.
    template=f"<｜begin▁of▁sentence｜><｜User｜>{training_template(OPEN_R1)}<｜Assistant｜><think>\n",
    prompt=BOXED,
)
MATH500 = Task(
    description="500 test problems of MATH",
    files=("math500.jsonl",),
    test=HubData("HuggingFaceH4/MATH-500"),
)
AIME24 = Task(
    description="30 problems of AIME 2024",
    files=("aime24.jsonl",),
    test=HubData("HuggingFaceH4/aime_2024", split="train"),
)
AMC23 = Task(
    description="40 problems of AMC 2023",
    files=("amc23.jsonl",),
    test=HubData("math-ai/amc23", problem="question"),
)
