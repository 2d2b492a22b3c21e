# GSM8K with Rho-1.1B, a supervised model; short responses
MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
EVAL_DATA=${EVAL_DATA:-${DATA:-}}  # a data set in the form of GSM8K's has a test split as well
use_task gsm8k gsm8k

MAX_LEN=${MAX_LEN:-2047} EVAL_TEMPERATURE=0.35 EVAL_SAMPLES=16
sampling=(--rollout.temperature 0.6 --rollout.top_p 0.9 --rollout.max_new_tokens 1024 --data.max_len "$MAX_LEN")
# The batch is the preset's: for chain and group 64 prompts x 8 responses, trained twice in batches of 64 (16 optimizer steps).
task=(--rollout.micro_batch_size 8 --train.micro_batch_size 8)
