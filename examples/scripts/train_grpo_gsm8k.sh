#!/usr/bin/env bash
# GRPO on GSM8K with Rho-1.1B and the hyper-parameters of the official comparison, but for what `recommended` says.
#
#   bash examples/scripts/train_grpo_gsm8k.sh [--dry-run] [more spo-train options, which win over those below]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT; SMOKE=1 and
# PRESET=paper (the official comparison's batch instead of the recommended): see lib/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main}
OUTPUT=${OUTPUT:-runs/grpo_gsm8k}
source examples/scripts/lib/gsm8k.sh
source examples/scripts/lib/run.sh

method=(
    --spo.mode group --algo.advantage.estimator group_norm --no-spo.prob_mask --spo.advantage_norm batch
    # an iteration: 64 prompts x 8 responses, 2 epochs over them in batches of 64 (16 optimizer steps); about 1000 iterations
    --rollout.batch_size 64 --rollout.n_samples_per_prompt 8 --rollout.micro_batch_size 8
    --train.batch_size 64 --train.micro_batch_size 8 --train.max_epochs 2 --train.num_episodes 9
)
recommended=(  # PRESET=paper leaves these out
    # more prompts: 128 x 4 responses
    --rollout.batch_size 128 --rollout.n_samples_per_prompt 4 --train.num_episodes 18
)
smoke=()
train "$@"
