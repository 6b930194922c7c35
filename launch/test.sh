#!/usr/bin/env bash
# From a fresh machine to the verdict: makes .venv, installs, runs the linter, the type checker and the tests.
#
#     bash launch/test.sh [argument of pytest ...]
#
# Tests run on the CPU; TRANSFORMER_JAX_TEST_PLATFORM=gpu or tpu runs those that need one. TRANSFORMER_JAX_DATA names a
# directory of real data for the tests that read some. Skipped tests are listed with their reasons.
set -euo pipefail
[[ "${TRANSFORMER_JAX_TEST_PLATFORM:-cpu}" == cpu ]] && ACCELERATOR=cpu
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
set_up lint test

# PyTorch is what the layers are compared with, and only that: its CPU build, or none. On Linux the package index serves
# a build with gigabytes of CUDA libraries, PyTorch's own index a CPU build, which counts as the later version.
install_pytorch() {
    local options=(-qq --disable-pip-version-check --extra-index-url https://download.pytorch.org/whl/cpu)
    local spec packages
    "$VENV/bin/python" -c "import torch" 2>/dev/null && return
    spec="$("$VENV/bin/python" -c 'if True:
        from importlib.metadata import requires
        print(next(line.split(";")[0] for line in requires("transformer-jax") if line.startswith("torch")))')"
    packages="$("$VENV/bin/python" -m pip install "${options[@]}" --dry-run --report - "$spec")" || return
    if grep -q '"name": "nvidia' <<<"$packages"; then
        echo "only a CUDA build of $spec is to be had here: not installed"
        return 1
    fi
    "$VENV/bin/python" -m pip install "${options[@]}" "$spec"
}

install_pytorch || echo "the tests that compare with PyTorch will be skipped"

status=0
cd "$ROOT"
"$VENV/bin/ruff" check . || status=$?
"$VENV/bin/basedpyright" --pythonpath "$VENV/bin/python" || status=$?
"$VENV/bin/python" -m pytest "$@" || status=$?
exit "$status"
