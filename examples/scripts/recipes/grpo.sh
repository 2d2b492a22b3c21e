# GRPO: one advantage per response, normalised in its group; every token trained
method=(--spo.mode group --algo.advantage.estimator group_norm --no-spo.prob_mask --spo.advantage_norm batch)
recommended=("${more_prompts[@]}")
