#!/usr/bin/env bash
# Makes .venv in the checkout and installs the pinned CPU stack and this project into it. Does nothing when that is done already.
#
#   bash requirements/install_cpu.sh            install, or return at once
#   bash requirements/install_cpu.sh --dry-run  say what would be done
#
# Needs Python 3.11 and pip's usual access to packages. The interpreter can be named with PYTHON=/path/to/python3.11; VENV is another
# folder than .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source requirements/build.sh
VENV=${VENV:-.venv}
venv=$root/$VENV lock=$root/requirements/cpu.lock done_mark=$root/$VENV/.spo_rlhf_installed

fail() { echo "install_cpu.sh: error: $*" >&2; exit 2; }

[ $# -eq 0 ] || [ "$*" = --dry-run ] || fail "unknown argument: $*; see the head of this file"
if has_build "$VENV" && [ "$(build_in "$VENV")" != cpu ]; then
    fail "$VENV has the GPU build, and one folder has one build: VENV=.venv-cpu bash requirements/install_cpu.sh"
fi
wanted=$(cat "$lock" "$root/setup.cfg" | sha256sum | cut -d' ' -f1)
if [ -f "$done_mark" ] && [ "$(cat "$done_mark")" = "$wanted" ]; then
    exit 0
fi
if [ "${1:-}" = --dry-run ]; then
    echo "would make $venv and install $(grep -c '==' "$lock") pinned packages from requirements/cpu.lock"
    exit 0
fi
python=${PYTHON:-$(command -v python3.11 || true)}
[ -n "$python" ] || fail "Python 3.11 is not on the PATH: install it, or name it with PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$python is not Python 3.11"

start=$SECONDS
echo "installing the CPU stack into $VENV ($(grep -c '==' "$lock") packages, some minutes the first time) ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo cpu >"$venv/$BUILD_MARK"
log=$venv/install.log
pip() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "$@" >>"$log" 2>&1; }
# torch with its dependencies: where pip finds no CPU build it takes the one with CUDA, which needs its libraries to load.
# Everything else without: plain requirements could not express that OpenRLHF's GPU-only dependencies (flash-attn,
# bitsandbytes) are left out and vllm is its CPU build. DeepSpeed is built from source (pure Python here, a few seconds).
pip "$(grep '^torch==' "$lock")" \
    && DS_BUILD_OPS=0 pip --no-deps -r "$lock" \
    && pip --no-deps --no-build-isolation -e "$root" \
    || { tail -n 5 "$log" >&2; fail "installation failed, see $VENV/install.log"; }
# Every worker of a run imports the same thousands of modules; without byte code, which Python does not write where
# PYTHONDONTWRITEBYTECODE is set, each start of a run takes a minute or two longer. Some files are templates, no Python.
"$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >>"$log" 2>&1 || true
echo "$wanted" >"$done_mark"
echo "installed in $((SECONDS - start)) s"
