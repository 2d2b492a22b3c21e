# GRPO with the probability mask of SPO: only tokens with probability below 0.9 are trained
source examples/scripts/recipes/grpo.sh
method+=(--spo.prob_mask --spo.kl_scope masked)
