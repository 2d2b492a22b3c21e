#!/usr/bin/env bash
# The tests that need a GPU, on the machine that has one; figures go to runs/gpu/*.json:
#
#   bash tests/gpu/run.sh                 all of them, about 15 minutes on one H100
#   bash tests/gpu/run.sh -k engine       those that pytest's -k names; any argument is pytest's
#
# PYTHON names the interpreter with the GPU build (default: that of requirements/build.sh, else python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case ${1:-} in -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' tests/gpu/run.sh; exit 0 ;; esac
fail() { echo "tests/gpu/run.sh: error: $*" >&2; exit 2; }
command -v nvidia-smi >/dev/null || fail "no nvidia-smi on the PATH: these tests need a GPU"
source requirements/build.sh
choose_build
python=${PYTHON:-$VENV/bin/python}
[ -x "$python" ] || python=$(command -v python3)
# Else all of them would be skipped, and the run a success.
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
    || fail "torch of $python sees no GPU: bash requirements/install_gpu.sh, or name another Python with PYTHON"
export SPO_GPU_RESULTS=${SPO_GPU_RESULTS:-runs/gpu} PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
exec "$python" -m pytest -p no:cacheprovider -v -rs --durations=0 tests/gpu "$@"
