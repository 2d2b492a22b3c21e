# MATH with DeepSeek-R1-Distill-Qwen-1.5B at 2K tokens; long responses
# A second stage at 4K starts from the first one's model: MODEL=... MAX_LEN=4096.
MODEL=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
DATA=${DATA:-DigitalLearningGmbH/MATH-lighteval}
# On the hub the answer stands in the last \boxed{} of the solution; a local file has "problem" and "answer".
case $DATA in
    *.jsonl) LABEL_KEY=${LABEL_KEY:-answer} EVAL_DATA=${EVAL_DATA:-$DATA} EVAL_SPLIT=train ;;
    *) LABEL_KEY=${LABEL_KEY:-solution} EVAL_DATA=${EVAL_DATA:-HuggingFaceH4/MATH-500} EVAL_SPLIT=test ;;
esac
INPUT_KEY=${INPUT_KEY:-problem}
REWARD=${REWARD:-spo_rlhf/tasks/math_reward.py}
TEMPLATE=${TEMPLATE:-"<｜begin▁of▁sentence｜><｜User｜>Solve the following math problem efficiently and clearly.  The last line of your response \
should be of the following format: 'Therefore, the final answer is: \$\\boxed{{ANSWER}}\$. I hope it is correct' (without quotes) where ANSWER \
is just the final number or expression that solves the problem. Think step by step before answering.

{}<｜Assistant｜><think>
"}

MAX_LEN=${MAX_LEN:-2048} EVAL_TEMPERATURE=0.6 EVAL_SAMPLES=1
sampling=(--rollout.temperature 0.6 --rollout.top_p 1.0 --data.max_len "$MAX_LEN")
# For chain and group 64 prompts x 8 responses, trained once in batches of 128 (4 optimizer steps).
task=(--train.batch_size 128 --train.max_epochs 1 --rollout.micro_batch_size 2 --train.micro_batch_size 2)
