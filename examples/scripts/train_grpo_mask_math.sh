#!/usr/bin/env bash
# train.sh grpo_mask math: recipes/grpo_mask.sh on tasks/math.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" grpo_mask math "$@"
