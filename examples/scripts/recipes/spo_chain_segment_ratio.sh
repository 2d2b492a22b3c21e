# SPO-chain with one importance ratio per segment (docs/ratio-levels.md)
source examples/scripts/recipes/spo_chain.sh
# the 5 masked tokens of a segment share their ratio, so it strays less than that of one token
method+=(--spo.ratio_level segment --spo.clip_low 0.1 --spo.clip_high 0.1)
