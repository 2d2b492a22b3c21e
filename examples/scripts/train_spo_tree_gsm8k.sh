#!/usr/bin/env bash
# train.sh spo_tree gsm8k: recipes/spo_tree.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" spo_tree gsm8k "$@"
