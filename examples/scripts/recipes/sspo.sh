# SSPO: GRPO's advantages, a ratio per subsentence, clip bounds that follow the entropy
# Which of its constants are published and which were chosen here: docs/ratio-levels.md.
source examples/scripts/recipes/grpo.sh
method+=(--spo.ratio_level subsentence --spo.clip_low 0.05 --spo.clip_high 0.05 --spo.entropy_clip 0.5)
recommended=()
