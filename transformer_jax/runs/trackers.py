"""Where the metrics of a run are shown beside its own file: TensorBoard, Weights & Biases."""

import importlib
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from transformer_jax.data.lines import write_whole

VALIDATION = "validation_"
"""In front of the names of metrics of the validation examples."""
WANDB_ID = "wandb.id"
"""File in the run directory: the run's name at Weights & Biases, under which it goes on after a stop."""


class Tracker(Protocol):
    """Takes the values of rows; all that it writes is finite."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the values of a step by their names, such as train/loss and validation/bleu."""

    def close(self) -> None:
        """Ends."""


class TensorBoard:
    """Event files in `directory/tensorboard/`, in which steps after the one of a resume are hidden."""

    def __init__(self, directory: Path, resume_step: int, _: Mapping[str, Any]):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, in the project that WANDB_PROJECT names; a resumed run goes on in the same one.

    Steps that are repeated after a resume are shown twice there.
    """

    def __init__(self, directory: Path, _: int, experiment: Mapping[str, Any]):
        file = directory / WANDB_ID
        if not file.exists():
            write_whole(file, secrets.token_hex(8).encode())
        settings = {"project": os.environ.get("WANDB_PROJECT", "transformer_jax"), "dir": str(directory)}
        settings |= {"name": directory.resolve().name, "id": file.read_text(encoding="utf-8").strip()}
        try:
            self._run = wandb().init(resume="allow", config=dict(experiment), **settings)
        except wandb().errors.Error as error:
            raise ValueError(f"{error} (wandb login, or WANDB_MODE=offline in front of the command)") from error
        # Its own count of steps would refuse those that a resumed run repeats.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    # From the run directory, the step that a run goes on from, and the experiment as plain JSON.
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def wandb() -> Any:
    """The package of Weights & Biases; ValueError if it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ValueError("train.log_to wandb needs a package: pip install 'transformer-jax[wandb]'") from None


def by_group(row: Mapping[str, int | float]) -> dict[str, float]:
    """The finite values of a row as train/NAME and validation/NAME."""
    return {
        f"validation/{name.removeprefix(VALIDATION)}" if name.startswith(VALIDATION) else f"train/{name}": value
        for name, value in row.items()
        if name != "step" and math.isfinite(value)
    }
