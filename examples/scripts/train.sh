#!/usr/bin/env bash
# Trains with any method of recipes/ on any task of tasks/; usage, methods, tasks and variables: train.sh --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scripts=examples/scripts

# names FOLDER: its files without .sh, a line each.
names() {
    local file
    for file in "$scripts/$1"/*.sh; do basename "$file" .sh; done
}

# summaries FOLDER: each name with the first line of its file, which says what it is.
summaries() {
    local name
    for name in $(names "$1"); do
        printf '  %-24s%s\n' "$name" "$(sed -n '1s/^# //p' "$scripts/$1/$name.sh")"
    done
}

usage() {
    cat <<END
usage: bash $scripts/train.sh METHOD TASK [--dry-run] [spo-train options, which win over the recipe's]

options: those of spo-train (spo-train --help); restem and dpo take --dry-run alone

methods (recipes/METHOD.sh):
$(summaries recipes)

tasks (tasks/TASK.sh):
$(summaries tasks)

The settings are those of the paper's runs and comparison (--spo.preset paper), but for what a recipe says is recommended
instead (docs/when-spo-pays.md). train_METHOD_TASK.sh is short for the combinations that were measured.

variables:
  PRESET=paper             without what is recommended instead of the paper's settings
  MODEL, DATA, EVAL_DATA   a Hugging Face name, name@folder for data, or a local folder or .jsonl file
  INPUT_KEY, LABEL_KEY, TEMPLATE, REWARD   columns, prompt and reward of other data
  DEVICES, NODES           GPUs of a node, and nodes of the cluster at RAY_ADDRESS; default: 1, this machine
  OUTPUT                   default: runs/METHOD_TASK
  MAX_LEN                  tokens of prompt and response
  SEGMENT_TOKENS           tokens of a tree's segment
  TRAIN_ROWS, VALIDATION_ROWS, ITERATIONS   of restem
  SMOKE=1                  2 steps on the CPU with a small model, on DATA=FILE.jsonl (restem, dpo: on arithmetic)

The same command again goes on where the run in OUTPUT was broken off, and says so where it has finished; --spo.resume never
starts it anew (docs/resuming.md).

examples:
  bash $scripts/train.sh spo_chain gsm8k --dry-run
  DEVICES=8 bash $scripts/train.sh spo_tree math --train.seed 1
  PRESET=paper bash $scripts/train.sh grpo gsm8k
  SMOKE=1 DATA=gsm8k_train.jsonl bash $scripts/train.sh spo_chain gsm8k
END
}

fail() { echo "train.sh: error: $*" >&2; exit 2; }

# known KIND FOLDER NAME: ends the script unless the folder has the file.
known() {
    if [[ $3 == */* || ! -f $scripts/$2/$3.sh ]]; then
        local all
        all=$(names "$2" | paste -sd ' ')
        fail "$1 '$3': choose from ${all// /, }"
    fi
}

case ${1:-} in -h | --help) usage; exit ;; esac
[ $# -ge 2 ] || fail "give METHOD and TASK; see train.sh --help"
known method recipes "$1"
known task tasks "$2"
METHOD=$1 TASK=$2
shift 2
for argument in "$@"; do
    case $argument in -h | --help) usage; exit ;; esac
done
OUTPUT=${OUTPUT:-runs/${METHOD}_$TASK}
source "$scripts/lib/task.sh"
source "$scripts/lib/spo_train.sh"
source "$scripts/recipes/$METHOD.sh"
source "$scripts/tasks/$TASK.sh"
run_method "$@"
