# Sourced by the launchers: `source launch/environment.sh [EXTRA ...]` makes the virtual environment and installs the
# checkout into it with the extras named, unless that was done before. Afterwards $ROOT is the checkout, and
# $VENV/bin/python the interpreter to use. What a caller may set:
#
#   PYTHON       interpreter to make the environment with (default: python3, else the newest of 3.11 to 3.14 found)
#   VENV         directory of the environment (default: .venv in the checkout)
#   ACCELERATOR  cpu, cuda, cuda12 or tpu (default: what this machine has)

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"

fail() {
    echo "error: $*" >&2
    exit 2
}

is_recent_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" ${PYTHON:+--} python3.14 python3.13 python3.12 python3.11 python; do
        [[ "$candidate" == -- ]] && return 1 # an interpreter asked for by name is not replaced by another
        is_recent_python "$candidate" && echo "$candidate" && return
    done
    return 1
}

nvidia_accelerator() {
    local driver capability
    IFS='., ' read -r driver _ capability < <(
        nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null |
            sed -nE '1s/^([0-9]+)[^,]*, *([0-9]+)\.([0-9]+).*/\1 - \2\3/p'
    ) || return 1
    # CUDA 13 needs driver 580 and a GPU of Turing's generation (compute capability 7.5) or later; CUDA 12, driver 525.
    if ((driver >= 580 && capability >= 75)); then
        echo cuda
    elif ((driver >= 525)); then
        echo cuda12
    else
        echo "warning: NVIDIA driver $driver is older than JAX needs (525); using the CPU" >&2
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
    local python
    python="$(find_python)" ||
        fail "no Python 3.11 or newer${PYTHON:+ at $PYTHON}; install one, or name it: PYTHON=/path/to/python3"
    echo "making $VENV with $("$python" --version)"
    if ! "$python" -m venv --clear "$VENV" >/dev/null 2>&1; then
        rm -rf "$VENV"
        fail "$python could not make the virtual environment $VENV; on Debian or Ubuntu first: apt install python3-venv"
    fi
}

install() {
    local extras="$1" stamp
    # What was installed, from where: an environment of a changed or moved checkout is installed again.
    stamp="$ROOT $(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" | cksum) ${PIP_CONSTRAINT:-}"
    if [[ "$(cat "$VENV/installed-$extras" 2>/dev/null)" != "$stamp" ]]; then
        echo "installing transformer-jax[$extras] (a few minutes the first time)"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$ROOT[$extras]" ||
            fail "pip could not install transformer-jax[$extras]; its message is above"
        echo "$stamp" >"$VENV/installed-$extras"
    fi
}

"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || make_venv
ACCELERATOR="${ACCELERATOR:-$(find_accelerator)}"
extras=("$@")
[[ "$ACCELERATOR" == cpu ]] || extras+=("$ACCELERATOR")
echo "using $VENV, accelerator: $ACCELERATOR"
install "$(IFS=, && echo "${extras[*]}")"
