#!/usr/bin/env bash
# train.sh dpo gsm8k: recipes/dpo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" dpo gsm8k "$@"
