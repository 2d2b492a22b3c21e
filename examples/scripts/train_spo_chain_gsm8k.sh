#!/usr/bin/env bash
# SPO-chain on GSM8K with Rho-1.1B and the hyper-parameters of the official runs (cutpoint interval 5, 9 rollouts, 64 x 8 responses).
#
#   bash examples/scripts/train_spo_chain_gsm8k.sh [--dry-run] [more spo-train options, which win over those below]
#
# Variables: MODEL, DATA and EVAL_DATA (a Hugging Face name, name@folder, or a .jsonl file), DEVICES, OUTPUT.
# SMOKE=1 runs 2 steps on the CPU with the quickstart's kind of model; DATA must then be a local file of real GSM8K.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

MODEL=${MODEL:-realtreetune/rho-1b-sft-GSM8K}
DATA=${DATA:-openai/gsm8k@main}
EVAL_DATA=${EVAL_DATA:-$DATA}
DEVICES=${DEVICES:-1}
OUTPUT=${OUTPUT:-runs/spo_chain_gsm8k}
# The columns of the data set on the hub; a local file has "problem" and "answer".
case $DATA in
    *.jsonl) INPUT_KEY=${INPUT_KEY:-problem} EVAL_SPLIT=train ;;
    *) INPUT_KEY=${INPUT_KEY:-question} EVAL_SPLIT=test ;;
esac
# The prompt of the supervised model; <s> is its beginning-of-text token, which it was trained with.
TEMPLATE=${TEMPLATE:-$'<s>[MATH_TASK] Problem:\n{}\n\nSolution:'}

PYTHON=python
if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi

options=(
    --actor.model_name_or_path "$MODEL"
    --data.prompt_dataset "$DATA" --data.input_key "$INPUT_KEY" --data.label_key answer --data.input_template "$TEMPLATE"
    --reward.remote_url spo_rlhf/tasks/math_reward.py
    --eval.dataset "$EVAL_DATA" --eval.split "$EVAL_SPLIT" --eval.temperature 0.35 --eval.n_samples_per_prompt 16 --eval.steps 10
    # segments: a boundary every 5 cutpoints (tokens with probability below 0.9), 9 continuations at each
    --spo.mode chain --spo.partition cutpoint --spo.cutpoint_interval 5 --spo.prob_threshold 0.9 --spo.mc_rollouts 9
    --spo.prob_mask --spo.kl_scope masked --spo.advantage_norm batch
    # an iteration: 64 prompts x 8 responses, 2 epochs over them in batches of 64 (16 optimizer steps); about 1000 iterations
    --rollout.batch_size 64 --rollout.n_samples_per_prompt 8 --rollout.micro_batch_size 8
    --train.batch_size 64 --train.micro_batch_size 8 --train.max_epochs 2 --train.num_episodes 9
    --rollout.temperature 0.6 --rollout.top_p 0.9 --rollout.max_new_tokens 1024 --data.max_len 2047
    --actor.adam.lr 1e-6 --actor.adam.betas 0.9 0.999 --actor.lr_scheduler linear --actor.lr_warmup_ratio 0.03 --actor.max_norm 1.0
    --actor.eps_clip 0.2 --algo.kl.init_coef 1e-4 --algo.kl.use_loss --algo.kl.estimator k3
    --actor.gradient_checkpointing_enable --train.seed 42
    --actor.num_gpus_per_node "$DEVICES" --ref.num_gpus_per_node "$DEVICES" --vllm.num_engines "$DEVICES" --train.colocate_all
    --vllm.gpu_memory_utilization 0.4 --vllm.enable_sleep --ds.enable_sleep
    --ckpt.output_dir "$OUTPUT/model" --ckpt.path "$OUTPUT/checkpoints" --ckpt.save_steps 50 --spo.run_dir "$OUTPUT"
)

if [ "${SMOKE:-0}" = 1 ]; then
    case $DATA in *.jsonl) ;; *) echo "SMOKE=1 needs DATA=gsm8k_train.jsonl, a local file" >&2; exit 2 ;; esac
    $PYTHON -W ignore -m spo_rlhf.cli.prepare --output "$OUTPUT/task" --train 64 --test 8 --warm-up-steps "${SMOKE_WARM_UP_STEPS:-20}"
    options+=(
        --actor.model_name_or_path "$OUTPUT/task/model" --data.input_template $'Question: {}\nAnswer:\n'
        --data.max_samples 8 --rollout.batch_size 4 --rollout.n_samples_per_prompt 4 --rollout.micro_batch_size 4
        --train.batch_size 8 --train.micro_batch_size 4 --train.num_episodes 1 --spo.mc_rollouts 2
        --rollout.max_new_tokens 32 --eval.n_samples_per_prompt 1 --ckpt.save_steps -1
    )
fi
exec $PYTHON -W ignore -m spo_rlhf.cli.train "${options[@]}" "$@"
