#!/usr/bin/env bash
# Accuracy at 2K, 4K and 32K tokens on MATH500, AIME24 and GSM8K for one model, from one pass per task.
#
#   bash examples/scripts/eval_context_sweep.sh MODEL [OUTPUT] [--dry-run]      on GPUs
#   SMOKE=1 bash examples/scripts/eval_context_sweep.sh MODEL [OUTPUT]          a minute on a CPU: a few problems, short contexts
#
# Variables: DATA_DIR (folder with math500.jsonl, aime24.jsonl, gsm8k_test.jsonl; default: Hugging Face data sets),
# SAMPLES (responses per problem, default 1 as in the paper), GPUS (engines, one per GPU, default 1).
# A stopped run continues when the same command is given again.
set -euo pipefail
python=python
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$root/requirements/build.sh"
VENV=$(cd "$root" && choose_build && echo "$VENV")
if [[ -x $root/$VENV/bin/python ]]; then python=$root/$VENV/bin/python; fi

dry_run=
positional=()
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=1 ;;
        -*) echo "eval_context_sweep.sh: error: unknown option $argument; see the head of this file" >&2; exit 2 ;;
        *) positional+=("$argument") ;;
    esac
done
if [[ ${#positional[@]} -eq 0 && -n $dry_run ]]; then positional=(deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B); fi
if [[ ${#positional[@]} -eq 0 ]]; then
    echo "usage: ${0##*/} MODEL [OUTPUT] [--dry-run]" >&2
    exit 2
fi
model=${positional[0]}
output=${positional[1]:-runs/eval/$(basename "$model")}

arguments=(--preset spo-paper --tasks math500,aime24,gsm8k --model "$model" --output "$output"
           --samples "${SAMPLES:-1}" --data-parallel "${GPUS:-1}")
if [[ -n ${DATA_DIR:-} ]]; then
    arguments+=(--data-dir "$DATA_DIR")
fi
if [[ ${SMOKE:-0} == 1 ]]; then
    # A small model has a small context and no chat template.
    arguments+=(--contexts 512,768,1024 --limit 2 --prompt boxed --chat-template none --eager)
fi

report=("$output" --format md,html,png,json --paper)
if [[ -n $dry_run ]]; then
    echo "$python -m evaluation run ${arguments[*]}"
    echo "$python -m evaluation report ${report[*]}"
    exit 0
fi
"$python" -m evaluation run "${arguments[@]}"
"$python" -m evaluation report "${report[@]}"
