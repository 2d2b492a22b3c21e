# train: runs spo-train with the arrays `task` (lib/gsm8k.sh, lib/math.sh), `method` and `smoke` (the script), and with
# `recommended`, where a script has it: what docs/when-spo-pays.md recommends in place of a part of `method`, which holds the official
# runs' settings. PRESET=paper leaves it out. Sourced, not run.
#
# DEVICES: GPUs of this machine, or of the cluster at RAY_ADDRESS. SMOKE=1: 2 steps on the CPU with the quickstart's kind of
# model, made at OUTPUT/task or taken from SMOKE_MODEL, on DATA=FILE.jsonl, a local file of the real data set.
DEVICES=${DEVICES:-1} PRESET=${PRESET:-recommended}
case $PRESET in recommended | paper) ;; *) echo "PRESET=$PRESET: give recommended or paper" >&2; exit 2 ;; esac
PYTHON=${PYTHON:-python}
recommended=()
if [ "$PYTHON" = python ] && [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi

if [ "${SMOKE:-0}" = 1 ]; then
    case $DATA in *.jsonl) ;; *) echo "SMOKE=1 needs DATA=FILE.jsonl, a local file of the data set" >&2; exit 2 ;; esac
    if [ -z "${SMOKE_MODEL:-}" ]; then
        SMOKE_MODEL=$OUTPUT/task/model
        $PYTHON -W ignore -m spo_rlhf.cli.prepare --output "$OUTPUT/task" --train 64 --test 8 --warm-up-steps "${SMOKE_WARM_UP_STEPS:-20}"
    fi
    MODEL=$SMOKE_MODEL TEMPLATE=$'Question: {}\nAnswer:\n'
    smoke_options=(
        --data.max_samples 8 --rollout.batch_size 4 --rollout.n_samples_per_prompt 4 --rollout.micro_batch_size 4
        --train.batch_size 8 --train.micro_batch_size 4 --train.num_episodes 1 --rollout.max_new_tokens 32
        --eval.n_samples_per_prompt 1 --ckpt.save_steps -1
    )
fi

train() {
    local options=(
        --actor.model_name_or_path "$MODEL"
        --data.prompt_dataset "$DATA" --data.input_key "$INPUT_KEY" --data.label_key "$LABEL_KEY" --data.input_template "$TEMPLATE"
        --reward.remote_url "$REWARD"
        "${task[@]}" "${method[@]}"
        --actor.gradient_checkpointing_enable --train.seed 42
        --actor.num_gpus_per_node "$DEVICES" --ref.num_gpus_per_node "$DEVICES" --vllm.num_engines "$DEVICES" --train.colocate_all
        --vllm.gpu_memory_utilization 0.4 --vllm.enable_sleep --ds.enable_sleep
        --ckpt.output_dir "$OUTPUT/model" --ckpt.path "$OUTPUT/checkpoints" --ckpt.save_steps 50 --spo.run_dir "$OUTPUT"
    )
    if [ "$PRESET" = recommended ]; then
        options+=("${recommended[@]}")
    fi
    if [ "${SMOKE:-0}" = 1 ]; then
        options+=("${smoke_options[@]}" "${smoke[@]}")
    fi
    exec "$PYTHON" -W ignore -m spo_rlhf.cli.train "${options[@]}" "$@"
}
