#!/usr/bin/env bash
# train.sh grpo_mask gsm8k: recipes/grpo_mask.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" grpo_mask gsm8k "$@"
