# What all GSM8K scripts share; sourced by them, not run. The official runs' model, prompt, sampling, KL and optimizer.
EVAL_DATA=${EVAL_DATA:-$DATA}
# The columns of the data set on the hub; a local file has "problem" and "answer".
case $DATA in
    *.jsonl) INPUT_KEY=${INPUT_KEY:-problem} EVAL_SPLIT=train ;;
    *) INPUT_KEY=${INPUT_KEY:-question} EVAL_SPLIT=test ;;
esac
LABEL_KEY=${LABEL_KEY:-answer}
REWARD=${REWARD:-spo_rlhf/tasks/math_reward.py}
# The prompt of the supervised model; <s> is its beginning-of-text token, which it was trained with.
TEMPLATE=${TEMPLATE:-$'<s>[MATH_TASK] Problem:\n{}\n\nSolution:'}

task=(
    --eval.dataset "$EVAL_DATA" --eval.split "$EVAL_SPLIT" --eval.temperature 0.35 --eval.n_samples_per_prompt 16 --eval.steps 10
    --rollout.temperature 0.6 --rollout.top_p 0.9 --rollout.max_new_tokens 1024 --data.max_len 2047
    --actor.adam.lr 1e-6 --actor.adam.betas 0.9 0.999 --actor.lr_scheduler linear --actor.lr_warmup_ratio 0.03 --actor.max_norm 1.0
    --actor.eps_clip 0.2 --algo.kl.init_coef 1e-4 --algo.kl.use_loss --algo.kl.estimator k3
)
