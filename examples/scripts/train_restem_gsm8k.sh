#!/usr/bin/env bash
# RestEM on GSM8K with Rho-1.1B and the hyper-parameters of the official comparison: sample, keep right responses, train the
# *initial* model on them, sample from the result, and so on, until the reward on held-out training problems falls.
#
#   bash examples/scripts/train_restem_gsm8k.sh [--dry-run]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT, TRAIN_ROWS and
# VALIDATION_ROWS (of DATA), ITERATIONS (10); SMOKE=1: see lib/offline.sh. A stopped run continues when it is started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main}
OUTPUT=${OUTPUT:-runs/restem_gsm8k}
TRAIN_ROWS=${TRAIN_ROWS:-:7100}
VALIDATION_ROWS=${VALIDATION_ROWS:-7100:}
TASK=gsm8k
source examples/scripts/lib/offline.sh
source examples/scripts/lib/restem.sh
restem
