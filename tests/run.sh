#!/usr/bin/env bash
# The whole test suite, from a bare checkout: makes .venv if needed. Arguments go to pytest:
#
#   bash tests/run.sh                  everything, the real stack included
#   bash tests/run.sh -m "not e2e"     the fast part
#   SPO_SLOW=1 bash tests/run.sh       every script, two-node SLURM trainings and more as well, half an hour on top
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash requirements/install_cpu.sh
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec .venv/bin/python -m pytest "$@"
