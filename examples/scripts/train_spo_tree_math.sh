#!/usr/bin/env bash
# SPO-tree on MATH with DeepSeek-R1-Distill-Qwen-1.5B and the hyper-parameters of the official runs (6-6-6, segments of 600 tokens).
#
#   bash examples/scripts/train_spo_tree_math.sh [--dry-run] [more spo-train options, which win over those below]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT; SMOKE=1: see lib/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
DATA=${DATA:-DigitalLearningGmbH/MATH-lighteval}
OUTPUT=${OUTPUT:-runs/spo_tree_math}
source examples/scripts/lib/math.sh
source examples/scripts/lib/run.sh

method=(
    # trees: 6 children a node on 3 levels, 600 tokens a segment, the last one to the end; nodes may wait 8 iterations
    --spo.mode tree --spo.tree_branching 6,6,6 --spo.tree_segment_tokens "${SEGMENT_TOKENS:-600}" --spo.tree_advantage mean
    --spo.replay_max_age 8 --spo.replay_per_prompt 32
    --spo.prob_mask --spo.prob_threshold 0.9 --spo.kl_scope masked --spo.advantage_norm batch
    # an iteration: 32 trees, at most 32 x 16 nodes trained once in batches of 128 (4 optimizer steps); about 1000 iterations
    --rollout.batch_size 32 --rollout.n_samples_per_prompt 16 --rollout.micro_batch_size 2
    --train.batch_size 128 --train.micro_batch_size 2 --train.max_epochs 1 --train.num_episodes 5
)
# Where no response is right, no node has an advantage: the reward of the smoke run is a coin, and sampling is as random as a
# model that knows next to nothing needs to end a response at all.
smoke=(
    --spo.tree_branching 3,3,2 --spo.tree_segment_tokens 8 --reward.remote_url examples/scripts/lib/coin_reward.py
    --rollout.temperature 1 --rollout.top_p 1 --rollout.max_new_tokens 96
)
train "$@"
