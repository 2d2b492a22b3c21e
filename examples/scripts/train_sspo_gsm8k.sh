#!/usr/bin/env bash
# train.sh sspo gsm8k: recipes/sspo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" sspo gsm8k "$@"
