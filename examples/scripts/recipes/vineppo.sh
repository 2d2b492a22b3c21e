# VinePPO: a segment is a line of text, 9 continuations at each, every token trained
method=(--spo.mode chain --spo.partition newline --no-spo.prob_mask)
smoke=(--spo.mc_rollouts 2)
