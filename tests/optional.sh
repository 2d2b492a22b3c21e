#!/usr/bin/env bash
# The tests that need packages of others which the project does not: Inspect's own reader opens what `spo-eval export` writes, and
# reasoning-gym's generators and scorers are a task. They go into .optional/; .venv stays as it is.
#
#   bash tests/optional.sh             a minute or two; SPO_SLOW=1: two training steps on a task of the gym as well
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
    "") ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' tests/optional.sh; exit 0 ;;
    *) echo "tests/optional.sh: error: takes no arguments; SPO_SLOW=1 adds a training" >&2; exit 2 ;;
esac
source requirements/build.sh
choose_build
bash "requirements/install_$BUILD.sh"
# Only what .venv has not: no pinned package is overshadowed.
"$VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps --upgrade --target .optional -r requirements/optional.txt
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=$PWD:$PWD/.optional
exec "$VENV/bin/python" -m pytest -rs tests/evaluation/test_export.py tests/tasks/test_gym_tasks.py tests/e2e/test_gym.py
