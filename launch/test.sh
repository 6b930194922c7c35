#!/usr/bin/env bash
# From a fresh machine to the verdict: makes .venv, installs, runs the linter, the type checker and the tests.
#
#     bash launch/test.sh [--dry-run] [argument of pytest ...]
#
# Tests run on the CPU; TRANSFORMER_JAX_TEST_PLATFORM=gpu or tpu runs those that need one. TRANSFORMER_JAX_DATA names a
# directory of real data for the tests that read some. Skipped tests are listed with their reasons.
set -euo pipefail
[[ "${TRANSFORMER_JAX_TEST_PLATFORM:-cpu}" != cpu ]] || ACCELERATOR=cpu
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
offer_help "$@"
set_up lint test

# PyTorch, which the layers are compared with: its CPU build or none. For Linux the package index has a build that brings
# gigabytes of CUDA libraries, PyTorch's own index a CPU build of the same version, which pip takes for the later one.
install_pytorch() {
    local wanted files pip=("$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile --retries 1)
    "$VENV/bin/python" -c "import torch" 2>/dev/null && return
    wanted="$(sed -n "s/^parity = //p" "$ROOT/setup.cfg")"
    files="$("${pip[@]}" --extra-index-url https://download.pytorch.org/whl/cpu --dry-run --report - "$wanted" 2>/dev/null |
        "$VENV/bin/python" -c '
import json, sys
packages = json.load(sys.stdin)["install"]
if any(package["metadata"]["name"].startswith(("cuda", "nvidia")) for package in packages):
    sys.exit("the build of PyTorch that pip finds needs CUDA libraries")
print(*[package["download_info"]["url"] for package in packages])')" && "${pip[@]}" --no-deps $files
}
# A process for every core; an accelerator is for one.
workers=auto
[[ "${TRANSFORMER_JAX_TEST_PLATFORM:-cpu}" == cpu ]] || workers=0
if [[ "$DRY_RUN" ]]; then
    echo "PyTorch for the CPU where there is one; ruff check; basedpyright;" \
        "pytest -n $workers --dist worksteal$((($#)) && printf " %q" "$@")"
    exit
fi
install_pytorch || echo "PyTorch is not installed: the tests that compare with it will be skipped"

cd "$ROOT"
status=0
"$VENV/bin/ruff" check . || status=$?
"$VENV/bin/basedpyright" --pythonpath "$VENV/bin/python" || status=$?
"$VENV/bin/python" -m pytest -n "$workers" --dist worksteal "$@" || status=$?
exit "$status"
