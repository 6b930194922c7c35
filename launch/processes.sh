# Sourced by the launchers. `supervise COMMAND ...` runs a command until it ends for good:
#
#   PROCESSES   how many processes of it train together on this machine (default 1); they find each other by themselves
#   RESTARTS    how often all of it is started again after a crash (default 0)
#
# It returns the status of the command. Status 0 (finished), 2 (a mistake), 130 and 143 (stopped and saved) are final;
# whatever else ends one process is a crash, of which the others hear within train.lost_process_timeout seconds. Status 1
# may be a run that cannot go on or a process that lost another: that is what RESTARTS limits.

free_port() {
    # Above the ports that Linux gives to connections by default, so that none takes it meanwhile.
    local port
    while port=$((61000 + RANDOM % 4000)); (echo >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# run_once COMMAND ...: the worst status of all processes. Worst is a mistake, since the other processes, which miss the
# one that made it, end as after a crash; then comes a crash, then an end that is final.
run_once() {
    local children=() child status worst=0 i count="${PROCESSES:-1}" address
    address="127.0.0.1:$(free_port)"
    for ((i = 0; i < count; i++)); do
        # Training saves and stops when it is told to. It would not be told of a SIGTERM to this script if it ran in the
        # foreground; in the background it would not hear Ctrl-C, if the subshell did not restore that.
        (
            trap - INT
            ((count == 1)) ||
                export JAX_COORDINATOR_ADDRESS="$address" JAX_NUM_PROCESSES="$count" JAX_PROCESS_ID="$i"
            exec "$@"
        ) &
        children+=($!)
    done
    trap 'told=143; kill -TERM "${children[@]}" 2>/dev/null' TERM
    trap 'told=130' INT
    for child in "${children[@]}"; do
        while kill -0 "$child" 2>/dev/null; do # a signal ends the waiting, not the training
            wait "$child" || true
        done
        wait "$child" && status=0 || status=$?
        if ((status == 2)) || { ((status && worst != 2)) && is_final "$worst"; }; then
            worst="$status"
        fi
    done
    trap - INT TERM
    return "$worst"
}

is_final() {
    [[ " 0 2 130 143 " == *" $1 "* ]]
}

supervise() {
    local status told="" left="${RESTARTS:-0}"
    if [[ ! "${PROCESSES:-1}" =~ ^[1-9][0-9]{0,3}$ || ! "$left" =~ ^[0-9]{1,6}$ ]]; then
        echo "error: PROCESSES is a number from 1 on and RESTARTS from 0 on, not '${PROCESSES:-}' and '$left'" >&2
        return 2
    fi
    while true; do
        run_once "$@" && status=0 || status=$?
        if [[ "$told" ]] && ! is_final "$status"; then
            status="$told" # the others end like that when one has stopped before them
        fi
        if is_final "$status" || ((left-- <= 0)); then
            return "$status"
        fi
        echo "ended with status $status; starting again from the newest checkpoint" >&2
    done
}
