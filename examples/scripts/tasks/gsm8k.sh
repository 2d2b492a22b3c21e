# GSM8K with Rho-1.1B, a supervised model; short responses
MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main} EVAL_DATA=${EVAL_DATA:-${DATA:-openai/gsm8k@main}}
# The columns of the data set on the hub; a local file has "problem" and "answer".
case $DATA in
    *.jsonl) INPUT_KEY=${INPUT_KEY:-problem} EVAL_SPLIT=train ;;
    *) INPUT_KEY=${INPUT_KEY:-question} EVAL_SPLIT=test ;;
esac
LABEL_KEY=${LABEL_KEY:-answer}
REWARD=${REWARD:-spo_rlhf/tasks/math_reward.py}
# The prompt of the supervised model; <s> is its beginning-of-text token, which it was trained with.
TEMPLATE=${TEMPLATE:-$'<s>[MATH_TASK] Problem:\n{}\n\nSolution:'}

MAX_LEN=${MAX_LEN:-2047} EVAL_TEMPERATURE=0.35 EVAL_SAMPLES=16
sampling=(--rollout.temperature 0.6 --rollout.top_p 0.9 --rollout.max_new_tokens 1024 --data.max_len "$MAX_LEN")
# The batch is the preset's: for chain and group 64 prompts x 8 responses, trained twice in batches of 64 (16 optimizer steps).
task=(--rollout.micro_batch_size 8 --train.micro_batch_size 8)
