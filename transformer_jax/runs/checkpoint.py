"""Checkpoints of a training run, written by Orbax in the background and checked to the bit when read.

checkpoints/
  1000/              see checkpoint_folder.py; has this name only once all of it is written
  damaged/2000/      damaged, and moved away
"""

import contextlib
import functools
import itertools
import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array

from transformer_jax.parallel.distributed import barrier, is_first
from transformer_jax.runs.checkpoint_folder import (
    CheckpointDamaged,
    Facts,
    Templates,
    describe,
    read_arrays,
    read_facts,
    reason,
    write_facts,
)

DAMAGED = "damaged"
EMA, AVERAGE = "ema", "average/"
"""The item of a moving average of the parameters, and what the names of its arrays begin with in an optimizer's state
(`AveragedState.average`)."""
T = TypeVar("T")
UNFINISHED = ocp.utils.TMP_DIR_SUFFIX
"""Orbax's addition to the name of an unfinished folder."""

# Errors of Orbax are raised here with one line; its log would repeat them with tracebacks.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


@dataclass(frozen=True)
class Restored:
    """A checkpoint as it was saved."""

    step: int
    model: dict[str, Array]
    optimizer: dict[str, Array] | None
    """None if it was not asked for."""
    state: dict[str, Any]
    metrics: dict[str, float]


class Checkpoints:
    """The checkpoints of one run: the `keep` newest, and the earliest best by the metric `best` ("": none), if saved.

    `save`, `restore_latest`, `wait` and `close` are for the one run that trains; the other methods only read, and
    others may use them meanwhile. If there are several processes, all make the same calls.
    """

    def __init__(self, directory: Path, *, keep: int = 3, best: str = "", higher_is_better: bool = True):
        if keep < 1:
            raise ValueError(f"at least one checkpoint has to be kept, not {keep}; set train.keep to 1 or more")
        self._directory = storable(directory)
        self._keep = keep
        self._best = best
        self._sign = 1 if higher_is_better else -1
        self._writer: ocp.AsyncCheckpointer | None = None
        self._facts: Facts = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # All processes meet a loss that is not finite; after any other error, this one would wait for them in vain.
        if kind is None or issubclass(kind, FloatingPointError) or jax.process_count() == 1:
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

        A step that is saved already stays as it is. Raises FloatingPointError when an array has an infinity or NaN, and
        OSError when this checkpoint or the one before it cannot be written.
        """
        self.wait()
        if step in self.steps():
            return
        items = {"model": model, **_optimizer_items(optimizer)}
        described = {item: describe(arrays, step) for item, arrays in items.items()}
        scores = {name: float(value) for name, value in (metrics or {}).items()}
        facts = {"step": step, "metrics": scores, "state": state, "arrays": described}
        self._facts = json.loads(json.dumps(facts))  # as it will be read, and as it is now
        arguments = {item: ocp.args.StandardSave(arrays) for item, arrays in items.items() if arrays}
        with self._saving():
            if self._writer is None:
                # A folder that cannot be made is then an error here; Orbax's threads would wait for it for minutes.
                options = {"post_finalization_callback": self._finish, "create_directories_asynchronously": False}
                handler = ocp.CompositeCheckpointHandler()
                self._writer = ocp.AsyncCheckpointer(handler, async_options=ocp.AsyncOptions(**options))
                _silence_failed_writes()
            self._writer.save(self._folder(step), args=ocp.args.Composite(**arguments))

    def wait(self) -> None:
        """Waits until the last save is complete, and deletes old checkpoints; OSError when the save failed."""
        if self._writer is not None:
            with self._saving():
                self._writer.wait_until_finished()
                if is_first():
                    self._delete_old()
                barrier()  # the others list the checkpoints only then

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
        numbered = [folder for folder in folders if folder.name.isdecimal() and folder.is_dir()]
        return sorted(int(folder.name) for folder in numbered if folder.name == str(int(folder.name)))

    def best_step(self) -> int | None:
        """The step with the best metric, if any was saved; OSError when a checkpoint cannot be read."""
        scored = [(self._score(step), -step) for step in self.steps()]
        value, step = max(scored, default=(-math.inf, 0))
        return -step if value > -math.inf else None

    def restore(
        self, step: int, *, model: Templates, optimizer: Templates | None = None, ema: bool = False
    ) -> Restored:
        """Reads the checkpoint of a step to the devices that the templates name; the optimizer only on request.

        With `ema`, every parameter that was trained is the moving average that the optimizer kept of it.
        Raises FileNotFoundError when there is no such step, CheckpointDamaged when it is not what was saved, ValueError
        when it is whole but has other arrays than were asked for, and OSError when it cannot be read.
        """
        folder = self._folder(step)
        facts = read_facts(folder)
        parameters = read_arrays(folder, "model", facts, model)
        if ema:
            kept = facts["arrays"].get(EMA)
            if not kept:
                raise ValueError(f"{folder} has no moving average: it was trained without optimizer.ema")
            parameters |= read_arrays(folder, EMA, facts, {name: model[name] for name in kept})
        rest = None
        if optimizer is not None:
            items = _optimizer_items(optimizer)
            rest = read_arrays(folder, "optimizer", facts, items["optimizer"])
            if EMA in items:
                average = read_arrays(folder, EMA, facts, items[EMA])
                rest |= {f"{AVERAGE}{name}": value for name, value in average.items()}
        return Restored(step, parameters, rest, facts["state"], facts["metrics"])

    def restore_latest(self, *, model: Templates, optimizer: Templates) -> Restored | None:
        """Reads the newest whole checkpoint; None if none was ever saved.

        Damaged ones are moved away with a warning, and the remains of an interrupted save are deleted. Raises
        CheckpointDamaged when there were checkpoints and none is whole, ValueError when one has other arrays than were
        asked for, and OSError, with everything left in its place, when the newest cannot be read.
        """
        self.wait()
        if is_first():
            for leftover in self._directory.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        aside = self._directory / DAMAGED
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.restore(step, model=model, optimizer=optimizer)
            except CheckpointDamaged as error:
                if is_first():
                    aside.mkdir(exist_ok=True)
                    names = itertools.chain([f"{step}"], (f"{step}-{count}" for count in itertools.count(2)))
                    self._folder(step).rename(next(aside / name for name in names if not (aside / name).exists()))
                    print(f"warning: {error}; it was moved to {aside}", file=sys.stderr, flush=True)
        if steps or aside.is_dir():
            raise CheckpointDamaged(f"no checkpoint in {self._directory} is whole; to start anew, remove {aside}")
        return None

    def _folder(self, step: int) -> Path:
        return self._directory / str(step)

    def _finish(self) -> None:
        """Adds state.json when Orbax has written the arrays; called by its thread, on the first process.

        The folder still has its temporary name then. If Orbax renamed it first, a step that is killed in between would
        have no state.json, and so count as damaged.
        """
        folder = self._folder(self._facts["step"])
        unfinished = folder.with_name(folder.name + UNFINISHED)
        write_facts(unfinished if unfinished.is_dir() else folder, self._facts)

    def _score(self, step: int) -> float:
        """The step's metric, higher is better; -inf for a checkpoint without it, damaged or deleted meanwhile."""
        try:
            value = self._sign * read_facts(self._folder(step), alone=True)["metrics"].get(self._best, math.nan)
        except (CheckpointDamaged, FileNotFoundError):
            return -math.inf
        return value if math.isfinite(value) else -math.inf

    def _delete_old(self) -> None:
        """Deletes complete checkpoints that are neither new nor the best; half deleted ones count as unfinished.

        Deletes none while one cannot be read: it may be the best.
        """
        old = set(self.steps()[: -self._keep])
        try:
            old -= {self.best_step()} if old else set()
        except OSError as error:
            print(f"warning: no old checkpoint is deleted now: {error}", file=sys.stderr, flush=True)
            return
        for step in old:
            renamed = self._folder(step).rename(self._directory / f"{step}{UNFINISHED}-deleted")
            shutil.rmtree(renamed, ignore_errors=True)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns every error of Orbax and its threads into an OSError with one line."""
        try:
            yield
        except Exception as error:
            raise OSError(f"no checkpoint could be written to {self._directory}: {reason(error)}") from error


def _optimizer_items(optimizer: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The optimizer's arrays by item: a moving average of parameters is one of its own, by their names."""
    average = {name.removeprefix(AVERAGE): value for name, value in optimizer.items() if name.startswith(AVERAGE)}
    items = {"optimizer": {name: value for name, value in optimizer.items() if not name.startswith(AVERAGE)}}
    return items | ({EMA: average} if average else {})


