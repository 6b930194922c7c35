"""A run directory: alone enough to evaluate, predict, resume or export.

experiment.json   the resolved experiment
experiment.py     the file that it came from, where its classes are found; files that it imported lie beside it
tokenizer/        the vocabularies
checkpoints/      see checkpoint.py
metrics.jsonl     one object a logged step; tensorboard/ and curves.png show the same
result.json       scores of the run, once it has finished, see result.py
cache/            the tokenised text
published/        configuration, card and licence of the published model that it was imported from or began from
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from transformer_jax.data.lines import json_object, write_whole
from transformer_jax.data.sources import Example
from transformer_jax.data.vocabulary import Vocabulary, load_tokenizers
from transformer_jax.interop.hub import local_directory
from transformer_jax.interop.published import is_published
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.parallel.mesh import local_mesh
from transformer_jax.runs.checkpoint import EMA, Checkpoints, average
from transformer_jax.runs.checkpoint_folder import read_facts
from transformer_jax.runs.experiment_file import from_tree, load_experiment_file, to_tree
from transformer_jax.runs.imported_files import copy_imported
from transformer_jax.runs.published_run import load_published
from transformer_jax.runs.trackers import VALIDATION
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.step import abstract_model, model_shardings

EXPERIMENT, SOURCE = "experiment.json", "experiment.py"
PUBLISHED = "published"
"""The folder of what came with a published model: its configuration, card and licence."""
TAKEN = (PUBLISHED, SOURCE, "cache", "checkpoints", "tensorboard", "tokenizer")
"""Names that belong to a run directory: no imported file may have them."""


class Steps(list[int]):
    """The steps of the checkpoints whose parameters or, with `ema`, whose moving averages of them are meant."""

    def __init__(self, steps: Sequence[int], *, ema: bool = False):
        super().__init__(steps)
        self.ema = ema

    def __str__(self) -> str:
        return ", ".join(map(str, self)) + (", moving average" if self.ema else "")


@dataclass(frozen=True)
class Run:
    """A run that has been prepared: its experiment and its vocabularies."""

    directory: Path
    experiment: Experiment
    tokenizers: Mapping[str, Vocabulary]

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether the directory holds a run."""
        return (directory / EXPERIMENT).is_file()

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "Run":
        """The run of a directory. Executes the experiment's file that lies there: open only runs that you trust.

        Raises FileNotFoundError or ValueError when there is none.
        """
        directory = Path(directory)
        if not cls.exists(directory):
            reason = f"it has no {EXPERIMENT}" if directory.is_dir() else "it does not exist"
            raise FileNotFoundError(f"{directory} is not a run directory: {reason}")
        tree = read_tree(directory)
        experiment = from_tree(load_experiment_file(directory / SOURCE, tree.get("variant", "experiment")), tree)
        task, data = experiment.task, experiment.data
        return cls(directory, experiment, load_tokenizers(data, task.vocabularies(data), directory / "tokenizer"))

    @property
    def cache(self) -> Path:
        """The directory of the tokenised text."""
        cache = self.experiment.data.cache
        return Path(cache).expanduser() if cache else self.directory / "cache"

    def examples(self, split: str) -> tuple[list[Example], dict[str, int]]:
        """The examples of a split, and the number of those skipped as empty or undecodable.

        Raises ValueError for an unknown split.
        """
        source = self.experiment.data.source
        if split not in source.splits:
            raise ValueError(f"the data of {self.directory} has no split {split}, only {', '.join(source.splits)}")
        skipped: Counter[str] = Counter()
        return list(self.experiment.task.readable(source.examples(split), skipped)), dict(skipped)

    def checkpoints(self) -> Checkpoints:
        """The checkpoints, for reading."""
        return open_checkpoints(self.directory, self.experiment)

    def checkpoint_steps(self, checkpoint: str | None = None) -> Steps:
        """The steps of `last`, `best`, `ema`, a number or `average:N`; None is the experiment's own choice.

        Raises ValueError when there are no such checkpoints.
        """
        checkpoint = self.experiment.train.checkpoint if checkpoint is None else checkpoint
        count = averaged(checkpoint)
        with self.checkpoints() as checkpoints:
            steps, best = checkpoints.steps(), checkpoints.best_step()
        if not steps:
            raise ValueError(f"{self.directory} has no checkpoint yet; train it first")
        if checkpoint == EMA and not self.experiment.optimizer.ema:
            raise ValueError(f"{self.directory} has no moving average: it was trained without optimizer.ema")
        if checkpoint in ("last", EMA):
            return Steps(steps[-1:], ema=checkpoint == EMA)
        if checkpoint == "best" and best is None:
            metric = self.experiment.train.best
            why = f"no evaluation gave a number for {metric}" if metric else "train.best names no metric"
            raise ValueError(f"{self.directory} has no best checkpoint: {why}; use --checkpoint last")
        if count > len(steps):
            raise ValueError(
                f"{checkpoint} needs {count} checkpoints, but only {len(steps)} are kept: {steps}; "
                f"use --checkpoint last or average:{len(steps)}"
            )
        if count:
            return Steps(steps[-count:])
        step = best if checkpoint == "best" else int(checkpoint)
        if step not in steps:
            raise ValueError(f"no checkpoint of step {checkpoint}; there are {steps}")
        return Steps([step])

    def predictor(self, checkpoint: str | None = None) -> Any:
        """The task's predictor with the parameters of a checkpoint, or of the average of several."""
        model = self.model_of(self.checkpoint_steps(checkpoint))
        return self.experiment.task.predictor(model, self.tokenizers, self.experiment.data)

    def model_of(self, steps: Sequence[int], mesh: Mesh | None = None) -> Any:
        """The model with the mean of the parameters at these steps, on a mesh; None: on all devices of this process.

        `Steps` may ask for their moving averages.

        Raises ValueError unless the vocabularies are those of training.
        """
        model = abstract_model(self.experiment.model)
        where = model_shardings(model, local_mesh(self.experiment.mesh) if mesh is None else mesh)
        templates = {
            name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=where[name])
            for name, value in named_parameters(model).items()
        }
        with self.checkpoints() as checkpoints:
            parameters = average(checkpoints, steps, templates, ema=isinstance(steps, Steps) and steps.ema)
        step = steps[-1]
        saved = read_facts(self.directory / "checkpoints" / str(step))["state"].get("tokenizers", {})
        for name, fingerprint in saved.items():
            if self.tokenizers[name].fingerprint != fingerprint:
                raise ValueError(f"the {name} tokenizer in {self.directory} is not the one of its checkpoint {step}")
        return replace_parameters(model, parameters)

    def write_average(self, steps: list[int], directory: Path) -> Path:
        """Writes a run directory whose only checkpoint is the mean of the parameters at these steps.

        It can be evaluated and used like any run, but not trained further. Raises ValueError if it exists.
        """
        if directory.exists():
            raise ValueError(f"{directory} is there already; choose another --output")
        model = self.model_of(steps)
        shutil.copytree(self.directory / "tokenizer", directory / "tokenizer")
        train = replace(self.experiment.train, checkpoint="last")
        write_experiment(directory, replace(self.experiment, train=train), self.directory / SOURCE)
        fingerprints = {name: tokenizer.fingerprint for name, tokenizer in self.tokenizers.items()}
        with open_checkpoints(directory, self.experiment) as checkpoints:
            state = {"average_of": steps, "tokenizers": fingerprints}
            checkpoints.save(steps[-1], model=named_parameters(model), optimizer={}, state=state)
        return directory


