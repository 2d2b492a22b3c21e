#!/usr/bin/env bash
# train.sh ppo math: recipes/ppo.sh on tasks/math.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" ppo math "$@"
