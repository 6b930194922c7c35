#!/usr/bin/env bash
# From a fresh machine to a trained model: makes .venv, installs, trains, evaluates, shows samples, draws pictures.
#
#     bash launch/local.sh [--dry-run] [EXPERIMENT.py] [--workdir RUN] [--any.field value ...]
#
# The default experiment is experiments/quickstart.py, the default run directory runs/<file name> in this checkout.
# Started again, it goes on from where it was. --dry-run prints what would be run. launch/environment.sh says how to
# choose Python and the accelerator, launch/processes.sh how to have several processes and restarts after crashes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$(dirname "${BASH_SOURCE[0]}")/processes.sh"
set_up

if [[ "${1:-}" == *.py ]]; then
    experiment="$1" && shift
    sentence=""
else
    experiment="$ROOT/experiments/quickstart.py"
    sentence="jeudi 5 mars 2026"
fi
run="$ROOT/runs/$(basename "$experiment" .py)"
run="${run#"$PWD/"}"
for ((i = 1; i <= $#; i++)); do
    next=$((i + 1))
    case "${!i}" in
    --workdir) run="${!next:-}" ;;
    --workdir=*) run="${!i#*=}" ;;
    -h | --help) sentence="" ;; # nothing is trained, so there is nothing to draw
    esac
done

if [[ "$DRY_RUN" ]]; then
    echo "${PROCESSES:-1} process, ${RESTARTS:-0} restarts after crashes:$(
        printf " %q" "$VENV/bin/transformer-jax" train "$experiment" --workdir "$run" "$@"
    )"
    exit
fi
supervise "$VENV/bin/transformer-jax" train "$experiment" --workdir "$run" "$@" && status=0 || status=$?

if ((status == 0)) && [[ "$sentence" ]]; then
    echo "who looks at whom:"
    "$VENV/bin/transformer-jax" attention "$run" "$sentence" || status=$?
    echo "next, try:"
    echo "  source ${VENV#"$PWD/"}/bin/activate"
    echo "  echo \"25. Dezember 2031\" | transformer-jax predict $run"
fi
exit "$status"
