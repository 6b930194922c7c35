#!/usr/bin/env bash
# Trains on a Kubernetes cluster that has JobSet, on one host or several: fills kubernetes.yaml in and applies it.
#
#     bash launch/kubernetes.sh --name RUN --image IMAGE --claim PVC [option ...] EXPERIMENT.py [--any.field value ...]
#
#     --image IMAGE         made by launch/Dockerfile; it holds experiments/, others can be on the volume
#     --claim PVC           a volume claim, mounted at /storage; ReadWriteMany, if there are several hosts
#     --hosts N             pods, one a host (default: 1)
#     --gpus N, --tpus N    NVIDIA GPUs or TPU chips of each host (default: none)
#     --select LABEL=VALUE  nodes to run on; repeated for several labels. A TPU of 16 chips on GKE: --hosts 4 --tpus 4
#                           --select cloud.google.com/gke-tpu-accelerator=tpu-v5-lite-podslice
#                           --select cloud.google.com/gke-tpu-topology=4x4
#     --max-restarts N      after crashes; preemptions do not count (default: 3)
#     --namespace NAMESPACE
#     --dry-run             prints the manifest, applies nothing
#
# The run is kept in /storage/runs/RUN, unless --workdir follows the experiment. A preempted run is started again by the
# cluster; a failed or finished one by the same command. Watch it with: kubectl logs --follow job/RUN-hosts-0
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
offer_help "$@"

join() { # ITEM ...
    local IFS=,
    echo "$*"
}

# A string of JSON, which YAML contains.
json() {
    local text="$1" backslash="\\"
    text=${text//"$backslash"/"$backslash$backslash"}
    text=${text//'"'/"$backslash\""}
    text=${text//$'\n'/"${backslash}n"}
    text=${text//$'\t'/"${backslash}t"}
    echo "\"$text\""
}

name="" image="" claim="" hosts=1 gpus=0 tpus=0 max_restarts=3 selectors=() kubectl=(kubectl)
while [[ "${1:-}" == -* ]]; do
    case "$1" in
    --name) name="${2:-}" ;;
    --image) image="${2:-}" ;;
    --claim) claim="${2:-}" ;;
    --hosts) hosts="${2:-}" ;;
    --gpus) gpus="${2:-}" ;;
    --tpus) tpus="${2:-}" ;;
    --max-restarts) max_restarts="${2:-}" ;;
    --namespace) kubectl+=("--namespace=${2:-}") ;;
    --select)
        [[ "${2:-}" == ?*=?* ]] || fail "--select needs LABEL=VALUE, not '${2:-}'"
        selectors+=("$(json "${2%%=*}"): $(json "${2#*=}")")
        ;;
    *) fail "unknown option $1; options of training follow the experiment file, the others are in ${BASH_SOURCE[0]}" ;;
    esac
    shift 2 || fail "$1 needs a value"
done
[[ "$image" && "$claim" ]] || fail "say what to run and where to keep it: --image IMAGE --claim PVC"
# The name of a pod, RUN-hosts-0-N and five characters, is a label of DNS.
[[ "$name" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--name needs up to 40 lower-case letters, digits and hyphens, a letter first, not '$name'"
for number in "$hosts" "$gpus" "$tpus" "$max_restarts"; do
    [[ "$number" =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "--hosts, --gpus, --tpus and --max-restarts need numbers, not '$number'"
done
((hosts > 0)) || fail "--hosts needs at least 1"
((gpus == 0 || tpus == 0)) || fail "a host has --gpus or --tpus, not both"
[[ "${1:-}" == *.py ]] || fail "name an experiment file after the options, such as experiments/quickstart.py"

# Kubernetes reads $(NAME) in arguments as a variable, and $$ as $.
arguments=("$(json train)") dollars='$$'
for argument in "$1" --workdir "/storage/runs/$name" "${@:2}"; do
    argument=${argument//'$'/"$dollars"}
    arguments+=("$(json "$argument")")
done
user=1000 accelerators="{}"
((gpus == 0)) || accelerators="{nvidia.com/gpu: $gpus}"
((tpus == 0)) || { accelerators="{google.com/tpu: $tpus}" && user=0; } # the devices of TPUs belong to root

manifest="$(cat "$ROOT/launch/kubernetes.yaml")"
fill() { # PLACEHOLDER VALUE
    manifest=${manifest//"\${$1}"/"$2"}
}
fill NAME "$name"
fill IMAGE "$(json "$image")"
fill CLAIM "$(json "$claim")"
fill HOSTS "$hosts"
fill MAX_RESTARTS "$max_restarts"
fill USER_ID "$user"
fill ACCELERATORS "$accelerators"
fill NODE_SELECTOR "{$(join ${selectors[@]+"${selectors[@]}"})}"
fill ARGUMENTS "[$(join "${arguments[@]}")]" # last, because it may hold anything

if [[ "$DRY_RUN" ]]; then
    echo "$manifest"
    exit
fi
need kubectl "install it: https://kubernetes.io/docs/tasks/tools"
# A JobSet is not changed and does not start again: one that has ended makes room for a new one.
state="$("${kubectl[@]}" get jobset "$name" --ignore-not-found --output=jsonpath='{.kind} {.status.terminalState}')" ||
    fail "kubectl could not say whether there is a run $name; its message is above"
case "$state" in
"") ;;
*Completed | *Failed) "${kubectl[@]}" delete jobset "$name" ;;
*) fail "$name has not ended; to start it anew: ${kubectl[*]} delete jobset $name, then this again" ;;
esac
"${kubectl[@]}" apply -f - <<<"$manifest"
