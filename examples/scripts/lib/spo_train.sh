# run_method: spo-train with the paper's preset, what the task changes of it (array `task`) and what the recipe does (`method`,
# then `recommended` unless PRESET=paper). Sourced by train.sh before a recipe, which fills the arrays, and a task.
DEVICES=${DEVICES:-1} NODES=${NODES:-1} PRESET=${PRESET:-recommended}
case $PRESET in recommended | paper) ;; *) echo "PRESET=$PRESET: give recommended or paper" >&2; exit 2 ;; esac
PYTHON=${PYTHON:-python}
source requirements/build.sh
choose_build
if [ "$PYTHON" = python ] && [ -x "$VENV/bin/python" ]; then PYTHON=$VENV/bin/python; fi

# method: what makes the method, where it differs from --spo.preset paper. recommended: what docs/when-spo-pays.md recommends
# in place of a part of it. smoke: what 2 steps on the CPU need besides `smoke_options`.
method=() recommended=() smoke=()
# A recommendation of several recipes, in place of 64 prompts x 8 responses.
more_prompts=(--rollout.batch_size 128 --rollout.n_samples_per_prompt 4 --train.num_episodes 18)
smoke_options=(
    --data.max_samples 8 --rollout.batch_size 4 --rollout.n_samples_per_prompt 4 --rollout.micro_batch_size 4
    --train.batch_size 8 --train.micro_batch_size 4 --train.num_episodes 1 --rollout.max_new_tokens 32
    --eval.n_samples_per_prompt 1 --ckpt.save_steps -1 --vllm.enforce_eager
)

# use_smoke_model: the quickstart's kind of model in place of the task's, from SMOKE_MODEL or made at OUTPUT/task.
use_smoke_model() {
    case $DATA in *.jsonl) ;; *) echo "SMOKE=1 needs DATA=FILE.jsonl, a local file of the data set" >&2; exit 2 ;; esac
    if [ -z "${SMOKE_MODEL:-}" ]; then
        SMOKE_MODEL=$OUTPUT/task/model
        "$PYTHON" -W ignore -m spo_rlhf.cli.prepare --output "$OUTPUT/task" --train 64 --test 8 \
            --warm-up-steps "${SMOKE_WARM_UP_STEPS:-20}"
    fi
    local template
    record arithmetic template
    MODEL=$SMOKE_MODEL TEMPLATE=$template
}

run_method() {
    if [ "${SMOKE:-0}" = 1 ]; then use_smoke_model; fi
    local options=(
        --spo.preset paper --actor.model_name_or_path "$MODEL"
        --data.prompt_dataset "$DATA" --data.input_key "$INPUT_KEY" --data.label_key "$LABEL_KEY" --data.input_template "$TEMPLATE"
        --reward.remote_url "$REWARD" --eval.dataset "$EVAL_DATA" --eval.split "$EVAL_SPLIT" --eval.steps 10
        --eval.temperature "$EVAL_TEMPERATURE" --eval.n_samples_per_prompt "$EVAL_SAMPLES"
        # 64 prompts an iteration: about 1000 iterations over the training problems of GSM8K or MATH
        --train.num_episodes 9
        "${sampling[@]}" "${task[@]}" "${method[@]}"
        --actor.gradient_checkpointing_enable --train.seed 42
        --actor.num_nodes "$NODES" --actor.num_gpus_per_node "$DEVICES" --ref.num_nodes "$NODES" --ref.num_gpus_per_node "$DEVICES"
        --vllm.num_engines $((NODES * DEVICES)) --train.colocate_all
        --ckpt.output_dir "$OUTPUT/model" --ckpt.path "$OUTPUT/checkpoints" --ckpt.save_steps 50 --spo.run_dir "$OUTPUT"
        --spo.resume auto
    )
    if [ "$PRESET" = recommended ]; then options+=("${recommended[@]}"); fi
    if [ "${SMOKE:-0}" = 1 ]; then options+=("${smoke_options[@]}" "${smoke[@]}"); fi
    exec "$PYTHON" -W ignore -m spo_rlhf.cli.train "${options[@]}" "$@"
}
