# GSPO: GRPO's advantages, one ratio per response, with the clip bounds of the GSPO paper
source examples/scripts/recipes/grpo.sh
# the mean over responses of their token means, as in the paper and in --actor.policy_loss_type gspo
method+=(--spo.ratio_level sequence --spo.clip_low 3e-4 --spo.clip_high 4e-4 --actor.loss_agg_mode seq-mean-token-mean)
recommended=()
