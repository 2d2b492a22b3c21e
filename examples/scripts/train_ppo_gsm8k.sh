#!/usr/bin/env bash
# train.sh ppo gsm8k: recipes/ppo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" ppo gsm8k "$@"
