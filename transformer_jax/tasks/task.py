"""A task: the part of a run that knows what is learnt."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind, readable
from transformer_jax.data.pipeline import Batch, empty_batch
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.data.vocabulary import VocabularyConfig

Tokenizers = Mapping[str, Any]
"""The `Tokenizer` of every feature of text, the same object where they share a vocabulary; `Labels` of others."""
COUNTS = ("examples", "skipped", "tokens")
"""Names in the result of `evaluate` that are no metrics: how much was scored and how many examples were skipped."""
Sums = dict[str, tuple[Array, Array]]
"""Each metric as (sum, weight), so that micro-batches and devices add up and are divided once."""


def resolved(task: "Task", model: Any, kind: type, data: DataConfig, vocab_size: int, **changes: Any) -> Any:
    """The model's configuration with its vocabulary size and other `changes`.

    Raises ValueError for a model of another kind than `kind`, a vocabulary size or number of outputs that is set
    already, learned positions that do not reach, and separate vocabularies of features that are read as one sequence.
    """
    name = type(task).__name__
    if not isinstance(model, kind):
        raise ValueError(f"{name} needs a model of the kind {kind.__name__}, not {type(model).__name__}")
    if not data.shared_vocabulary and list(task.vocabularies(data).values()).count(data.tokenizer) > 1:
        raise ValueError(f"{name} needs data.shared_vocabulary: its texts are one sequence")
    reach = model.reach()
    if reach is not None and reach < data.max_length:
        raise ValueError(f"model.max_length {model.max_length} is below data.max_length {data.max_length}; raise it")
    if model.vocab_size not in (0, vocab_size):
        raise ValueError("model.vocab_size follows from the tokenizer; set data.tokenizer.vocab_size instead")
    if "num_outputs" in changes and model.num_outputs not in (0, changes["num_outputs"]):
        raise ValueError(f"model.num_outputs follows from the data, {changes['num_outputs']}; leave it out")
    return replace(model, vocab_size=vocab_size, **changes)


def means_of(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Each metric's sum over its weight."""
    return {name: total / max(weight, 1) for name, (total, weight) in sums.items()}


