#!/usr/bin/env bash
# PPO with a critic on GSM8K with Rho-1.1B and the hyper-parameters of the official comparison.
#
#   bash examples/scripts/train_ppo_gsm8k.sh [--dry-run] [more spo-train options, which win over those below]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT; SMOKE=1: see lib/run.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main}
OUTPUT=${OUTPUT:-runs/ppo_gsm8k}
source examples/scripts/lib/gsm8k.sh
source examples/scripts/lib/run.sh

method=(
    # a critic of the size of the policy; generalised advantage estimation with gamma = lambda = 1
    --spo.mode group --algo.advantage.estimator gae --algo.advantage.gamma 1 --algo.advantage.lambd 1 --no-spo.prob_mask
    --critic.model_name_or_path "$MODEL" --critic.num_gpus_per_node "$DEVICES" --critic.adam.lr 1e-6 --critic.value_clip 0.2
    # an iteration: 64 prompts x 8 responses, 2 epochs over them in batches of 64 (16 optimizer steps); about 1000 iterations
    --rollout.batch_size 64 --rollout.n_samples_per_prompt 8 --rollout.micro_batch_size 8
    --train.batch_size 64 --train.micro_batch_size 8 --train.max_epochs 2 --train.num_episodes 9
)
smoke=()
train "$@"
