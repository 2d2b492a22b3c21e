#!/usr/bin/env bash
# train.sh gspo gsm8k: recipes/gspo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" gspo gsm8k "$@"
