#!/usr/bin/env bash
# train.sh rloo gsm8k: recipes/rloo.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" rloo gsm8k "$@"
