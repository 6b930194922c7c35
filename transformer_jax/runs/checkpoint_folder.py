"""One checkpoint on disk: what lies beside its arrays, and the checks that it is what was saved.

model/  optimizer/    arrays by name, written by Orbax
state.json            step, metrics, what the trainer adds, and the fingerprints of all arrays and files
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import Array

from transformer_jax.parallel.distributed import agree
from transformer_jax.runs.fingerprint import file_fingerprint, fingerprints, json_fingerprint

STATE = "state.json"

Templates = Mapping[str, jax.ShapeDtypeStruct]
"""Arrays by name as they are wanted: shape, type and sharding (None: on one device)."""
Facts = dict[str, Any]
"""What state.json holds: step, metrics, state, arrays (by item and name), files."""

T = TypeVar("T")


class CheckpointDamaged(ValueError):
    """A checkpoint that is not what was saved."""


def describe(arrays: Mapping[str, Array], step: int) -> dict[str, dict[str, Any]]:
    """Kind and fingerprint of every array; FloatingPointError when one holds an infinity or NaN."""
    hashes, bad = fingerprints(arrays)
    if bad:
        raise FloatingPointError(f"{_some(bad)} is not finite at step {step}, which is not saved")
    return {name: {"kind": _kind(array), "fingerprint": hashes[name]} for name, array in arrays.items()}


def write_facts(folder: Path, facts: Facts) -> None:
    """Writes state.json: the facts, which are JSON's own types, with the fingerprints of the arrays' files."""
    paths = sorted(path for item in facts["arrays"] for path in (folder / item).rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): file_fingerprint(path) for path in paths}
    facts = facts | {"files": files}
    text = json.dumps({"fingerprint": json_fingerprint(facts), "facts": facts}, indent=1)
    (folder / STATE).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path) -> Facts:
    """What state.json holds.

    Raises FileNotFoundError when there is no such checkpoint, and CheckpointDamaged.
    """
    return _together(folder, lambda: facts_here(folder))


def facts_here(folder: Path) -> Facts:
    """`read_facts` for this process alone; any kind of OSError, ValueError, TypeError or LookupError."""
    sealed = json.loads((folder / STATE).read_text(encoding="utf-8"))
    facts = sealed["facts"]
    if sealed["fingerprint"] != json_fingerprint(facts) or facts["step"] != int(folder.name):
        raise ValueError(f"{STATE} is not what was saved")
    return facts


def read_arrays(folder: Path, item: str, facts: Facts, templates: Templates) -> dict[str, Array]:
    """The arrays of an item on the devices that the templates name, equal to what was saved.

    Raises CheckpointDamaged when they are not, and ValueError when other arrays were saved than are asked for.
    """
    saved = facts["arrays"][item]
    _check_fit(templates, {name: array["kind"] for name, array in saved.items()}, f"the {item} in {folder}")
    if not templates:
        return {}  # Orbax refuses to write an item without arrays
    arrays = _together(folder, lambda: _arrays_here(folder, item, facts["files"], templates))
    hashes, _ = fingerprints(arrays)
    wrong = [name for name, array in saved.items() if hashes[name] != array["fingerprint"]]
    if wrong:
        raise CheckpointDamaged(f"{folder} is damaged: {item} {_some(wrong)} is not what was saved")
    return arrays


def _arrays_here(folder: Path, item: str, files: Mapping[str, str], templates: Templates) -> dict[str, Array]:
    """This process's part of the arrays, after its part of the files was checked.

    Orbax would find some of what is wrong with a file, but leaves reads behind that then fail in its threads.
    """
    names = [name for name in sorted(files) if name.startswith(f"{item}/")]
    for name in names[jax.process_index() :: jax.process_count()]:
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if file_fingerprint(folder / name) != files[name]:
            raise ValueError(f"{name} is not what was saved")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding or device)
        for name, array in templates.items()
    }
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return handler.restore(epath.Path(folder / item), args=ocp.args.StandardRestore(wanted))


def _together(folder: Path, read: Callable[[], T]) -> T:
    """What `read` returns; CheckpointDamaged on all processes if it fails on one, so that none waits for another.

    An error that says nothing about the files (no memory, no permission) is passed on.
    """
    result, problem = None, ""
    try:
        result = read()
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        problem = one_line(error)
    if agree(int(bool(problem))):
        problem = problem or "another process cannot read it"
    if not problem:
        return cast(T, result)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {folder}; training may have deleted it meanwhile")
    raise CheckpointDamaged(f"{folder} is damaged: {problem}")


def _check_fit(wanted: Templates, saved: Mapping[str, str], what: str) -> None:
    """Raises ValueError unless names, types and shapes are the same."""
    kinds = {name: _kind(array) for name, array in wanted.items()}
    differ = [name for name in sorted(kinds.keys() | saved.keys()) if kinds.get(name) != saved.get(name)]
    if differ:
        name = differ[0]
        raise ValueError(
            f"{what} does not fit in {_some(differ)}, which is {saved.get(name, 'absent')} there and "
            f"{kinds.get(name, 'absent')} here; use the experiment that it was saved with"
        )


def _kind(array: Array | jax.ShapeDtypeStruct) -> str:
    return f"{array.dtype}{list(array.shape)}"


def one_line(error: BaseException) -> str:
    """An error's message without its middle, where TensorStore's are long."""
    text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-190:]}"


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
