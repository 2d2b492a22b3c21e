# RestEM: sample, train the initial model on right responses, sample from the result, and so on
# It ends where the reward on held-out training problems falls, or after ITERATIONS rounds.
source examples/scripts/lib/offline.sh
held_out_from=7000
if [ "$TASK" = gsm8k ]; then held_out_from=7100; fi
TRAIN_ROWS=${TRAIN_ROWS:-:$held_out_from} VALIDATION_ROWS=${VALIDATION_ROWS:-$held_out_from:}
# 8 epochs over at most 10 right responses to a problem; the loss is the mean of each response's mean
method=(--train.max_epochs 8 --train.micro_batch_size 8 --spo.sequence_mean)
if [ "${SMOKE:-0}" = 1 ]; then
    TRAIN_ROWS=:48 VALIDATION_ROWS=48:
    method+=(--train.max_epochs 1 --train.batch_size 8 --train.micro_batch_size 4 --data.max_samples 16)
    ITERATIONS=${ITERATIONS:-2}
fi
ITERATIONS=${ITERATIONS:-10}

train_offline() {
    local current=$MODEL best='' reward highest=-1 round
    for ((round = 1; round <= ITERATIONS; round++)); do
        local output=$OUTPUT/round_$round
        sample "$current" "$output/samples" "$DATA" train --rows "$TRAIN_ROWS" --samples 8 --select correct --per-prompt 10
        fit sft "$output" --data.dataset "$output/samples/correct.jsonl" --data.input_key prompt --data.output_key response "${method[@]}"
        if [ ${#dry_run[@]} -gt 0 ]; then
            echo "and so on, $ITERATIONS rounds at most"
            return
        fi
        current=$output/model
        sample "$current" "$output/validation" "$DATA" train --rows "$VALIDATION_ROWS" --samples 1 --temperature 0
        reward=$(reward_of "$output/validation")
        echo "round $round: reward $reward on held-out training problems"
        if ! awk -v new="$reward" -v old="$highest" 'BEGIN { exit !(new > old) }'; then break; fi
        highest=$reward best=$current
    done
    ln -sfn "$(realpath "$best")" "$OUTPUT/model"
    evaluate "$OUTPUT/model"
}