def averaged(checkpoint: str) -> int:
    """The N of `average:N`, 0 for another name of a checkpoint; ValueError for anything else."""
    kind, _, count = checkpoint.partition(":")
    if kind == "average" and count.isdecimal() and int(count) > 0:
        return int(count)
    if checkpoint in ("last", "best", EMA) or checkpoint.isdecimal():
        return 0
    raise ValueError(f"a checkpoint is last, best, ema, a step or average:N, not {checkpoint!r}")


def load(
    directory: str | os.PathLike[str],
    checkpoint: str | None = None,
    *,
    dtype: str = "float32",
    ignore: Collection[str] = (),
) -> Any:
    """The trained model of a run directory, ready to use; unpacks as `model, tokenizer = load("runs/quickstart")`.

    `checkpoint` is last, best, ema, a step or average:N; None takes what the experiment says (`train.checkpoint`).
    Executes the experiment's file in the directory: load only runs that you trust. A directory with a published model
    (config.json and model.safetensors) has no such file, and is loaded as it is, but for keys of its configurations
    that are to be passed over (`ignore`); so is one of the hub by its name, such as owner/model. With `dtype` bfloat16
    a published model takes half of the memory.
    """
    published = published_directory(str(directory))
    if published is None:
        return Run.open(directory).predictor(checkpoint)
    if checkpoint is not None:
        raise ValueError(f"{directory} is a published model, which has no checkpoint {checkpoint}")
    return load_published(published, dtype=dtype, ignore=ignore)


def published_directory(place: str) -> Path | None:
    """The directory of the published model that `place` is or names (`local_directory`), or None for a run.

    Raises ValueError for a directory that is both: a published model holds no code, which the file of a run is.
    """
    directory = local_directory(place)
    if not is_published(directory):
        return None
    if Run.exists(directory):
        raise ValueError(
            f"{directory} has a config.json and an {EXPERIMENT}: it is a published model or a run, not both"
        )
    return directory


def open_checkpoints(directory: Path, experiment: Experiment) -> Checkpoints:
    """The checkpoints of a run, kept as its experiment says."""
    train, higher = experiment.train, higher_is_better(experiment)
    return Checkpoints(directory / "checkpoints", keep=train.keep, best=train.best, higher_is_better=higher)


def higher_is_better(experiment: Experiment) -> bool:
    """Whether higher values of the metric `train.best` are better."""
    return experiment.task.metrics().get(experiment.train.best.removeprefix(VALIDATION)) == "higher"


def read_tree(directory: Path) -> dict[str, Any]:
    """The saved experiment as plain JSON."""
    return json_object((directory / EXPERIMENT).read_bytes(), str(directory / EXPERIMENT))


def write_experiment(directory: Path, experiment: Experiment, file: Path) -> None:
    """Saves the resolved experiment, last and atomically: a directory with experiment.json is a complete run."""
    copy_imported(file, directory, TAKEN)
    if file.resolve() != (directory / SOURCE).resolve():
        write_whole(directory / SOURCE, file.read_bytes())
    text = json.dumps(to_tree(experiment), indent=2, ensure_ascii=False) + "\n"
    # Bytes of a file's name that are no UTF-8 become an escape of JSON.
    write_whole(directory / EXPERIMENT, text.encode("utf-8", "backslashreplace"))
