#!/usr/bin/env bash
# From a fresh machine to a trained model: makes .venv, installs, trains, evaluates, shows samples, draws pictures.
#
#     bash launch/local.sh [EXPERIMENT.py] [--workdir RUN] [--any.field value ...]
#
# The default experiment is experiments/quickstart.py, the default run directory runs/<file name> in this checkout.
# Started again, it goes on from where it was. launch/environment.sh says how to choose Python and the accelerator.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
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

# Training saves and stops when it is told to. It would not be told of a SIGTERM to this script if it ran in the
# foreground; in the background it would not hear Ctrl-C, if the subshell did not restore that.
(trap - INT && exec "$VENV/bin/transformer-jax" train "$experiment" --workdir "$run" "$@") &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
trap : INT
wait "$child" && status=0 || status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting, not the training
    wait "$child" && status=0 || status=$?
done
trap - INT TERM

if ((status == 0)) && [[ "$sentence" ]]; then
    echo "who looks at whom:"
    "$VENV/bin/transformer-jax" attention "$run" "$sentence" || status=$?
    echo "next, try:"
    echo "  source ${VENV#"$PWD/"}/bin/activate"
    echo "  echo \"25. Dezember 2031\" | transformer-jax predict $run"
fi
exit "$status"
