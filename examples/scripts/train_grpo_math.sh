#!/usr/bin/env bash
# GRPO on MATH with DeepSeek-R1-Distill-Qwen-1.5B and the hyper-parameters of the official comparison, but for what `recommended` says.
#
#   bash examples/scripts/train_grpo_math.sh [--dry-run] [more spo-train options, which win over those below]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT; SMOKE=1 and
# PRESET=paper (the official comparison's batch instead of the recommended): see lib/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
DATA=${DATA:-DigitalLearningGmbH/MATH-lighteval}
OUTPUT=${OUTPUT:-runs/grpo_math}
source examples/scripts/lib/math.sh
source examples/scripts/lib/run.sh

method=(
    --spo.mode group --algo.advantage.estimator group_norm --no-spo.prob_mask --spo.advantage_norm batch
    # an iteration: 64 prompts x 8 responses, 1 epoch over them in batches of 128 (4 optimizer steps); about 1000 iterations
    --rollout.batch_size 64 --rollout.n_samples_per_prompt 8 --rollout.micro_batch_size 2
    --train.batch_size 128 --train.micro_batch_size 2 --train.max_epochs 1 --train.num_episodes 9
)
recommended=(  # PRESET=paper leaves these out
    # more prompts: 128 x 4 responses
    --rollout.batch_size 128 --rollout.n_samples_per_prompt 4 --train.num_episodes 18
)
smoke=()
train "$@"
