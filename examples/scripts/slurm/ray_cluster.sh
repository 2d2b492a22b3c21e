# shellcheck shell=bash
# Sourced by the job scripts of this folder, inside a SLURM allocation: Ray on all its nodes around one command.
#
#   run_on_ray COMMAND...        start Ray, run COMMAND with RAY_ADDRESS set, end Ray on every node; COMMAND's exit status
#   train_on_ray METHOD TASK [OPTIONS]   the same for train.sh METHOD TASK, over all GPUs of the allocation
#
# SIGTERM (scancel --batch --signal=TERM) and SIGUSR1 (SLURM's warning before the time limit) end COMMAND by SIGTERM and then
# the job. After SIGUSR1 the job is requeued where COMMAND ends with status 75: it has saved and would go on. Variables:
#   RAY_INTERFACE     network interface of the nodes, such as ib0 (default: the one of the default route)
#   RAY_START_LIMIT   seconds until the cluster must be complete
#   END_LIMIT         seconds that COMMAND is given to end; more than twice --spo.grace
#   NODE_TMP          local folder on each node, a short path (Ray's sockets lie below it)
#   RAY_AUTH_MODE     token (default): only who has the job's secret gets into its Ray; disabled
#   RAY_AUTH_TOKEN    that secret, or RAY_AUTH_TOKEN_PATH, a file with it (default: a new one for each job)
set -euo pipefail

RAY_START_LIMIT=${RAY_START_LIMIT:-300}
END_LIMIT=${END_LIMIT:-180}
NODE_TMP=${NODE_TMP:-/tmp}
PREEMPTED=75  # the status of a command that has saved and would go on
# GPUs of each node; without any, the nodes have logical ones (SMOKE=1).
GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-1}
NODES=${SLURM_JOB_NUM_NODES:?this script runs inside a SLURM job: submit it with sbatch}

PYTHON=python
source requirements/build.sh
choose_build
if [ -x "$VENV/bin/python" ]; then PYTHON=$VENV/bin/python; fi

ray_steps=() command_pid='' stopped_by=''

node_dir() { echo "$NODE_TMP/spo-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}-$1"; }

# start_node INDEX NAME [OPTION...]: one Ray node as a job step, in the background.
start_node() {
    local index=$1 name=$2
    shift 2
    # All that the job has of the node, beside its other steps. srun does not take --cpus-per-task over from the job.
    srun --nodes=1 --ntasks=1 --nodelist="$name" --overlap --cpu-bind=none \
        ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        "$PYTHON" -W ignore -m spo_rlhf.cli.ray_node start --temp-dir "$(node_dir "$index")" --gpus "$GPUS_PER_NODE" \
        --name "$name" ${RAY_INTERFACE:+--interface "$RAY_INTERFACE"} "$@" &
    ray_steps+=($!)
}

any_step_ended() {
    local step
    for step in "${ray_steps[@]}"; do
        kill -0 "$step" 2>/dev/null || return 0
    done
    return 1
}

fail() { echo "ray_cluster.sh: error: $*" >&2; exit 1; }

# wait_for PID: its exit status. A trap ends `wait` early with the signal's status; then the process has END_LIMIT seconds left.
wait_for() {
    local status=0
    wait "$1" || status=$?
    if [ -n "$stopped_by" ]; then
        gone_within "$END_LIMIT" "$1" || kill -KILL -- "-$1" 2>/dev/null || true
        status=0
        wait "$1" || status=$?
    fi
    return "$status"
}

# A first signal ends the command or, before there is one, the job. More of them change nothing.
on_signal() {
    [ -z "$stopped_by" ] || return 0
    stopped_by=$1
    echo "ray_cluster.sh: SIG$1: ending the job" >&2
    [ -n "$command_pid" ] || exit $((128 + $(kill -l "$1")))
    kill -TERM -- "-$command_pid" 2>/dev/null || true
}

# gone_within SECONDS PID...: whether all the processes (-PID: groups) have ended by then.
gone_within() {
    local deadline=$((SECONDS + $1)) process
    shift
    for process in "$@"; do
        while kill -0 -- "$process" 2>/dev/null; do
            [ "$SECONDS" -lt "$deadline" ] || return 1
            sleep 0.5
        done
    done
}

clean_up() {
    local status=$?
    trap '' TERM USR1 INT
    trap - EXIT
    if [ -n "$command_pid" ] && kill -TERM -- "-$command_pid" 2>/dev/null; then
        gone_within "$END_LIMIT" "-$command_pid" || kill -KILL -- "-$command_pid" 2>/dev/null || true
    fi
    if [ "${#ray_steps[@]}" -gt 0 ]; then
        # srun passes SIGUSR2 on; on SIGTERM it would kill the node's processes before they have cleaned up.
        kill -USR2 "${ray_steps[@]}" 2>/dev/null || true
        gone_within 30 "${ray_steps[@]}" || kill -TERM "${ray_steps[@]}" 2>/dev/null || true
    fi
    if [ "$stopped_by" = USR1 ] && [ "$status" -eq "$PREEMPTED" ]; then
        echo "ray_cluster.sh: job $SLURM_JOB_ID is requeued" >&2
        scontrol requeue "$SLURM_JOB_ID" || echo "ray_cluster.sh: it was not: submit it again, with the same OUTPUT" >&2
    fi
    exit "$status"
}

# Steps of the job and what they start have the secret from their environment, which other users cannot read.
settle_token() {
    export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
    [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] || return 0
    RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
    export RAY_AUTH_TOKEN
}

start_cluster() {
    settle_token
    local names name index address_file waiter
    mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    trap clean_up EXIT
    trap 'on_signal TERM' TERM
    trap 'on_signal USR1' USR1

    # This script runs on the first node of the allocation, so it can read what the head writes there.
    address_file=$(node_dir 0)/address
    start_node 0 "${names[0]}"
    until [ -s "$address_file" ]; do
        [ "$SECONDS" -lt "$RAY_START_LIMIT" ] || fail "Ray's head on ${names[0]} takes more than $RAY_START_LIMIT s to start"
        ! any_step_ended || fail "Ray's head on ${names[0]} did not start"
        sleep 0.5
    done
    RAY_ADDRESS=$(<"$address_file")
    export RAY_ADDRESS

    for ((index = 1; index < NODES; index++)); do
        name=${names[index]}
        start_node "$index" "$name" --address "$RAY_ADDRESS"
    done
    "$PYTHON" -W ignore -m spo_rlhf.cli.ray_node wait \
        --address "$RAY_ADDRESS" --nodes "$NODES" --limit "$RAY_START_LIMIT" &
    waiter=$!
    while kill -0 "$waiter" 2>/dev/null; do
        ! any_step_ended || fail "Ray ended on one of ${names[*]} before the cluster was complete"
        sleep 0.5
    done
    wait "$waiter" || fail "the Ray cluster is not complete"
}

run_on_ray() {
    local status=0
    start_cluster
    # A process group of its own, so that a signal reaches what the command has started as well.
    setsid "$@" &
    command_pid=$!
    wait_for "$command_pid" || status=$?
    exit "$status"
}

train_on_ray() {
    bash examples/scripts/train.sh "${1:-}" "${2:-}" --help >/dev/null  # an unknown name ends the job before Ray starts
    export NODES DEVICES=$GPUS_PER_NODE OUTPUT=${OUTPUT:-runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}
    run_on_ray bash examples/scripts/train.sh "$@"
}
