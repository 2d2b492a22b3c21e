# SPO-chain: a boundary every 5 cutpoints, 9 continuations at each (math: 4), the probability mask
method=(--spo.mode chain)
recommended=("${more_prompts[@]}")
# less Monte Carlo as well where the paper has more of it
case $TASK in
    math) method+=(--spo.mc_rollouts 4) ;;
    *) recommended+=(--spo.mc_rollouts 4) ;;
esac
smoke=(--spo.mc_rollouts 2)
