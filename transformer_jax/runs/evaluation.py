"""Scores of a model on examples: its loss, by the path of training, and the metrics of its predictions."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
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
from transformer_jax.parallel.axes import parts
from transformer_jax.parallel.mesh import local_mesh
from transformer_jax.runs.run import Run
from transformer_jax.tasks.task import Tokenizers
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.step import device_batches

PROBES = 20
"""Examples that show how a task encodes text."""
SEED = 0
"""What an evaluation draws, such as masks, is drawn from this seed in epoch 0: the same every time."""


class Evaluation:
    """Scores models of a run on examples, which are encoded once, here; call it with a model.

    The table is kept in `cache`, or thrown away in the end. Raises ValueError for examples that cannot be encoded.
    """

    def __init__(self, run: Run, examples: list[Example], mesh: Mesh, cache: Path | None = None):
        self.run, self.examples, self.mesh = run, examples, mesh
        self._temporary = TemporaryDirectory() if cache is None else None
        text = digest(examples)
        directory = Path(self._temporary.name) if self._temporary else cache or Path()
        self.table = encoded_split(run.experiment, run.tokenizers, lambda: examples, "validation", text, directory)
        self.plan = evaluation_plan(run.experiment, self.table, parts("batch", mesh))
        self._sums = jax.jit(lambda model, batch: run.experiment.task.loss(model, batch, None))

    def __call__(self, model: Any) -> dict[str, Any]:
        """The metrics by name, and `COUNTS`; of several processes, all call this together."""
        task, data = self.run.experiment.task, self.run.experiment.data
        predictor = task.predictor(model, self.run.tokenizers, data)
        with jax.set_mesh(self.mesh):
            metrics = task.loss_metrics(self.sums(model), self.examples)
            return {"examples": len(self.examples)} | metrics | task.evaluate(predictor, self.examples)

    def sums(self, model: Any) -> dict[str, tuple[float, float]]:
        """What the task's loss sums up over all examples: sums and weights."""
        task, stop = self.run.experiment.task, self.plan.batches_per_epoch
        batches = device_batches(task, self.run.tokenizers, self.table, self.plan, self.mesh, seed=SEED, stop=stop)
        return added(jax.device_get([self._sums(model, batch) for batch in batches]))


def evaluate(run: Run, steps: list[int], examples: list[Example]) -> dict[str, Any]:
    """Scores of the mean of the parameters at these steps, computed on all devices of this process."""
    mesh = local_mesh(run.experiment.mesh)
    return Evaluation(run, examples, mesh)(run.model_of(steps, mesh))


def added(batches: Iterable[Mapping[str, tuple[Any, Any]]]) -> dict[str, tuple[float, float]]:
    """The sums and weights of several batches together."""
    totals: dict[str, tuple[float, float]] = {}
    for sums in batches:
        for name, (total, weight) in sums.items():
            before = totals.get(name, (0.0, 0.0))
            totals[name] = before[0] + float(total), before[1] + float(weight)
    return totals


def evaluation_plan(experiment: Experiment, table: Table, devices: int) -> BatchPlan | PackedPlan:
    """The batches that have every example of a table once, in order, with rows that so many devices can divide."""
    data = experiment.data
    multiple = math.lcm(data.batch_multiple, devices)
    if experiment.task.packed:
        tokens = max(data.tokens_per_batch, data.max_length * multiple)
        return EveryToken(table.lengths[:, 0], length=data.max_length, tokens_per_batch=tokens, batch_multiple=multiple)
    # The plan rounds lengths up to multiples of at most 8.
    tokens = max(data.tokens_per_batch, (int(table.lengths.max()) + 7) * multiple)
    return BatchPlan(
        table.lengths,
        tokens_per_batch=tokens,
        num_buckets=data.num_buckets,
        batch_multiple=multiple,
        seed=SEED,
        shuffle=False,
    )


def encoded_split(
    experiment: Experiment,
    tokenizers: Tokenizers,
    read: Callable[[], Iterable[Example]],
    name: str,
    text: str,
    directory: Path,
) -> Table:
    """The table of the examples that `read` gives, as the task encodes them; made unless `directory` has it.

    Its key changes whenever their fingerprint `text`, a vocabulary or what the task encodes does.
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
