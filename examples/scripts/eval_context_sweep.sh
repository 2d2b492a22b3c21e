#!/usr/bin/env bash
# Accuracy at 2K, 4K and 32K tokens on MATH500, AIME24 and GSM8K for one model, from one pass per task.
#
#   examples/scripts/eval_context_sweep.sh MODEL [OUTPUT]      on GPUs
#   SMOKE=1 examples/scripts/eval_context_sweep.sh MODEL       a minute on a CPU: a few problems, short contexts
#
# Environment: DATA_DIR (folder with math500.jsonl, aime24.jsonl, gsm8k_test.jsonl; default: Hugging Face data sets),
# SAMPLES (responses per problem, default 1 as in the paper), GPUS (engines, one per GPU, default 1).
# A stopped run continues when the same command is given again.
set -euo pipefail

if [[ $# -lt 1 ]]; then
    echo "usage: ${0##*/} MODEL [OUTPUT]" >&2
    exit 2
fi
model=$1
output=${2:-runs/eval/$(basename "$model")}

arguments=(--preset spo-paper --tasks math500,aime24,gsm8k --model "$model" --output "$output"
           --samples "${SAMPLES:-1}" --data-parallel "${GPUS:-1}")
if [[ -n ${DATA_DIR:-} ]]; then
    arguments+=(--data-dir "$DATA_DIR")
fi
if [[ ${SMOKE:-0} == 1 ]]; then
    # A small model has a small context and no chat template.
    arguments+=(--contexts 512,768,1024 --limit 2 --prompt boxed --chat-template none)
fi

python -m evaluation run "${arguments[@]}"
python -m evaluation report "$output" --format md,html,png,json --paper
