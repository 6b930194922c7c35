#!/usr/bin/env bash
# Trains on a cloud, with SkyPilot, as a managed job: a preempted run is started again elsewhere and goes on.
#
#     bash launch/skypilot.sh --bucket BUCKET [--dry-run] [option of sky ...] EXPERIMENT.py [--any.field value ...]
#
# The options are those of `sky jobs launch`, such as --gpus A100:8 --use-spot --infra gcp.
# The run is kept in the bucket, which is made if there is none, as runs/<name of the file>; for another name, add
# --workdir /storage/runs/NAME. Started again, it goes on. --dry-run prints the command, which costs nothing.
# launch/skypilot.yaml is the task, and says what several machines need.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
offer_help "$@"
cd "$ROOT"

bucket="" options=()
while (($#)) && [[ "$1" != *.py ]]; do
    case "$1" in
    --bucket) bucket="${2:-}" && shift ;;
    *) options+=("$1") ;;
    esac
    shift || break
done
[[ "$bucket" ]] || fail "say where the run is kept: --bucket BUCKET"
(($#)) || fail "name an experiment file after the options, such as experiments/quickstart.py"
[[ -f "$1" ]] || fail "no file $1 in $PWD"
need sky "install SkyPilot: https://docs.skypilot.co"

arguments="$(printf '%q ' "$1" --workdir "/storage/runs/$(basename "$1" .py)" "${@:2}")"
command=(sky jobs launch "--env=BUCKET=$bucket" "--env=ARGUMENTS=$arguments" ${options[@]+"${options[@]}"}
    launch/skypilot.yaml)
if [[ "$DRY_RUN" ]]; then
    printf '%q ' "${command[@]}" && echo
else
    "${command[@]}"
fi
