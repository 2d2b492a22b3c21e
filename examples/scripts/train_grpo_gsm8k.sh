#!/usr/bin/env bash
# train.sh grpo gsm8k: recipes/grpo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" grpo gsm8k "$@"
