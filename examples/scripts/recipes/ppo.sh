# PPO with a critic of the size of the policy
# Generalised advantage estimation with gamma = lambda = 1; the critic starts from the policy's model.
method=(
    --spo.mode group --algo.advantage.estimator gae --algo.advantage.gamma 1 --algo.advantage.lambd 1 --no-spo.prob_mask
    --critic.num_gpus_per_node "$DEVICES" --critic.adam.lr 1e-6 --critic.value_clip 0.2
)
