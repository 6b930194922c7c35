#!/usr/bin/env bash
# Trains on an existing Cloud TPU VM, one host or a pod, with gcloud:
#
#     bash launch/tpu_vm.sh --name TPU --zone ZONE [--project PROJECT] [--dry-run] VERB
#
#     train EXPERIMENT.py --workdir RUN [--any.field value ...]   copies the checkout to every host and starts there
#     status    says of every host whether it trains, with the end of its log
#     stop      tells training to save and end, and waits until it has
#
# Training goes on when the connection ends; its log is ~/transformer_jax.log on the first host. Started again, it goes
# on from where it was, also on a new TPU after a preemption if RUN has outlived the old one. All hosts of a pod must
# see RUN: NFS (Filestore) or a bucket, mounted on every host. Files that git does not know are not copied.
# A TPU is made and removed by, for example:
#
#     gcloud compute tpus tpu-vm create TPU --zone=ZONE --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#     gcloud compute tpus tpu-vm delete TPU --zone=ZONE
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
offer_help "$@"

# What runs on the hosts, in the home directory. Training holds the lock, also through the processes that it starts.

start_here() {
    exec 9>>transformer_jax.lock
    flock --nonblock 9 || { echo "error: $(hostname) is training already; stop that first" >&2 && return 2; }
    rm -rf transformer_jax/transformer_jax && mkdir -p transformer_jax &&
        tar -xzf transformer_jax.tar.gz -C transformer_jax && cd transformer_jax || return
    # Google's images come with Python 3.10.
    INSTALL_PYTHON=yes setsid bash -c 'bash launch/local.sh "$@" & echo "$!" >../transformer_jax.pid
        wait "$!"; echo "ended with exit status $?"' train "$@" >>../transformer_jax.log 2>&1 </dev/null &
    echo "$(hostname): started"
}

status_here() {
    local state=training
    ! flock --nonblock transformer_jax.lock true || state="not training"
    echo "$(hostname): $state" && tail -n 5 transformer_jax.log 2>/dev/null || true
}

stop_here() {
    if ! flock --nonblock transformer_jax.lock true; then
        kill -TERM "$(cat transformer_jax.pid)"
        flock --timeout 600 transformer_jax.lock true ||
            { echo "error: $(hostname) has not stopped after ten minutes; try again" >&2 && return 1; }
    fi
    status_here
}

show() { # with line breaks left as they are, unlike printf %q
    local word quote="'" escaped="'\\''"
    for word; do
        word=${word//$quote/"$escaped"}
        printf "'%s' " "$word"
    done
    echo
}

run() {
    if [[ "$DRY_RUN" ]]; then
        show "$@"
    else
        "$@"
    fi
}

tpu_vm() { # VERB ARGUMENT ...
    run gcloud compute tpus tpu-vm "$@" --worker=all --zone="$zone" ${project:+"--project=$project"}
}

on_hosts() { # FUNCTION ARGUMENT ...
    tpu_vm ssh "$name" --command="$(declare -f start_here status_here stop_here); $(printf '%q ' "$@")"
}

copy_checkout() {
    local commit archive="${TMPDIR:-/tmp}/transformer_jax-$name.tar.gz"
    commit="$(git -C "$ROOT" stash create)" || fail "no git repository in $ROOT: clone it"
    # Without changes there is nothing to stash.
    run git -C "$ROOT" archive --format=tar.gz --output="$archive" "${commit:-HEAD}"
    tpu_vm scp "$archive" "$name:transformer_jax.tar.gz"
    run rm "$archive"
}

name="" zone="" project=""
while [[ "${1:-}" == -* ]]; do
    case "$1" in
    --name) name="${2:-}" ;;
    --zone) zone="${2:-}" ;;
    --project) project="${2:-}" ;;
    *) fail "unknown option $1: there are --name, --zone and --project, before train, status or stop" ;;
    esac
    shift 2 || fail "$1 needs a value"
done
[[ "$name" && "$zone" ]] || fail "say which TPU: --name TPU --zone ZONE"
need gcloud "install the Google Cloud CLI: https://cloud.google.com/sdk"

verb="${1:-}"
case "$verb" in
train)
    shift
    experiment="${1:-}"
    experiment="${experiment#"$ROOT/"}"
    [[ "$experiment" == *.py ]] || fail "name an experiment file after train, such as experiments/quickstart.py"
    [[ "$(git -C "$ROOT" ls-files -- "$experiment")" ]] ||
        fail "git does not know $experiment in $ROOT: name a file of the checkout, and if it is new, git add it"
    [[ " $* " == *" --workdir"[\ =]* ]] || fail "say where to keep the run, for all hosts to see: --workdir RUN"
    copy_checkout
    on_hosts start_here "$experiment" "${@:2}"
    ;;
status | stop) on_hosts "${verb}_here" ;;
*) fail "say what to do after the options: train EXPERIMENT.py --workdir RUN, status or stop" ;;
esac
