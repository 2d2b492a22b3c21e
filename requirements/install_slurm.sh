#!/usr/bin/env bash
# Installs Debian's SLURM and munge, which the tests of the SLURM scripts start on this machine. Does nothing where they are there.
set -euo pipefail

fail() { echo "install_slurm.sh: error: $*" >&2; exit 2; }

programs=(slurmctld slurmd sbatch srun scancel scontrol munged)
if command -v "${programs[@]}" >/dev/null && [ "$(command -v "${programs[@]}" | wc -l)" -eq "${#programs[@]}" ]; then exit 0; fi
[ "$(id -u)" -eq 0 ] || fail "slurm-wlm and munge are not installed, and only root can install them"
command -v apt-get >/dev/null || fail "slurm-wlm and munge are not installed, and there is no apt-get to install them"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } >"$log" 2>&1 \
    || fail "apt-get cannot install slurm-wlm and munge: $(tail -n 1 "$log")"
