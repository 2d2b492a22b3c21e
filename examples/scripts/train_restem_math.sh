#!/usr/bin/env bash
# RestEM on MATH with DeepSeek-R1-Distill-Qwen-1.5B and the hyper-parameters of the official comparison: sample, keep right responses, train the
# *initial* model on them, sample from the result, and so on, until the reward on held-out training problems falls.
#
#   bash examples/scripts/train_restem_math.sh [--dry-run]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT, TRAIN_ROWS and
# VALIDATION_ROWS (of DATA), ITERATIONS (10); SMOKE=1: see lib/offline.sh. A stopped run continues when it is started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
DATA=${DATA:-DigitalLearningGmbH/MATH-lighteval}
OUTPUT=${OUTPUT:-runs/restem_math}
TRAIN_ROWS=${TRAIN_ROWS:-:7000}
VALIDATION_ROWS=${VALIDATION_ROWS:-7000:}
TASK=math
source examples/scripts/lib/offline.sh
source examples/scripts/lib/restem.sh
restem
