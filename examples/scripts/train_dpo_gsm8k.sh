#!/usr/bin/env bash
# DPO-positive on GSM8K with Rho-1.1B and the hyper-parameters of the official comparison: 64 responses to each problem,
# right beside wrong ones, at most 64 pairs a problem, one round.
#
#   bash examples/scripts/train_dpo_gsm8k.sh [--dry-run]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT;
# SMOKE=1: see lib/offline.sh. A stopped run continues when it is started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main}
OUTPUT=${OUTPUT:-runs/dpo_gsm8k}
TASK=gsm8k
source examples/scripts/lib/offline.sh

responses=64
# --spo.dpo_positive is DPO-positive's lambda; OpenRLHF's own DPO has none (0 is plain DPO)
method=(--model.beta 0.3 --spo.dpo_positive 50 --train.max_epochs 3 --train.micro_batch_size 4)
if [ "${SMOKE:-0}" = 1 ]; then
    responses=8
    method+=(--train.max_epochs 1 --train.batch_size 8 --data.max_samples 16)
fi
sample "$MODEL" "$OUTPUT/samples" "$DATA" train --samples "$responses" --select pairs --per-prompt 64
fit dpo "$OUTPUT" --data.dataset "$OUTPUT/samples/pairs.jsonl" --data.prompt_key prompt "${method[@]}"
if [ ${#dry_run[@]} -gt 0 ]; then exit; fi
sample "$OUTPUT/model" "$OUTPUT/evaluation" "$EVAL_DATA" "$EVAL_SPLIT" "${evaluation[@]}"
