"""Scores of a model on examples: its loss, computed as in training, and the metrics of its predictions."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
from jax.sharding import Mesh

from transformer_jax.data.examples import digest
from transformer_jax.data.packing import EveryToken, PackedPlan
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.sources import Example
from transformer_jax.data.table import Table, encode_table
from transformer_jax.parallel.axes import num_shards
from transformer_jax.parallel.mesh import local_mesh
from transformer_jax.runs.run import Run
from transformer_jax.tasks.task import Tokenizers
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.step import device_batches

PROBES = 20
"""Examples whose encoding identifies how a task encodes text."""
SEED = 0
"""Seed of random choices, such as masks: with epoch 0, they are the same in every evaluation."""


class Evaluation:
    """Scores models of a run on examples, which are encoded once, here; call it with a model.

    The table is kept in `cache`, if given. Raises ValueError for examples that cannot be encoded.
    """

    def __init__(self, run: Run, examples: list[Example], mesh: Mesh, cache: Path | None = None):
        self.run, self.examples, self.mesh = run, examples, mesh
        if cache is None:
            self._temporary = TemporaryDirectory()  # deleted with this object
            cache = Path(self._temporary.name)
        text = digest(examples)
        self.table = encoded_split(run.experiment, run.tokenizers, lambda: examples, "validation", text, cache)
        self.plan = evaluation_plan(run.experiment, self.table, num_shards("batch", mesh))
        self._sums = jax.jit(lambda model, batch: run.experiment.task.loss(model, batch, None))

    def __call__(self, model: Any) -> dict[str, Any]:
        """The metrics by name, and `COUNTS`; all processes call this together."""
        task, data = self.run.experiment.task, self.run.experiment.data
        predictor = task.predictor(model, self.run.tokenizers, data)
        with jax.set_mesh(self.mesh):
            metrics = task.loss_metrics(self.sums(model), self.examples)
            return {"examples": len(self.examples)} | metrics | task.evaluate(predictor, self.examples)

    def sums(self, model: Any) -> dict[str, tuple[float, float]]:
        """The sums and weights of the task's loss and other metrics over all examples."""
        task, stop = self.run.experiment.task, self.plan.batches_per_epoch
        batches = device_batches(task, self.run.tokenizers, self.table, self.plan, self.mesh, seed=SEED, stop=stop)
        totals: dict[str, tuple[float, float]] = {}
        for batch in batches:
            for name, (total, weight) in jax.device_get(self._sums(model, batch)).items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + float(total), before[1] + float(weight)
        return totals


def evaluate(run: Run, steps: list[int], examples: list[Example]) -> dict[str, Any]:
    """Scores of the mean of the parameters at these steps, computed on all devices of this process."""
    mesh = local_mesh(run.experiment.mesh)
    return Evaluation(run, examples, mesh)(run.model_of(steps, mesh))


def evaluation_plan(experiment: Experiment, table: Table, devices: int) -> BatchPlan | PackedPlan:
    """The batches that have every example of a table once, in order, their rows a multiple of the devices."""
    data = experiment.data
    multiple = math.lcm(data.batch_multiple, devices)
    # A plan of single rows rounds lengths up to multiples of at most 8.
    longest = data.max_length if experiment.task.packed else int(table.lengths.max()) + 7
    size = {"tokens_per_batch": max(data.tokens_per_batch, longest * multiple), "batch_multiple": multiple}
    if experiment.task.packed:
        return EveryToken(table.lengths[:, 0], length=data.max_length, **size)
    return BatchPlan(table.lengths, num_buckets=data.num_buckets, seed=SEED, shuffle=False, **size)


def encoded_split(
    experiment: Experiment,
    tokenizers: Tokenizers,
    read: Callable[[], Iterable[Example]],
    name: str,
    text: str,
    directory: Path,
) -> Table:
    """The table of the examples of `read`, encoded by the task; made unless `directory` has it.

    Its key changes with their fingerprint `text`, the vocabularies and the task's encoding.
    """
    task, data = experiment.task, experiment.data
    max_length = None if task.packed else data.max_length
    skipped: Counter[str] = Counter()

    def encode(chunk: list[Example]) -> dict[str, list[Any]]:
        return task.encode(tokenizers, chunk, max_length=data.max_length)

    vocabularies = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
    probes = encode(list(itertools.islice(task.readable(read()), PROBES)))
    key = digest([text, max_length, data.max_length, vocabularies, str(task.columns), probes])
    path = directory / f"{name}-{key}.arrow"
    examples = task.readable(read(), skipped)
    return encode_table(examples, encode, task.columns, max_length=max_length, path=path, skipped=skipped)
