#!/usr/bin/env bash
# train.sh restem gsm8k: recipes/restem.sh on tasks/gsm8k.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" restem gsm8k "$@"
