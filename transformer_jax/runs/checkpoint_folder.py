"""One checkpoint on disk, and the checks that it is what was saved.

model/  optimizer/    arrays by name, written by Orbax
ema/                  the moving average of parameters, by their names, where optimizer.ema keeps one
state.json            step, metrics, what the trainer adds, and the fingerprints of all arrays and files

The two kinds of fingerprints answer two questions. Those of the arrays hold from the device that saved to the device
that restores, whatever lies between. Those of the files tell damage from a failed read: an array store has one and the
same error for a flipped bit, a lost connection and a path that it cannot take. They need the files to be read again
behind each save: 0.6 of the 4 seconds of a CPU that 725 MB take, in the background, and no time of a training step.
"""

import contextlib
import json
import os
import re
import time
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
"""The content of state.json: step, metrics, state, arrays (by item and name), files."""

T = TypeVar("T")
PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each further try of a failed read: a network disk may be back by then."""


class CheckpointDamaged(ValueError):
    """A checkpoint that is not what was saved: a fingerprint differs, or a file is missing."""


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


def read_facts(folder: Path, *, alone: bool = False) -> Facts:
    """The content of state.json, read by all processes together or by this one `alone`.

    Raises FileNotFoundError for no such checkpoint, CheckpointDamaged, or OSError.
    """
    return (_patiently if alone else _together)(folder, lambda: _facts_here(folder))


def _facts_here(folder: Path) -> Facts:
    try:
        text = (folder / STATE).read_bytes()
    except FileNotFoundError:
        raise _missing(folder, STATE) from None
    try:
        sealed = json.loads(text)
        facts = sealed["facts"]
        whole = sealed["fingerprint"] == json_fingerprint(facts) and facts["step"] == int(folder.name)
    except (ValueError, TypeError, LookupError, RecursionError):
        whole, facts = False, {}
    if not whole:
        raise _damaged(folder, f"{STATE} is not what was saved")
    return facts


def read_arrays(folder: Path, item: str, facts: Facts, templates: Templates) -> dict[str, Array]:
    """The arrays of an item, as they were saved, on the devices that the templates name.

    Raises CheckpointDamaged when they are not as saved, ValueError when other arrays were saved than were asked for,
    and OSError when whole files cannot be read.
    """
    saved = facts["arrays"][item]
    stored = {name: _former(name) if _former(name) in saved else name for name in templates}
    templates = {stored[name]: template for name, template in templates.items()}
    _check_fit(templates, {name: array["kind"] for name, array in saved.items()}, f"the {item} in {folder}")
    if not templates:
        return {}  # Orbax refuses to write an item without arrays
    names = [name for name in sorted(facts["files"]) if name.startswith(f"{item}/")]
    mine = {name: facts["files"][name] for name in names[jax.process_index() :: jax.process_count()]}
    # Before Orbax reads: after a failure it leaves reads behind, which then fail in its threads.
    _together(folder, lambda: _check_files(folder, mine))
    arrays = _together(folder, lambda: _arrays_here(folder / item, templates))
    hashes, _ = fingerprints(arrays)
    wrong = [name for name, array in saved.items() if hashes[name] != array["fingerprint"]]
    if wrong:
        raise _damaged(folder, f"{item} {_some(wrong)} is not what was saved")
    return {name: arrays[old] for name, old in stored.items()}


def _former(name: str) -> str:
    """The name that version 0.1.0 gave to a parameter of an input, or to what an optimizer keeps for it."""
    name = re.sub(r"\b(en|de)coder_input/norm/", "embedding_norm/", name)
    return re.sub(r"\b(en|de)coder_input/", "", name)


def _check_files(folder: Path, saved: Mapping[str, str]) -> None:
    """Raises CheckpointDamaged unless the checkpoint's files have these fingerprints."""
    for name, fingerprint in saved.items():
        try:
            same = file_fingerprint(folder / name) == fingerprint
        except FileNotFoundError:
            raise _missing(folder, name) from None
        if not same:
            raise _damaged(folder, f"{name} is not what was saved")


def _arrays_here(folder: Path, templates: Templates) -> dict[str, Array]:
    """This process's part of the arrays."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding or device)
        for name, array in templates.items()
    }
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return handler.restore(epath.Path(folder), args=ocp.args.StandardRestore(wanted))


def _damaged(folder: Path, problem: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"{folder} is damaged: {problem}")


def _missing(folder: Path, name: str) -> Exception:
    """The error for a missing file: it was lost, or the whole checkpoint was deleted meanwhile."""
    if folder.is_dir():
        return _damaged(folder, f"{name} is missing")
    return FileNotFoundError(f"there is no checkpoint {folder}; training may have deleted it meanwhile")


def _patiently(folder: Path, read: Callable[[], T]) -> T:
    """Returns the result of `read`, and tries again after each of `PAUSES` unless its error would stay the same.

    Raises OSError when every try fails, which is no damage: only fingerprints show that.
    """
    failure: Exception = OSError()
    for pause in (0, *PAUSES):
        time.sleep(pause)
        try:
            return read()
        except (CheckpointDamaged, FileNotFoundError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            failure = error
    tries, why = len(PAUSES) + 1, reason(failure)
    raise OSError(f"{folder} cannot be read in {tries} tries, and is left as it is: {why}") from failure


def _together(folder: Path, read: Callable[[], T]) -> T:
    """Calls `_patiently` in all processes; if one fails, all do, so that none waits: CheckpointDamaged for damage."""
    result, problem = None, None
    try:
        result = _patiently(folder, read)
    except Exception as error:
        problem = error
    worst = agree(0 if problem is None else 2 if isinstance(problem, CheckpointDamaged) else 1)
    if worst == 2 and not isinstance(problem, CheckpointDamaged):
        raise _damaged(folder, "another process says what is wrong") from problem
    if worst:
        raise problem or OSError(f"{folder} cannot be read by another process; its message says why")
    return cast(T, result)


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


def reason(error: BaseException) -> str:
    """Says on one line why a file could not be read or written, in the system's own words if they are known."""
    number = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))  # as TensorStore names it
    if number or (isinstance(error, OSError) and error.strerror):
        return os.strerror(int(number[1])) if number else str(cast(OSError, error).strerror)
    text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-190:]}"


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
