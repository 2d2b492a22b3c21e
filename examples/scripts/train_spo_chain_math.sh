#!/usr/bin/env bash
# train.sh spo_chain math: recipes/spo_chain.sh on tasks/math.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" spo_chain math "$@"
