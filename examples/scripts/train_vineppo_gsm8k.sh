#!/usr/bin/env bash
# train.sh vineppo gsm8k: recipes/vineppo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" vineppo gsm8k "$@"
