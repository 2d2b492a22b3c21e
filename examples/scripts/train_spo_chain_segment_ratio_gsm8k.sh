#!/usr/bin/env bash
# SPO-chain on GSM8K with Rho-1.1B and the hyper-parameters of the official runs, but one importance ratio per segment.
#
#   bash examples/scripts/train_spo_chain_segment_ratio_gsm8k.sh [--dry-run] [more spo-train options, which win over those below]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT; SMOKE=1 and
# PRESET=paper (the official runs' batch and continuations, instead of the recommended): see lib/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main}
OUTPUT=${OUTPUT:-runs/spo_chain_segment_ratio_gsm8k}
source examples/scripts/lib/gsm8k.sh
source examples/scripts/lib/run.sh

method=(
    # segments: a boundary every 5 cutpoints (tokens with probability below 0.9), 9 continuations at each
    --spo.mode chain --spo.partition cutpoint --spo.cutpoint_interval 5 --spo.prob_threshold 0.9 --spo.mc_rollouts 9
    --spo.prob_mask --spo.kl_scope masked --spo.advantage_norm batch
    # the 5 masked tokens of a segment share their ratio, so it strays less than that of one token
    --spo.ratio_level segment --spo.clip_low 0.1 --spo.clip_high 0.1
    # an iteration: 64 prompts x 8 responses, 2 epochs over them in batches of 64 (16 optimizer steps); about 1000 iterations
    --rollout.batch_size 64 --rollout.n_samples_per_prompt 8 --rollout.micro_batch_size 8
    --train.batch_size 64 --train.micro_batch_size 8 --train.max_epochs 2 --train.num_episodes 9
)
recommended=(  # PRESET=paper leaves these out
    # less Monte Carlo, more prompts: 128 x 4 responses, 4 continuations
    --spo.mc_rollouts 4 --rollout.batch_size 128 --rollout.n_samples_per_prompt 4 --train.num_episodes 18
)
smoke=(--spo.mc_rollouts 2)
train "$@"
