# What all MATH scripts share; sourced by them, not run. The official long-reasoning runs: DeepSeek-R1-Distill-Qwen-1.5B at 2K.
# A second stage at 4K starts from the first one's model: MODEL=... MAX_LEN=4096.
MAX_LEN=${MAX_LEN:-2048}
# On the hub the answer stands in the last \boxed{} of the solution; a local file has "problem" and "answer".
case $DATA in
    *.jsonl) LABEL_KEY=${LABEL_KEY:-answer} EVAL_DATA=${EVAL_DATA:-$DATA} EVAL_SPLIT=train ;;
    *) LABEL_KEY=${LABEL_KEY:-solution} EVAL_DATA=${EVAL_DATA:-HuggingFaceH4/MATH-500} EVAL_SPLIT=test ;;
esac
INPUT_KEY=${INPUT_KEY:-problem}
REWARD=${REWARD:-spo_rlhf/tasks/math_reward.py}
TEMPLATE=${TEMPLATE:-"<｜begin▁of▁sentence｜><｜User｜>Solve the following math problem efficiently and clearly.  The last line of your response \
should be of the following format: 'Therefore, the final answer is: \$\\boxed{{ANSWER}}\$. I hope it is correct' (without quotes) where ANSWER \
is just the final number or expression that solves the problem. Think step by step before answering.

{}<｜Assistant｜><think>
"}

task=(
    --eval.dataset "$EVAL_DATA" --eval.split "$EVAL_SPLIT" --eval.temperature 0.6 --eval.n_samples_per_prompt 1 --eval.steps 10
    --rollout.temperature 0.6 --rollout.top_p 1.0 --data.max_len "$MAX_LEN"
    --actor.adam.lr 1e-6 --actor.adam.betas 0.9 0.999 --actor.lr_scheduler linear --actor.lr_warmup_ratio 0.03 --actor.max_norm 1.0
    --actor.eps_clip 0.2 --algo.kl.init_coef 1e-4 --algo.kl.use_loss --algo.kl.estimator k3
)
