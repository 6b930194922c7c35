# Sourced by the launchers. `set_up [EXTRA ...]` makes a virtual environment and installs the checkout into it with the
# extras named, unless that was done before; then "$VENV/bin/python" is the interpreter to use. What a caller may set:
#
#   PYTHON          interpreter to make the environment with (default: python3; if it is too old, python3.14 to 3.11)
#   INSTALL_PYTHON  if not empty, and all of those are too old, install a newer one for this user
#   VENV            directory of the environment (default: .venv in the checkout)
#   ACCELERATOR     cpu, cuda, cuda12 or tpu (default: what this machine has)
#   DRY_RUN         if not empty, only say what would be done
#
# --dry-run, wherever it stands in the launcher's arguments, sets DRY_RUN and is taken out: training does not know it.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"
DRY_RUN="${DRY_RUN:-}"
for argument; do # a file that is sourced without arguments has, and changes, those of the launcher
    shift
    if [[ "$argument" == --dry-run ]]; then DRY_RUN=yes; else set -- "$@" "$argument"; fi
done

fail() {
    echo "error: $*" >&2
    exit 2
}

# offer_help "$@": for -h or --help, which come first, prints the comment at the head of the launcher and ends it.
offer_help() {
    [[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "$0" && exit; }
}

need() { # PROGRAM HOW_TO_GET_IT
    [[ "$DRY_RUN" ]] || command -v "$1" >/dev/null || fail "no program $1 on this machine; $2"
}

is_recent_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 python)
    [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        is_recent_python "$candidate" && echo "$candidate" && return
    done
    [[ -z "${PYTHON:-}" && "${INSTALL_PYTHON:-}" ]] || return
    python3 -m pip install --quiet --user uv >&2 && python3 -m uv python install --quiet 3.13 >&2 &&
        python3 -m uv python find 3.13
}

nvidia_accelerator() {
    local gpu driver capability
    gpu="$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null | head -n 1)" || return
    [[ "$gpu" =~ ^([0-9]+)\.[^,]*,\ *([0-9]+)\.([0-9]+)$ ]] || return
    driver="${BASH_REMATCH[1]}" capability="${BASH_REMATCH[2]}${BASH_REMATCH[3]}"
    # CUDA 13 needs driver 580 and a GPU of Turing's generation (compute capability 7.5) or later; CUDA 12, driver 525.
    if ((driver >= 580 && capability >= 75)); then
        echo cuda
    elif ((driver >= 525)); then
        echo cuda12
    else
        echo "warning: JAX needs NVIDIA driver 525 or newer, not $driver; using the CPU" >&2
        return 1
    fi
}

has_tpu() {
    # The second form also belongs to other devices, hence the look for Google's vendor number.
    compgen -G "/dev/accel[0-9]*" >/dev/null ||
        { compgen -G "/dev/vfio/[0-9]*" >/dev/null && grep -qs "^0x1ae0" /sys/bus/pci/devices/*/vendor; }
}

find_accelerator() {
    nvidia_accelerator || { has_tpu && echo tpu; } || echo cpu
}

make_venv() {
    local python output
    [[ ! -e "$VENV" || -f "$VENV/pyvenv.cfg" ]] || fail "$VENV is not a virtual environment: name another, VENV=..."
    python="$(find_python)" ||
        fail "no Python 3.11 or newer${PYTHON:+ at $PYTHON}; install one, or name it: PYTHON=/path/to/python3"
    echo "making $VENV with $("$python" --version)"
    if ! output="$("$python" -m venv --clear "$VENV" 2>&1)"; then
        rm -rf "$VENV"
        fail "$python cannot make $VENV; on Debian or Ubuntu, first: apt install python3-venv"$'\n'"$output"
    fi
}

install() {
    local project="transformer-jax${1:+[$1]}" stamp installed="$VENV/installed${1:+-$1}"
    # What was installed, from where: an environment of a changed or moved checkout is installed again.
    stamp="$ROOT $(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" | cksum) ${PIP_CONSTRAINT:-}"
    if [[ "$(cat "$installed" 2>/dev/null)" != "$stamp" ]]; then
        echo "installing $project (a few minutes the first time)"
        "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-compile --editable "$ROOT${1:+[$1]}" ||
            fail "pip could not install $project; its message is above"
        echo "$stamp" >"$installed"
    fi
}

set_up() {
    local extras=("$@")
    [[ "$DRY_RUN" ]] || "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
    ACCELERATOR="${ACCELERATOR:-$(find_accelerator)}"
    [[ "$ACCELERATOR" == cpu ]] || extras+=("$ACCELERATOR")
    echo "using $VENV, accelerator: $ACCELERATOR${extras[*]:+, extras: ${extras[*]}}"
    [[ "$DRY_RUN" ]] || install "$(IFS=, && echo "${extras[*]}")"
}
