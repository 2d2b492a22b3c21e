"""Mathematics from public data sets: GSM8K, MATH and test sets."""

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

# Responses to each problem where there are 30 or 40: the interval of one each is 30 points wide.
FEW_PROBLEMS = 16
AIME_ANSWER = r"\d{1,3}(\.0)?"

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
    size=500,
    data="03fcb4b57a0dade9",
)
AIME24 = Task(
    description="30 problems of AIME 2024",
    files=("aime24.jsonl",),
    test=HubData("HuggingFaceH4/aime_2024", split="train"),
    samples=FEW_PROBLEMS,
    size=30,
    answer=AIME_ANSWER,
    data="e641c091a7699537",
)
AIME25 = Task(
    description="30 problems of AIME 2025",
    files=("aime25.jsonl",),
    test=HubData("MathArena/aime_2025", split="train"),
    samples=FEW_PROBLEMS,
    size=30,
    answer=AIME_ANSWER,
)
HMMT25 = Task(
    description="30 problems of HMMT February 2025",
    files=("hmmt25.jsonl", "hmmt_feb_2025.jsonl"),
    test=HubData("MathArena/hmmt_feb_2025", split="train"),
    samples=FEW_PROBLEMS,
    size=30,
)
OLYMPIADBENCH = Task(
    description="mathematical olympiads in English, text only",
    files=("olympiadbench.jsonl",),
    # Its answers are lists, most of them of one; published numbers count 674 or 675 problems.
    test=HubData(
        "Hothan/OlympiadBench", ("OE_TO_maths_en_COMP",), split="train", problem="question", answer="final_answer"
    ),
)
MINERVA = Task(
    description="272 problems of undergraduate science",
    files=("minerva.jsonl", "minervamath.jsonl"),
    test=HubData("math-ai/minervamath", problem="question"),
    size=272,
)
AMC23 = Task(
    description="40 problems of AMC 2023",
    files=("amc23.jsonl",),
    test=HubData("math-ai/amc23", problem="question"),
    samples=FEW_PROBLEMS,
    size=40,
)
