# DPO-positive: 64 responses to a problem, right ones beside wrong ones, one round of preference training
source examples/scripts/lib/offline.sh

train_offline() {
    local responses=64 beta=0.1
    if [ "$TASK" = gsm8k ]; then beta=0.3; fi
    # --spo.dpo_positive is DPO-positive's lambda; OpenRLHF's own DPO has none (0 is plain DPO)
    method=(--model.beta "$beta" --spo.dpo_positive 50 --train.max_epochs 3 --train.micro_batch_size 4)
    if [ "${SMOKE:-0}" = 1 ]; then
        responses=8
        method+=(--train.max_epochs 1 --train.batch_size 8 --data.max_samples 16)
    fi
    sample "$MODEL" "$OUTPUT/samples" "$DATA" train --samples "$responses" --select pairs --per-prompt 64
    fit dpo "$OUTPUT" --data.dataset "$OUTPUT/samples/pairs.jsonl" --data.prompt_key prompt "${method[@]}"
    if [ ${#dry_run[@]} -gt 0 ]; then return; fi
    evaluate "$OUTPUT/model"
}
