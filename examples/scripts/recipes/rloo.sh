# RLOO: one advantage per response, against the mean of the others of its group
source examples/scripts/recipes/grpo.sh
method+=(--algo.advantage.estimator rloo)
