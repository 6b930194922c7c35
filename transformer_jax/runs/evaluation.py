"""Scores of a model on examples: its loss, computed as in training, and the metrics of its predictions."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from transformer_jax.data.examples import digest
from transformer_jax.data.packing import EveryToken
from transformer_jax.data.pipeline import Plan
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples, Table, encode_table
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.parallel.axes import num_shards
from transformer_jax.parallel.mesh import local_mesh
from transformer_jax.runs.run import Run
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.step import device_batches

PROBES = 20
"""How many examples are encoded to see whether a table on disk was encoded in the same way."""
SPECIAL = ("source_prefix", "source_start", "source_end", "source_eos", "target_start")
"""Fields of a task that decide with which tokens around them the members of an ensemble read and write texts."""
SEED = 0
"""Seed of random choices such as masks, which are drawn as in epoch 0: the same in every evaluation."""


class Evaluation:
    """Scores models of a run on encoded examples, over the devices of a mesh: `evaluation(model)`.

    Raises ValueError when all examples were skipped.
    """

    def __init__(self, run: Run, examples: EncodedExamples, mesh: Mesh):
        if not examples.of_rows:
            raise ValueError(f"none of the first {len(examples):,} is left: {examples.table.left_out}")
        self.run, self.examples, self.mesh = run, examples, mesh
        lengths = examples.table.lengths[: len(examples.of_rows)]
        self.plan = evaluation_plan(run.experiment, lengths, num_shards("batch", mesh))
        self._sums = jax.jit(lambda model, batch: run.experiment.task.loss(model, batch, None))

    def __call__(self, model: Any, *, predictions: bool = True) -> dict[str, Any]:
        """The metrics by name, and `COUNTS`; without `predictions` the loss's. All processes call this together."""
        task, data = self.run.experiment.task, self.run.experiment.data
        with jax.set_mesh(self.mesh):
            found = {"examples": len(self.examples)} | task.loss_metrics(self.sums(model), self.examples)
            if predictions:
                found |= task.evaluate(task.predictor(model, self.run.tokenizers, data), self.examples)
            return found

    def sums(self, model: Any) -> dict[str, tuple[float, float]]:
        """The sums and weights of the task's loss and other metrics over all examples."""
        task, table, stop = self.run.experiment.task, self.examples.table, self.plan.batches_per_epoch
        batches = device_batches(task, self.run.tokenizers, table, self.plan, self.mesh, seed=SEED, stop=stop)
        results = (self._sums(model, batch) for batch in batches)
        totals: dict[str, tuple[float, float]] = {}
        # In pairs, so that a batch is dispatched before the sums of the one before it are waited for.
        for sums, _ in itertools.pairwise(itertools.chain(results, [None])):
            for name, (total, weight) in jax.device_get(sums).items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + float(total), before[1] + float(weight)
        return totals


def evaluate(
    run: Run, steps: Sequence[int], examples: list[Example], others: Sequence[tuple[Run, Sequence[int]]] = ()
) -> dict[str, Any]:
    """Scores of the mean of the parameters at these steps, computed on all devices of this process.

    With `others` it is an ensemble of this model and theirs. Raises ValueError for models that cannot be one.
    """
    mesh = local_mesh(run.experiment.mesh)
    for other, _ in others:
        _check_member(run, other)
    members = tuple(one.model_of(of, mesh) for one, of in ((run, steps), *others))
    model = Ensemble(members) if others else members[0]
    return Evaluation(run, encoded_examples(run, examples), mesh)(model)