def storable(directory: Path) -> Path:
    """The absolute path of a directory for checkpoints; ValueError for a name that is no UTF-8."""
    path = Path(directory).absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of {path} is no UTF-8, and no checkpoint can be there; rename it") from None
    return path


def average(checkpoints: Checkpoints, steps: Sequence[int], model: Templates, *, ema: bool = False) -> dict[str, Array]:
    """The mean, taken in float32, of the parameters at these steps (Vaswani et al. 2017, section 6.1).

    With `ema`, of the moving averages that the optimizer kept of them.
    """
    if not steps:
        raise ValueError("there are no checkpoints to average; name at least one step")
    mean = checkpoints.restore(steps[0], model=model, ema=ema).model
    for count, step in enumerate(steps[1:], 2):
        mean = _blend(mean, checkpoints.restore(step, model=model, ema=ema).model, jnp.float32(count))
    return mean if len(steps) == 1 else {name: value.astype(model[name].dtype) for name, value in mean.items()}


@jax.jit
def _blend(mean: dict[str, Array], new: dict[str, Array], count: Array) -> dict[str, Array]:
    """The mean of `count` values from the last of them and the mean of the others."""

    def blend(old: Array, value: Array) -> Array:
        old, value = old.astype(jnp.float32), value.astype(jnp.float32)
        return old + (value - old) / count

    return jax.tree.map(blend, mean, new)


@functools.cache
def _silence_failed_writes() -> None:
    """Silences TensorStore and asyncio about writes that end after their save has failed.

    On a full disk they print a traceback for every array, beside the one error that is raised. What exception a write
    ends with depends on the system and on TensorStore's version: an OSError, or a ValueError that names the file.
    """
    show = sys.unraisablehook
    places = UNFINISHED, str(Path(ocp.__file__).parent)  # a file that is being written, the code that writes

    def hook(failure: "sys.UnraisableHookArgs") -> None:
        if str(failure.exc_value) != "Event loop is closed":
            show(failure)

    def keep(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_write = record.exc_info is not None and isinstance(record.exc_info[1], OSError)
        return not (is_write and "never retrieved" in message or any(place in message for place in places))

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(keep)
    warnings.filterwarnings("ignore", ".*write.* was never awaited", RuntimeWarning)
