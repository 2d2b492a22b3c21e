#!/usr/bin/env bash
# The whole check, from a bare checkout (makes .venv if needed), what is quick first; the first stage that fails ends it. On a
# machine with a GPU it uses the stack for GPUs; SPO_DEVICE=cpu takes the other, in a folder of its own (requirements/build.sh).
#
#   bash tests/run.sh                  install, lint, format, types, fast tests, tests on the real stack
#   bash tests/run.sh --lint           lint, format, types: a minute
#   bash tests/run.sh --fast           the tests that start no engine: some minutes
#   bash tests/run.sh --e2e            the tests on the real stack (Ray, vLLM, DeepSpeed): a quarter of an hour or more
#   bash tests/run.sh ARGUMENTS        pytest alone, with these: tests/core -k tree. Its long options come after a --: -- --lf
#   SPO_SLOW=1 bash tests/run.sh       every script, two-node SLURM trainings and more as well, half an hour on top
#
# --lint, --fast and --e2e can be combined.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stages=()
while [ $# -gt 0 ]; do
    case $1 in
        --lint) stages+=(lint format types) ;;
        --fast) stages+=(fast) ;;
        --e2e) stages+=(e2e) ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' tests/run.sh; exit 0 ;;
        --) shift; break ;;
        --*) echo "tests/run.sh: error: unknown mode $1: --lint, --fast or --e2e; pytest's own long options come after a --" >&2; exit 2 ;;
        *) break ;;
    esac
    shift
done
if [ $# -gt 0 ]; then
    if [ ${#stages[@]} -gt 0 ]; then
        echo "tests/run.sh: error: --lint, --fast and --e2e take no arguments for pytest: leave them out to run what $1 names" >&2; exit 2
    fi
    stages=(pytest)
elif [ ${#stages[@]} -eq 0 ]; then
    stages=(lint format types fast e2e)
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
source requirements/build.sh
choose_build

run_stage() {
    case $1 in
        install) bash "requirements/install_$BUILD.sh" ;;
        lint) "$VENV/bin/ruff" check . ;;
        format) "$VENV/bin/ruff" format --check . ;;
        types) "$VENV/bin/basedpyright" --pythonpath "$VENV/bin/python" ;;
        fast) "$VENV/bin/python" -m pytest -m "not e2e" ;;
        e2e) "$VENV/bin/python" -m pytest -m e2e ;;
        pytest) shift; "$VENV/bin/python" -m pytest "$@" ;;
    esac
}

last=${stages[-1]}
for stage in install "${stages[@]}"; do
    start=$SECONDS
    echo "== $stage"
    run_stage "$stage" "$@" || {
        status=$?
        echo "tests/run.sh: $stage failed after $((SECONDS - start)) s" >&2
        exit $status
    }
    # Of the last stage pytest's own closing line tells the seconds, and stays the last line.
    [ "$stage" = "$last" ] || echo "== $stage: $((SECONDS - start)) s"
done