def _check_member(run: Run, other: Run) -> None:
    """Raises ValueError unless the models of two runs can decode together."""
    for one in (run, other):
        if not isinstance(one.experiment.model, EncoderDecoderConfig):
            raise ValueError(f"an ensemble is of encoder-decoder models, which that of {one.directory} is not")
    ours, theirs = (
        {feature: tokenizer.fingerprint for feature, tokenizer in one.tokenizers.items()} for one in (run, other)
    )
    if ours != theirs:
        raise ValueError(
            f"an ensemble has one vocabulary, but {other.directory} has another than {run.directory}: train it with "
            f"--initialize-from or with data.tokenizer.path"
        )
    task, data = run.experiment.task, run.experiment.data
    for name in SPECIAL:
        if getattr(task, name, None) != getattr(other.experiment.task, name, None):
            raise ValueError(f"an ensemble reads the same texts, but {other.directory} has another task.{name}")
    try:
        sizes = {feature: tokenizer.vocab_size for feature, tokenizer in run.tokenizers.items()}
        task.resolve(other.experiment.model, data, sizes)
    except ValueError as error:
        raise ValueError(f"{other.directory} cannot decode with {run.directory}: {error}") from error


def check_evaluation(run: Run, split: str) -> tuple[EncodedExamples, dict[str, int]]:
    """Encodes the examples of a split into the run's cache; returns them and how many were skipped, by reason.

    Raises ValueError or FileNotFoundError, with one line, where their scores could not be computed after training.
    """
    task, data = run.experiment.task, run.experiment.data
    examples, skipped = run.examples(split)
    try:
        if not examples:
            raise ValueError("there are none; leave the split out")
        encoded = encoded_examples(run, examples, keep=True)
        task.check_evaluation(run.tokenizers, encoded, max_length=data.max_length)
    except (ImportError, ValueError) as error:
        why = f"a package is missing: {error}" if isinstance(error, ImportError) else error
        raise ValueError(f"the {split} examples cannot be scored: {why}") from error
    return encoded, skipped


def evaluation_plan(experiment: Experiment, lengths: Int[np.ndarray, "rows columns"], devices: int) -> Plan:
    """The batches that have every row of a table once, in order, each no larger than a micro-batch of training."""
    data, multiple = experiment.data, devices
    # A plan of single rows rounds lengths up to multiples of at most 8.
    longest = data.max_length if experiment.task.packed else int(lengths.max()) + 7
    tokens = data.tokens_per_batch // experiment.train.accumulate
    size = {"tokens_per_batch": max(tokens, longest * multiple), "batch_multiple": multiple}
    if experiment.task.packed:
        return EveryToken(lengths[:, 0], length=data.max_length, **size)
    return BatchPlan(lengths, num_buckets=data.num_buckets, seed=SEED, shuffle=False, **size)


def encoded_examples(run: Run, examples: list[Example], *, keep: bool = False) -> EncodedExamples:
    """The examples with their table, which the run's cache may have; a new one is stored there only with `keep`.

    Raises ValueError for examples that cannot be encoded.
    """
    return EncodedExamples(examples, _table(run, "evaluation", digest(examples), lambda _: examples, keep))


def training_table(run: Run, text: str) -> Table:
    """The table of the examples to learn from, kept in the run's cache; `text` is their fingerprint."""
    task, source = run.experiment.task, run.experiment.data.source
    return _table(run, "train", text, lambda skipped: task.readable(source.examples("train"), skipped), keep=True)


def _table(run: Run, name: str, text: str, read: Callable[[Counter[str]], Iterable[Example]], keep: bool) -> Table:
    """The table of the examples that `read` gives, which counts those that it skips.

    The file's name changes with the examples' fingerprint `text`, the vocabularies and the task's encoding.
    """
    task, data = run.experiment.task, run.experiment.data
    max_length = None if task.packed else data.max_length
    skipped: Counter[str] = Counter()

    def encode(chunk: list[Example]) -> dict[str, Any]:
        return task.encode(run.tokenizers, chunk, max_length=data.max_length)

    vocabularies = {feature: tokenizer.fingerprint for feature, tokenizer in run.tokenizers.items()}
    probes = encode(list(itertools.islice(read(Counter()), PROBES)))
    key = digest([text, max_length, data.max_length, vocabularies, str(task.columns), probes])
    file = f"{name}-{key}.arrow"
    with TemporaryDirectory() as temporary:  # a table that is open can still be read when its file is deleted
        kept = keep or (run.cache / file).is_file()
        path = (run.cache if kept else Path(temporary)) / file
        return encode_table(read(skipped), encode, task.columns, max_length=max_length, path=path, skipped=skipped)