@dataclass(frozen=True)
class Task:
    """From examples to loss, metrics and predictions. A task of your own overrides these methods."""

    features: ClassVar[tuple[str, ...]] = ()
    """The keys of an example's values; an example with an empty value is skipped."""
    packed: ClassVar[bool] = False
    """Whether examples are laid end to end in rows of data.max_length, rather than each in a row of its own."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """The kind of every feature's values."""
        return dict.fromkeys(self.features, "text")

    @property
    def columns(self) -> Columns:
        """The columns of `encode`: by default token ids of every feature."""
        return dict.fromkeys(self.features, Column())

    def readable(self, examples: Iterable[Example], skipped: Counter[str] | None = None) -> Iterator[Example]:
        """The examples that have all features, as their kinds; what is empty or undecodable is counted in `skipped`.

        Raises ValueError for a feature that is missing or of another kind.
        """
        return readable(examples, self.kinds, Counter() if skipped is None else skipped, type(self).__name__)

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        """The vocabularies of the features that become token ids or labels."""
        return dict.fromkeys(self.features, data.tokenizer)

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """The values of every column for some examples, such as token ids with special tokens.

        Unless examples are packed, those that are longer than `max_length` afterwards are skipped and counted. A task
        that gives several rows of an example adds `example`, the index of each row's example.
        """
        raise NotImplementedError

    def abstract_batch(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and types of a batch's arrays, to trace a step without data; found with bytes as tokens."""
        empty = empty_batch(self.columns, rows, length, packed=self.packed)
        batch = self.augment(empty, dict.fromkeys(self.features, Bytes(mask=True).train([])), seed=0, epoch=0)
        return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}

    def augment(self, batch: Batch, tokenizers: Tokenizers, *, seed: int, epoch: int) -> Batch:
        """A batch with what is drawn anew in every epoch, such as masks: a function of seed, epoch and examples."""
        return batch

    @property
    def resampled(self) -> Mapping[str, tuple[int, int]]:
        """Columns that `data.subword_sampling` cuts into other tokens: how many stand before and after a text's own."""
        return {}

    def input_of(self, model: Any, data: DataConfig) -> Any:
        """The model's input with what follows from the task; ValueError for a model that reads something else."""
        return model.input

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> Any:
        """The model's configuration with the sizes of the features' vocabularies filled in.

        Raises ValueError where the parts of an experiment contradict each other; it is called with made-up sizes
        before any text is read, so that such mistakes show at once.
        """
        raise NotImplementedError

    def loss(self, model: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """Sums and weights of `loss` (what is differentiated) and other metrics; `key=None` is evaluation."""
        raise NotImplementedError

    def longest(self, data: DataConfig) -> int:
        """Tokens of the longest example that there may be."""
        varying = self.packed or any(column.varying for column in self.columns.values())
        return data.max_length if varying else max(column.tokens for column in self.columns.values())

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """Tokens by which speed is measured: of packed rows all, or else the real ones of the last column that varies.

        Where none does, each example counts as the `Column.tokens` of its longest column.
        """
        if self.packed:
            return jnp.asarray(batch["tokens"].size)
        lengths = [batch[f"{name}_length"] for name in self.columns if f"{name}_length" in batch]
        if lengths:
            return jnp.sum(lengths[-1])
        return jnp.sum(batch["example"] >= 0) * max(column.tokens for column in self.columns.values())

    def predictor(self, model: Any, tokenizers: Tokenizers, data: DataConfig) -> Any:
        """The trained model as people use it: has `predict(lines) -> list[str]`."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """The metrics of an evaluation, and which values are better; `train.best` names one of them."""
        return {"loss": "lower"}

    def loss_metrics(self, sums: Mapping[str, tuple[float, float]], examples: Sequence[Example]) -> dict[str, Any]:
        """Metrics from the sums of `loss` over all examples: by default the loss without label smoothing."""
        means = means_of(sums)
        return {"loss": means.get("nll", means["loss"])}

    def evaluate(self, predictor: Any, examples: EncodedExamples) -> dict[str, Any]:
        """Metrics of the predictions for examples, such as `bleu`, and `COUNTS`; reported beside `loss_metrics`.

        What the model reads is in `examples.column(name)`, encoded already; references are in the examples themselves.
        """
        return {}

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        """Raises ValueError or ImportError where `evaluate` would for these examples, with no model yet.

        Called before the first step with the examples of every split that may be scored; a task whose scores need
        packages or downloads tries them here.
        """

    def samples(self, predictor: Any, examples: Sequence[Example]) -> list[str]:
        """Lines that show a person the predictions for some examples."""
        first, last = self.features[0], self.features[-1]
        predictions = predictor.predict([example[first] for example in examples])
        lines = []
        for example, prediction in zip(examples, predictions, strict=True):
            wrong = "" if prediction == example[last] else f"  (not {example[last]})"
            shown = example[first].name if isinstance(example[first], Path) else example[first]
            # Of a picture or a recording that is in no file of its own, the prediction alone.
            lines += [*([shown] if isinstance(shown, str) else []), f"  -> {prediction}{wrong}"]
        return lines


@dataclass(frozen=True)
class RunningText(Task):
    """Learns from documents `text`, packed end to end in rows of `data.max_length` tokens."""

    features: ClassVar[tuple[str, ...]] = ("text",)
    packed: ClassVar[bool] = True

    @property
    def columns(self) -> Columns:
        return {"tokens": Column()}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """A start token, the document, an end token."""
        tokenizer = tokenizers["text"]
        encoded = tokenizer.encode_batch([example["text"] for example in examples])
        return {"tokens": [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in encoded]}
