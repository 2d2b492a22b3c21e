#!/usr/bin/env bash
# Makes .venv in the checkout and installs the pinned GPU stack (requirements/gpu.lock, by hash) and this project into it. Does
# nothing when that is done already.
#
#   bash requirements/install_gpu.sh            install, or return at once
#   bash requirements/install_gpu.sh --dry-run  say what would be done
#
# Needs Linux on x86_64 with glibc 2.31, Python 3.12 or 3.11 (PYTHON=/path/to/python3.12 names one), and a driver for CUDA 13 where
# the machine has a GPU. 4 GB are loaded, 9 GB of disk are taken. VENV is another folder than .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source requirements/build.sh
VENV=${VENV:-.venv}
venv=$root/$VENV lock=$root/requirements/gpu.lock done_mark=$root/$VENV/.spo_rlhf_installed
LEAST_DRIVER=580 # the first for CUDA 13

fail() { echo "install_gpu.sh: error: $*" >&2; exit 2; }

[ $# -eq 0 ] || [ "$*" = --dry-run ] || fail "unknown argument: $*; see the head of this file"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "the GPU stack is built for Linux on x86_64, and this is $(uname -sm)"
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
[ "$(printf '2.31\n%s\n' "${glibc:-0}" | sort -V | head -n 1)" = 2.31 ] || fail "the GPU stack needs glibc 2.31 or later, and this is ${glibc:-another C library}"
torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$lock")
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
if [[ $driver =~ ^([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -lt $LEAST_DRIVER ]; then
    fail "the NVIDIA driver is $driver, and torch $torch with CUDA 13 needs $LEAST_DRIVER or later: update it, or use SPO_DEVICE=cpu"
fi
if has_build "$VENV" && [ "$(build_in "$VENV")" != gpu ]; then
    fail "$VENV has the CPU build, and one folder has one build: VENV=.venv-gpu bash requirements/install_gpu.sh"
fi
wanted=$(cat "$lock" "$root/setup.cfg" | sha256sum | cut -d' ' -f1)
if [ -f "$done_mark" ] && [ "$(cat "$done_mark")" = "$wanted" ]; then exit 0; fi
if [ "${1:-}" = --dry-run ]; then
    echo "would make $venv and install $(grep -c '==' "$lock") pinned packages from requirements/gpu.lock"
    exit 0
fi
python=${PYTHON:-$(command -v python3.12 || command -v python3.11 || true)}
[ -n "$python" ] || fail "neither Python 3.12 nor 3.11 is on the PATH: install one, or name it with PYTHON=/path/to/python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || fail "$python is not Python 3.11 or 3.12"

start=$SECONDS
echo "installing the GPU stack into $VENV ($(grep -c '==' "$lock") packages, 4 GB, some minutes) ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo gpu >"$venv/$BUILD_MARK"
log=$venv/install.log
pip() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "$@" >>"$log" 2>&1; }
# DeepSpeed is built from source, without its operators: those compile at the first start, for the GPU that is there.
DS_BUILD_OPS=0 pip --require-hashes -r "$lock" \
    && pip --no-build-isolation -e "$root" \
    || { tail -n 5 "$log" >&2; fail "installation failed, see $VENV/install.log"; }
"$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$log" 2>&1 || true
echo "$wanted" >"$done_mark"
echo "installed in $((SECONDS - start)) s"
[ -n "$driver" ] || echo "note: no NVIDIA driver was found here; runs need one of version $LEAST_DRIVER or later"
command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] \
    || echo "note: DeepSpeed compiles its optimizer at the first start and needs nvcc: install the CUDA 13.0 toolkit, or set CUDA_HOME"
