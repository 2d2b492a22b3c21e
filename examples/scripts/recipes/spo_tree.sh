# SPO-tree: 6-6-6 trees, 600 tokens a segment (gsm8k: 30), nodes may wait 8 iterations
method=(--spo.mode tree)
case $TASK in
    # 16 trees an iteration, at most 16 x 64 nodes trained once in batches of 128 (8 optimizer steps); about 1000 iterations
    gsm8k) method+=(--spo.tree_segment_tokens 30 --rollout.batch_size 16 --rollout.n_samples_per_prompt 64 --train.num_episodes 3) ;;
    # 32 trees an iteration, at most 32 x 16 nodes trained once in batches of 128 (4 optimizer steps); about 1000 iterations
    *) method+=(--train.num_episodes 5) ;;
esac
if [ -n "${SEGMENT_TOKENS:-}" ]; then method+=(--spo.tree_segment_tokens "$SEGMENT_TOKENS"); fi
# Where no response is right, no node has an advantage: the reward of the smoke run is a coin, and sampling is as random as a
# model that knows next to nothing needs to end a response at all.
smoke=(
    --spo.tree_branching 3,3,2 --spo.tree_segment_tokens 8 --reward.remote_url examples/scripts/lib/coin_reward.py
    --rollout.temperature 1 --rollout.top_p 1 --rollout.max_new_tokens 96
)
