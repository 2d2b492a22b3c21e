#!/usr/bin/env bash
# train.sh spo_chain_segment_ratio gsm8k: recipes/spo_chain_segment_ratio.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" spo_chain_segment_ratio gsm8k "$@"
