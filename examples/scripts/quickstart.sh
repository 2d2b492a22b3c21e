#!/usr/bin/env bash
# From a bare checkout to a trained model: installs into .venv, makes a small arithmetic task and a small model, trains it with
# SPO-chain on Ray + vLLM + DeepSpeed (no GPU needed), prints held-out accuracy before and after. About 15 minutes on 2 cores.
#
#   bash examples/scripts/quickstart.sh [--force] [--dry-run] [--output DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ "${1:-}" = --dry-run ] && [ ! -x .venv/bin/python ]; then
    exec bash requirements/install_cpu.sh --dry-run
fi
bash requirements/install_cpu.sh
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
exec .venv/bin/python -W ignore -m spo_rlhf.cli.quickstart "$@"
