#!/usr/bin/env bash
# The whole test suite, from a bare checkout: makes .venv if needed. Arguments go to pytest:
#
#   bash tests/run.sh                  everything, the real stack included
#   bash tests/run.sh -m "not e2e"     the fast part
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash requirements/install_cpu.sh
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec .venv/bin/python -m pytest "$@"
