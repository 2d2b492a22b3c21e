# RestEM and DPO: spo-sample, then OpenRLHF's supervised or preference training. Sourced, not run, with TASK=gsm8k or math.
#
# SMOKE=1: the arithmetic task and a small model that solves a part of it, made at SMOKE_TASK, in place of DATA and MODEL.
dry_run=()
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=(--dry-run) ;;
        *) echo "${0##*/}: error: unknown option $argument; see the head of this file" >&2; exit 2 ;;
    esac
done
if [ "${SMOKE:-0}" = 1 ]; then
    SMOKE_TASK=${SMOKE_TASK:-$OUTPUT/task}
    DATA=$SMOKE_TASK/train.jsonl EVAL_DATA=$SMOKE_TASK/test.jsonl SMOKE_MODEL=$SMOKE_TASK/model
fi
source "examples/scripts/lib/$TASK.sh"
source examples/scripts/lib/run.sh
if [ "${SMOKE:-0}" = 1 ]; then
    $PYTHON -W ignore -m spo_rlhf.cli.prepare --output "$SMOKE_TASK" --train 64 --test 32 --min-steps 2 --max-steps 2 \
        --target-accuracy 0.4 --max-seconds 180
fi

# What the task's settings for spo-train say of sampling, for training and for evaluation.
sampling=() evaluation=()
for ((i = 0; i < ${#task[@]}; i++)); do
    case ${task[i]} in
        --rollout.* | --data.max_len) sampling+=("${task[i]}" "${task[i + 1]}") ;;
        --eval.temperature) evaluation+=(--temperature "${task[i + 1]}") ;;
        --eval.n_samples_per_prompt) evaluation+=(--samples "${task[i + 1]}") ;;
    esac
done

# sample MODEL DIR DATA SPLIT [options]: responses to DIR/samples.jsonl, their mean reward to DIR/summary.json.
sample() {
    local model=$1 output=$2 data=$3 split=$4
    shift 4
    "$PYTHON" -W ignore -m spo_rlhf.cli.sample --model "$model" --output "$output" --data "$data" --split "$split" \
        --input-key "$INPUT_KEY" --label-key "$LABEL_KEY" --template "$TEMPLATE" --reward "$REWARD" \
        "${sampling[@]}" --engines "$DEVICES" "$@" "${dry_run[@]}"
}

# fit sft|dpo DIR [options]: trains MODEL with the official optimizer; model to DIR/model. A finished run is not repeated.
fit() {
    local command=$1 output=$2 launch=("$PYTHON" -W ignore)
    shift 2
    if grep -qs '"finished": true' "$output/summary.json"; then return; fi
    if [ "$DEVICES" -gt 1 ]; then launch+=(-m torch.distributed.run --standalone --nproc_per_node "$DEVICES"); fi
    "${launch[@]}" -m spo_rlhf.cli.upstream_trainer "$command" --model.model_name_or_path "$MODEL" --data.input_template '' \
        --data.max_len "${MAX_LEN:-2047}" --train.batch_size 64 --adam.lr 1e-6 --adam.betas 0.9 0.999 --lr_scheduler linear \
        --lr_warmup_ratio 0.03 --max_norm 1.0 --model.gradient_checkpointing_enable --train.seed 42 \
        --ckpt.output_dir "$output/model" --ckpt.path "$output/checkpoints" --spo.run_dir "$output" "$@" "${dry_run[@]}"
}

# reward_of DIR: the mean reward that `sample` found.
reward_of() {
    "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["reward_mean"])' "$1/summary.json"
}
