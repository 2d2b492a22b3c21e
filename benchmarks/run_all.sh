#!/usr/bin/env bash
# A quick form of every benchmark, one after another, and one table of what they found: within 30 minutes on 2 idle cores.
#
#   bash benchmarks/run_all.sh                             everything, into runs/benchmarks
#   bash benchmarks/run_all.sh --output DIR                another folder; what is finished there is not made again
#   bash benchmarks/run_all.sh --only tree_training,cost_growth
#   bash benchmarks/run_all.sh --minutes 90                on a busy machine
#   bash benchmarks/run_all.sh --async                     step_breakdown with --train.async_enable as well
#   bash benchmarks/run_all.sh --dry-run                   print the commands
#
# A benchmark whose usual time is more than what is left of the minutes is left out, and said so; one that fails, or takes three times its
# usual time, is named at the end, and the others go on. The quick forms show that the benchmarks work and where things stand roughly: they have few
# repeats, and on a busy machine their spread is wide. benchmarks/results/README.md has the commands of the full forms. Projections
# (scaling.py) measure nothing and are not here.
#
# exit status: 0 where each one that ran has finished, 1 where one failed, 2 for wrong usage
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NAMES=(tree_training rollout_throughput cost_growth step_breakdown gradient_noise learning_curves soak)
# Usual seconds on 2 idle cores, the task's among them.
declare -A SECONDS_OF=(
    [task]=150 [tree_training]=20 [rollout_throughput]=150 [cost_growth]=150 [step_breakdown]=240
    [gradient_noise]=120 [learning_curves]=360 [soak]=480
)
output=runs/benchmarks only= minutes=30 asynchronous= dry_run=

wrong() { echo "run_all.sh: error: $1; see benchmarks/run_all.sh --help" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --output | --only | --minutes) [ $# -ge 2 ] || wrong "$1 wants a value" ;;
    esac
    case $1 in
        --output) output=$2; shift ;;
        --only) only=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        --async) asynchronous=--async ;;
        --dry-run) dry_run=yes ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' benchmarks/run_all.sh; exit 0 ;;
        *) wrong "unknown option $1" ;;
    esac
    shift
done
[[ $minutes =~ ^[1-9][0-9]{0,3}$ ]] || wrong "--minutes $minutes is no whole number of minutes"
[ -n "$only" ] && IFS=, read -ra chosen <<<"$only" || chosen=("${NAMES[@]}")
for name in "${chosen[@]}"; do
    [[ " ${NAMES[*]} " == *" $name "* ]] || wrong "--only $name is none of ${NAMES[*]}"
done
PYTHON=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
began=$SECONDS failed=() left_out=() task=$output/task

# Sets `words` to the command of one, after Python.
command_of() {
    case $1 in
        task) words=(-m spo_rlhf.cli.prepare --output "$task" --train 1024 --test 128 --target-accuracy 0.3 --max-seconds 240) ;;
        tree_training) words=(--quick) ;;
        rollout_throughput | cost_growth) words=(--quick --task-dir "$task") ;;
        step_breakdown) words=(--quick --task-dir "$task" $asynchronous) ;;
        gradient_noise)
            words=(--task "$task" --match "cutpoint 3, 4 x 4, mask" --prompts 8 --repeats 3 --segment-tokens 20)
            ;;
        learning_curves) words=(--quick --budget-tokens 30000 --warm-up-seconds 90) ;;
        soak) words=(--quick --warm-up-seconds 30) ;;
    esac
    [ "$1" = task ] || words=("benchmarks/$1.py" "${words[@]}" --output "$output/$1")
}

# Runs one, or leaves it out where it is done or the time is short. $2: the folder of its results.
run() {
    local name=$1 folder=$2 usual=${SECONDS_OF[$1]} left=$((60 * minutes - SECONDS + began)) log=$output/$1.log start=$SECONDS words status
    command_of "$name"
    if [ -n "$dry_run" ]; then
        printf '%s' "$PYTHON"; printf ' %q' "${words[@]}"; echo
        return
    fi
    [ -e "$folder/done" ] && { echo "== $name: done before"; return; }
    if [ "$usual" -gt "$left" ]; then
        echo "== $name: left out, it takes $usual s and $left are left of $minutes minutes"
        left_out+=("$name")
        return
    fi
    echo "== $name"
    timeout --kill-after=60 $((3 * usual)) "$PYTHON" "${words[@]}" >"$log" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        touch "$folder/done"
        echo "== $name: $((SECONDS - start)) s"
    else
        echo "== $name: failed with status $status after $((SECONDS - start)) s; the end of $log:"
        tail -n 3 "$log" | sed 's/^/   /'
        failed+=("$name")
        # A part of the results is none; the checks of the soak that did not hold are.
        [ "$name" = soak ] || [ ! -e "$folder/results.json" ] || mv "$folder/results.json" "$folder/results.part.json"
    fi
}

trap 'echo "run_all.sh: interrupted" >&2; exit 130' INT
mkdir -p "$output" || exit 2
for name in "${chosen[@]}"; do
    case $name in
        rollout_throughput | cost_growth | step_breakdown | gradient_noise)
            [ -n "${task_tried:-}" ] || run task "$task"
            task_tried=yes
            if [ -z "$dry_run" ] && [ ! -e "$task/prepare.json" ]; then
                echo "== $name: left out, it needs the task"
                left_out+=("$name")
                continue
            fi
            ;;
    esac
    run "$name" "$output/$name"
done
[ -z "$dry_run" ] || exit 0

echo
"$PYTHON" benchmarks/overview.py "$output" || failed+=(overview)
[ ${#left_out[@]} -eq 0 ] || echo "run_all.sh: left out: ${left_out[*]}; --minutes gives more time, --only ${left_out[-1]} runs it alone"
if [ ${#failed[@]} -gt 0 ]; then
    echo "run_all.sh: error: failed: ${failed[*]}; logs in $output" >&2
    exit 1
fi
