"""Checkpoints of a training run, written by Orbax in the background and checked to the bit when read.

    checkpoints/
      1000/model/        the parameters by name
      1000/optimizer/    the optimizer's arrays by name
      1000/state/        JSON: step, metrics, what the trainer adds, and the fingerprint of every array; with a checksum
      damaged/2000/      what was found damaged and set aside

A step's folder has its final name only once all of it is written.
"""

import contextlib
import hashlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Array

from transformer_jax.training.fingerprint import fingerprints

STATE = "state"
DAMAGED = "damaged"
UNFINISHED = ocp.utils.TMP_DIR_SUFFIX
"""In the name of a folder that Orbax is writing, or that is being deleted here."""

Templates = Mapping[str, jax.ShapeDtypeStruct]
"""Arrays by name as they are wanted: shape, type and sharding (None: on one device)."""

T = TypeVar("T")

# What Orbax has to say to a user is raised here as one line; its log would repeat that with tracebacks.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class CheckpointDamaged(ValueError):
    """A checkpoint that is not what was saved."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint as it was saved."""

    step: int
    model: dict[str, Array]
    optimizer: dict[str, Array] | None
    """None where it was not asked for."""
    state: dict[str, Any]
    metrics: dict[str, float]


class Checkpoints:
    """The checkpoints of one run: the `keep` newest, and the best by the metric `best` ("": none) where it was saved.

    Of equally good ones the earliest is the best. `save`, `restore_latest`, `wait` and `close` are for the one run that
    trains; the rest only reads, creates and deletes nothing, and may be used meanwhile by others. With several
    processes all of them make the same calls.
    """

    def __init__(self, directory: Path, *, keep: int = 3, best: str = "", higher_is_better: bool = True):
        if keep < 1:
            raise ValueError(f"at least one checkpoint has to be kept, not {keep}; set train.keep to 1 or more")
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._best = best
        self._sign = 1 if higher_is_better else -1
        self._writer: ocp.AsyncCheckpointer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self,
        step: int,
        *,
        model: dict[str, Array],
        optimizer: dict[str, Array],
        state: dict[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves in the background; the arrays may be donated or overwritten as soon as this returns.

        A step that is there already stays as it is. Raises FloatingPointError when an array holds an infinity or NaN,
        and OSError when this checkpoint or the one before it cannot be written.
        """
        self.wait()
        if step in self.steps():
            return
        items = {"model": model, "optimizer": optimizer}
        described = {item: _describe(arrays, f"step {step}") for item, arrays in items.items()}
        scores = {name: float(value) for name, value in (metrics or {}).items()}
        facts = {"step": step, "metrics": scores, "state": state, "arrays": described}
        arguments = {item: ocp.args.StandardSave(arrays) for item, arrays in items.items() if arrays}
        with self._saving():
            self._writer = self._writer or ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
            arguments[STATE] = ocp.args.JsonSave(_seal(facts))
            self._writer.save(self._directory / str(step), args=ocp.args.Composite(**arguments))

    def wait(self) -> None:
        """Returns when the last save is complete, and deletes what is no longer kept; OSError when the save failed."""
        if self._writer is not None:
            with self._saving():
                self._writer.wait_until_finished()
                if jax.process_index() == 0:
                    self._delete_old()

    def close(self) -> None:
        """Waits for the last save, as `wait` does, and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def steps(self) -> list[int]:
        """The steps whose checkpoints are complete, ascending."""
        folders = self._directory.iterdir() if self._directory.is_dir() else ()
        return sorted(int(folder.name) for folder in folders if folder.name.isdecimal() and folder.is_dir())

    def best_step(self) -> int | None:
        """The kept step with the best metric; None where no metric is named or none was saved."""
        scored = [(self._score(step), -step) for step in self.steps()]
        value, step = max(scored, default=(-math.inf, 0))
        return -step if value > -math.inf else None

    def restore(self, step: int, *, model: Templates, optimizer: Templates | None = None) -> Restored:
        """The checkpoint of a step, on the devices that the templates name; without `optimizer`, that is not read.

        Raises FileNotFoundError when there is no such step, CheckpointDamaged when it is not what was saved, and
        ValueError when it is whole but holds other arrays than are asked for.
        """
        folder = self._directory / str(step)
        templates = {"model": model} if optimizer is None else {"model": model, "optimizer": optimizer}
        facts = _read(folder, lambda: _read_facts(folder))
        for item, wanted in templates.items():
            _check_fit(wanted, facts["arrays"][item], f"the {item} in {folder}")
        arrays = _read(folder, lambda: {item: _read_arrays(folder / item, templates[item]) for item in templates})
        for item, read in arrays.items():
            hashes, _ = fingerprints(read)
            wrong = [name for name, saved in facts["arrays"][item].items() if hashes[name] != saved["fingerprint"]]
            if wrong:
                raise CheckpointDamaged(f"{folder} is damaged: {item} {_some(wrong)} is not what was saved")
        return Restored(step, arrays["model"], arrays.get("optimizer"), facts["state"], facts["metrics"])

    def restore_latest(self, *, model: Templates, optimizer: Templates) -> Restored | None:
        """The newest checkpoint that is whole; None where there never was one.

        Damaged ones are set aside with a warning. Removes what an interrupted save left. Raises CheckpointDamaged when
        there were checkpoints and none is whole, and ValueError when one holds other arrays than are asked for.
        """
        self.wait()
        if jax.process_index() == 0:
            for folder in self._directory.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(folder, ignore_errors=True)
        aside = self._directory / DAMAGED
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, model=model, optimizer=optimizer)
            except CheckpointDamaged as error:
                if jax.process_index() == 0:
                    _move(self._directory / str(step), aside)
                    print(f"warning: {error}; it was moved to {aside}", file=sys.stderr, flush=True)
        if steps or aside.is_dir():
            raise CheckpointDamaged(f"no checkpoint in {self._directory} is whole; to start anew, remove {aside}")
        return None

    def _score(self, step: int) -> float:
        """The step's metric, higher is better; -inf where there is none."""
        try:
            value = self._sign * _read_facts(self._directory / str(step))["metrics"].get(self._best, math.nan)
        except (OSError, ValueError, TypeError, LookupError):
            return -math.inf  # damaged
        return value if math.isfinite(value) else -math.inf

    def _delete_old(self) -> None:
        """Deletes complete checkpoints that are neither new nor best; a name says what is half deleted."""
        for step in set(self.steps()[: -self._keep]) - {self.best_step()}:
            doomed = self._directory / f"{step}{UNFINISHED}-deleted"
            shutil.rmtree(doomed, ignore_errors=True)
            (self._directory / str(step)).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Whatever goes wrong in Orbax and its threads as OSError with one line."""
        try:
            yield
        except Exception as error:
            raise OSError(f"no checkpoint could be written to {self._directory}: {_one_line(error)}") from error


def average(checkpoints: Checkpoints, steps: Sequence[int], model: Templates) -> dict[str, Array]:
    """The mean of the parameters at these steps (Vaswani et al. 2017, section 6.1), summed in float32.

    Reads one checkpoint after the other, as `Checkpoints.restore` does.
    """
    if not steps:
        raise ValueError("there are no checkpoints to average; name at least one step")
    mean: dict[str, Array] = {}
    for count, step in enumerate(steps, 1):
        new = checkpoints.restore(step, model=model).model
        mean = _blend(mean or new, new, jnp.float32(count))
    return {name: value.astype(model[name].dtype) for name, value in mean.items()}


@jax.jit
def _blend(mean: dict[str, Array], new: dict[str, Array], count: Array) -> dict[str, Array]:
    """The mean of `count` values from that of all but the last."""

    def blend(old: Array, value: Array) -> Array:
        old, value = old.astype(jnp.float32), value.astype(jnp.float32)
        return old + (value - old) / count

    return jax.tree.map(blend, mean, new)


def _describe(arrays: Mapping[str, Array], where: str) -> dict[str, dict[str, Any]]:
    """Kind and fingerprint of every array; FloatingPointError when one is not finite."""
    hashes, bad = fingerprints(arrays)
    if bad:
        raise FloatingPointError(f"{_some(bad)} is not finite at {where}, which was not saved")
    return {name: {"kind": _kind(array), "fingerprint": hashes[name]} for name, array in arrays.items()}


def _kind(array: Array | jax.ShapeDtypeStruct) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _check_fit(wanted: Templates, saved: Mapping[str, Mapping[str, Any]], what: str) -> None:
    """Raises ValueError unless names, types and shapes are the same."""
    here, there = {name: _kind(array) for name, array in wanted.items()}, {n: s["kind"] for n, s in saved.items()}
    differ = [name for name in here.keys() | there.keys() if here.get(name) != there.get(name)]
    if differ:
        name = min(differ)
        raise ValueError(
            f"{what} does not fit in {len(differ)} arrays: {name} is {there.get(name, 'absent')} there, "
            f"{here.get(name, 'absent')} here; use the experiment that it was saved with"
        )


def _read(folder: Path, read: Callable[[], T]) -> T:
    """What `read` returns, on all processes; CheckpointDamaged on all of them if it fails on one, so that none waits.

    An error that says nothing about the file (no memory, no permission) is passed on.
    """
    result, problem = None, ""
    try:
        result = read()
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {_one_line(error)}"
    if jax.process_count() > 1 and np.any(multihost_utils.process_allgather(np.array(bool(problem)))):
        problem = problem or "another process cannot read it"
    if not problem:
        return result  # pyright: ignore
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {folder}; training may have deleted it meanwhile")
    raise CheckpointDamaged(f"{folder} is damaged: {problem}")


def _read_facts(folder: Path) -> dict[str, Any]:
    """What lies beside the arrays of a checkpoint; any kind of error when it is not what was saved."""
    sealed = ocp.JsonCheckpointHandler().restore(folder / STATE)
    if sealed["checksum"] != _checksum(sealed["facts"]) or sealed["facts"]["step"] != int(folder.name):
        raise ValueError(f"its {STATE} is not what was saved")
    return sealed["facts"]


def _read_arrays(folder: Path, templates: Templates) -> dict[str, Array]:
    if not templates:
        return {}  # Orbax refuses to save an item without arrays
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding or device)
        for name, array in templates.items()
    }
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return handler.restore(folder, args=ocp.args.StandardRestore(wanted))


def _seal(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts as JSON gives them back, with their checksum."""
    facts = json.loads(json.dumps(facts))
    return {"checksum": _checksum(facts), "facts": facts}


def _checksum(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _move(folder: Path, into: Path) -> None:
    """Moves a folder, under a new name where its own is taken."""
    into.mkdir(exist_ok=True)
    names = (folder.name, *(f"{folder.name}-{count}" for count in range(2, 1000)))
    folder.rename(next(into / name for name in names if not (into / name).exists()))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
