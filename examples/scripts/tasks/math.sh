# MATH with DeepSeek-R1-Distill-Qwen-1.5B at 2K tokens; long responses
# A second stage at 4K starts from the first one's model: MODEL=... MAX_LEN=4096.
MODEL=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
use_task math math500

MAX_LEN=${MAX_LEN:-2048} EVAL_TEMPERATURE=0.6 EVAL_SAMPLES=1
sampling=(--rollout.temperature 0.6 --rollout.top_p 1.0 --data.max_len "$MAX_LEN")
# For chain and group 64 prompts x 8 responses, trained once in batches of 128 (4 optimizer steps).
task=(--train.batch_size 128 --train.max_epochs 1 --rollout.micro_batch_size 2 --train.micro_batch_size 2)
