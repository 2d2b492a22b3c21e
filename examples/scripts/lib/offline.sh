# run_method of RestEM and DPO: spo-sample, then OpenRLHF's supervised or preference training, as the recipe's `train_offline`
# says. Sourced by their recipes. A stopped run continues when it is started again.
#
# SMOKE=1: the arithmetic task and a small model that solves a part of it, made at SMOKE_TASK, in place of DATA and MODEL.
dry_run=() smoke_sampling=()
if [ "${SMOKE:-0}" = 1 ]; then
    SMOKE_TASK=${SMOKE_TASK:-$OUTPUT/task}
    DATA=$SMOKE_TASK/train.jsonl EVAL_DATA=$SMOKE_TASK/test.jsonl SMOKE_MODEL=$SMOKE_TASK/model
    smoke_sampling=(--eager)
fi

run_method() {
    local argument
    for argument in "$@"; do
        case $argument in
            --dry-run) dry_run=(--dry-run) ;;
            *) fail "$METHOD takes no option $argument; see train.sh --help" ;;
        esac
    done
    if [ "$NODES" -gt 1 ]; then fail "$METHOD runs on one node (sbatch --nodes=1)"; fi
    if [ "${SMOKE:-0}" = 1 ]; then
        use_smoke_model
        # Some 300 steps: 40 s on two idle cores.
        "$PYTHON" -W ignore -m spo_rlhf.cli.prepare --output "$SMOKE_TASK" --train 64 --test 32 \
            --min-steps 2 --max-steps 2 --target-accuracy 0.4 --max-seconds 1200
    fi
    train_offline
}

# sample MODEL DIR DATA SPLIT [options]: responses to DIR/samples.jsonl, their mean reward to DIR/summary.json.
sample() {
    local model=$1 output=$2 data=$3 split=$4
    shift 4
    "$PYTHON" -W ignore -m spo_rlhf.cli.sample --model "$model" --output "$output" --data "$data" --split "$split" \
        --input-key "$INPUT_KEY" --label-key "$LABEL_KEY" --template "$TEMPLATE" --reward "$REWARD" \
        "${sampling[@]}" "${smoke_sampling[@]}" --engines "$DEVICES" "$@" "${dry_run[@]}"
}

# evaluate MODEL: the same on the held-out problems, to OUTPUT/evaluation.
evaluate() {
    sample "$1" "$OUTPUT/evaluation" "$EVAL_DATA" "$EVAL_SPLIT" --temperature "$EVAL_TEMPERATURE" --samples "$EVAL_SAMPLES"
}

# fit sft|dpo DIR [options]: trains MODEL with the official optimizer; model to DIR/model. A finished run is not repeated.
fit() {
    local command=$1 output=$2 launch=("$PYTHON" -W ignore)
    shift 2
    if grep -qs '"finished": true' "$output/summary.json"; then return; fi
    if [ "$DEVICES" -gt 1 ]; then launch+=(-m torch.distributed.run --standalone --nproc_per_node "$DEVICES"); fi
    "${launch[@]}" -m spo_rlhf.cli.upstream_trainer "$command" --model.model_name_or_path "$MODEL" --data.input_template '' \
        --data.max_len "$MAX_LEN" --train.batch_size 64 --adam.lr 1e-6 --adam.betas 0.9 0.999 --lr_scheduler linear \
        --lr_warmup_ratio 0.03 --max_norm 1.0 --model.gradient_checkpointing_enable --train.seed 42 \
        --ckpt.output_dir "$output/model" --ckpt.path "$output/checkpoints" --spo.run_dir "$output" "$@" "${dry_run[@]}"
}

# reward_of DIR: the mean reward that `sample` found.
reward_of() {
    "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["reward_mean"])' "$1/summary.json"
}
