#!/usr/bin/env bash
# From a bare checkout to a trained model: installs into .venv, makes a small arithmetic task and a small model, trains it with
# SPO-chain on Ray + vLLM + DeepSpeed (no GPU needed), prints held-out accuracy before and after. About 7 minutes on 2 cores, the installation included.
# Where there is a GPU the stack is that for GPUs; SPO_DEVICE=cpu takes the other, in a folder of its own.
#
#   bash examples/scripts/quickstart.sh [--force] [--dry-run] [--output DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source requirements/build.sh
choose_build
if [ "${1:-}" = --dry-run ] && [ ! -x "$VENV/bin/python" ]; then
    exec bash "requirements/install_$BUILD.sh" --dry-run
fi
bash "requirements/install_$BUILD.sh"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
exec "$VENV/bin/python" -W ignore -m spo_rlhf.cli.quickstart "$@"
