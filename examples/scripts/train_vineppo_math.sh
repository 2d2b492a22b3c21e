#!/usr/bin/env bash
# train.sh vineppo math: recipes/vineppo.sh on tasks/math.sh. Usage: bash examples/scripts/train.sh --help
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" vineppo math "$@"
